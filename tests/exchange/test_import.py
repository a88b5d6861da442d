"""`bnorm.import_arrays`: names, order, rounding, ε, and what is refused (bnorm.exchange.importing and matching)."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bnorm
from bnorm.batchnorm.epsilon import DARKNET, Epsilon
from bnorm.exchange.importing import WAYS
from support.builders import cfg_source
from support.golden import sample


def back(model, output):
    """The arrays of the written file, by bnorm's names."""
    new = bnorm.read_model(model.network.text.path, output, model.dialect.name)
    with bnorm.open_weights(new) as weights:
        return {f"{array.layer}.{array.name}": weights.read(array) for array in new.layout.arrays}


def torch_names(arrays, convolution, norm):
    """The arrays by the names of a port, in the order of a state dict."""
    fields = [("weights", convolution, "weight"), ("scales", norm, "weight"), ("biases", norm, "bias")]
    fields += [("rolling_mean", norm, "running_mean"), ("rolling_variance", norm, "running_var")]
    found = {}
    for layer in sorted({name.split(".")[0] for name in arrays}, key=int):
        normalised = f"{layer}.scales" in arrays
        for field, module, name in fields:
            if f"{layer}.{field}" in arrays:
                module = module if normalised else convolution
                found[f"module_list.{layer}.{module.format(layer)}.{name}"] = arrays[f"{layer}.{field}"]
    return found


PORTS = {"ultralytics": ("Conv2d", "BatchNorm2d"), "eriklindernoren": ("conv_{}", "batch_norm_{}")}


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_of_bnorm(model, arrays, store, tmp_path):
    report = bnorm.import_arrays(model, store(tmp_path, arrays), tmp_path / "out.weights")
    assert report.names == "bnorm"
    assert (tmp_path / "out.weights").read_bytes()[20:] == model.weights.read_bytes()[20:]
    assert [row.source for row in report.arrays] == list(arrays)
    assert (report.heads, report.family_epsilon, report.ignored) == ((), None, ())


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("family", PORTS)
def test_names_of_ports(model, arrays, store, tmp_path, family, prefix):
    named = {f"{prefix}{name}": values for name, values in torch_names(arrays, *PORTS[family]).items()}
    bookkeeping = {f"{prefix}module_list.0.BatchNorm2d.num_batches_tracked": np.array(7), "anchors": np.ones((3, 2))}
    for names in ("auto", family):
        folder = tmp_path / names
        folder.mkdir()
        path = store(folder, named | bookkeeping)
        report = bnorm.import_arrays(model, path, folder / "out.weights", names=names)
        assert report.names == family
        assert set(report.ignored) == set(bookkeeping)
        assert (folder / "out.weights").read_bytes()[20:] == model.weights.read_bytes()[20:]


def test_order_and_kinds_by_names_of_any_program(model, arrays, store, tmp_path):
    """The layers' order is that of the numbers in the names, the kinds are told by the last word."""
    words = {"weights": "kernel", "scales": "gamma", "biases": "beta", "rolling_mean": "moving_mean"}
    words["rolling_variance"] = "moving_variance"
    fields = ("weights", "biases", "scales", "rolling_mean", "rolling_variance")
    named = {}
    for layer, number in ((0, 2), (1, 10)):
        for field in fields:
            if (name := f"{layer}.{field}") in arrays:
                named[f"backbone.{number}.{words[field]}"] = arrays[name]
    report = bnorm.import_arrays(model, store(tmp_path, named), tmp_path / "out.weights", names="order")
    assert (tmp_path / "out.weights").read_bytes()[20:] == model.weights.read_bytes()[20:]
    assert report.arrays[0].source == "backbone.2.beta"


def test_order_alone(model, arrays, tmp_path):
    np.savez(tmp_path / "arrays.npz", *arrays.values())
    bnorm.import_arrays(model, tmp_path / "arrays.npz", tmp_path / "out.weights", names="order")
    assert (tmp_path / "out.weights").read_bytes()[20:] == model.weights.read_bytes()[20:]


def test_a_prefix_that_makes_two_names_one_is_refused(model, arrays, store, tmp_path):
    named = torch_names(arrays, *PORTS["ultralytics"])
    first = next(iter(named))
    with pytest.raises(bnorm.TensorError, match="twice"):
        bnorm.import_arrays(model, store(tmp_path, named | {f"ema.{first}": named[first]}), tmp_path / "out.weights")


def test_names_of_no_family_ask_for_order(model, arrays, store, tmp_path):
    named = {f"net.{name}": values for name, values in arrays.items()}
    with pytest.raises(bnorm.TensorError, match="names of no family") as error:
        bnorm.import_arrays(model, store(tmp_path, named), tmp_path / "out.weights")
    assert "--names order" in error.value.cause


# --- each array once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["auto", "order"])
def test_every_array_that_is_missing_is_named(model, arrays, store, tmp_path, names):
    for name in arrays:
        folder = tmp_path / f"{name}{names}"
        folder.mkdir()
        left = {other: values for other, values in arrays.items() if other != name}
        layer, array = name.split(".")
        last = array if array in ("scales", "rolling_mean", "rolling_variance") else None
        with pytest.raises(bnorm.TensorError, match="lacks layer") as error:
            bnorm.import_arrays(model, store(folder, left), folder / "out.weights", names=names)
        if names == "auto" or last:
            assert f"lacks layer {layer} {array}" in error.value.what
        assert not (folder / "out.weights").exists()


@pytest.mark.parametrize("names", ["bnorm", "ultralytics", "eriklindernoren", "order"])
def test_the_first_layers_alone_make_a_partial_file(model, arrays, store, tmp_path, names):
    given = torch_names(arrays, *PORTS[names]) if names in PORTS else arrays
    first = {name: values for name, values in given.items() if not name.removeprefix("module_list.").startswith("1.")}
    path = store(tmp_path, first)
    with pytest.raises(bnorm.TensorError, match="lacks layer 1"):
        bnorm.import_arrays(model, path, tmp_path / "out.weights", names=names)
    report = bnorm.import_arrays(model, path, tmp_path / "out.weights", names=names, partial=True)
    (tmp_path / "all").mkdir()
    whole = bnorm.import_arrays(
        model, store(tmp_path / "all", given), tmp_path / "whole.weights", names=names, partial=True
    )
    assert (report.ends_after, whole.ends_after) == (0, None)
    written = (tmp_path / "out.weights").read_bytes()
    assert report.nbytes == len(written)
    assert (tmp_path / "whole.weights").read_bytes()[: len(written)] == written


@pytest.mark.parametrize("names", ["bnorm", "order"])
def test_a_partial_file_has_whole_layers_and_no_gaps(model, arrays, store, tmp_path, tmp_path_factory, names):
    def folder():
        return tmp_path_factory.mktemp("given")

    for left_out in ("0.weights", "0.scales"):
        left = {name: values for name, values in arrays.items() if name != left_out}
        with pytest.raises(bnorm.TensorError):
            bnorm.import_arrays(model, store(folder(), left), tmp_path / "out.weights", names=names, partial=True)
    for extra in ("7.weights", "0.wf.weights"):
        more = arrays | {extra: np.ones((2, 2), "f4")}
        with pytest.raises(bnorm.TensorError):
            bnorm.import_arrays(model, store(folder(), more), tmp_path / "out.weights", names=names, partial=True)
    assert not (tmp_path / "out.weights").exists()


def test_the_command_says_where_a_partial_file_ends(invoke, tiny, arrays, store, tmp_path):
    first = {name: values for name, values in arrays.items() if name.startswith("0.")}
    path, output = store(tmp_path, first), tmp_path / "out.weights"
    printed = invoke("import", tiny[0], path, "-o", output, "--partial", columns="200").stdout
    assert "the file ends after layer 0, as NAME.conv.1 of darknet partial does" in printed


@pytest.mark.parametrize("extra", ["5.weights", "0.wf.weights", "1.scales"])
@pytest.mark.parametrize("names", ["auto", "order"])
def test_every_array_that_is_left_over_is_named(model, arrays, store, tmp_path, names, extra):
    path = store(tmp_path, arrays | {extra: np.ones((2, 2), "f4") if "weights" in extra else np.ones(2, "f4")})
    with pytest.raises(bnorm.TensorError) as error:
        bnorm.import_arrays(model, path, tmp_path / "out.weights", names=names)
    assert extra in error.value.what or names == "order"
    assert not (tmp_path / "out.weights").exists()


@pytest.mark.parametrize("names", ["bnorm", "order"])
def test_another_shape_is_an_error_that_names_both(model, arrays, store, tmp_path, names):
    turned = arrays | {"0.weights": arrays["0.weights"].transpose(2, 3, 1, 0).copy()}
    with pytest.raises(bnorm.TensorError, match=r"layer 0 weights is 0.weights of the shape \(3, 3, 3, 4\)") as error:
        bnorm.import_arrays(model, store(tmp_path, turned), tmp_path / "out.weights", names=names)
    assert "axes in another order" in error.value.cause


def test_a_fused_model_asks_for_a_folded_cfg(model, tmp_path):
    bnorm.export(model, tmp_path / "fused.npz", names="ultralytics", fold=True)
    with pytest.raises(bnorm.TensorError, match="lacks layer 0") as error:
        bnorm.import_arrays(model, tmp_path / "fused.npz", tmp_path / "out.weights")
    assert "bnorm fold" in error.value.cause


def test_a_layer_without_names_in_a_family_asks_for_order(tmp_path):
    model = bnorm.read_model(*sample("digits"))
    np.savez(tmp_path / "arrays.npz", **{"module_list.0.Conv2d.weight": np.ones(1)})
    with pytest.raises(bnorm.TensorError, match=r"\[connected\]") as error:
        bnorm.import_arrays(model, tmp_path / "arrays.npz", tmp_path / "out.weights")
    assert "--names order" in error.value.cause


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_are_rounded_once_and_the_largest_change_is_told(model, arrays, store, tmp_path, dtype):
    rng = np.random.default_rng(1)
    given = {
        name: (values * (1 + 1e-9 * rng.normal(size=values.shape))).astype(dtype) for name, values in arrays.items()
    }
    report = bnorm.import_arrays(model, store(tmp_path, given), tmp_path / "out.weights")
    found = back(model, tmp_path / "out.weights")
    for row in report.arrays:
        exact = given[row.source]
        assert np.array_equal(found[row.source], exact.astype("f4"))
        change = np.abs(exact.astype("f4").astype(np.float64) / exact.astype(np.float64) - 1).max()
        assert row.rounding == (change if dtype == "float64" else 0)
        assert row.dtype == dtype


def test_bfloat16_is_read_exactly(model, arrays, tmp_path):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    given = {name: torch.from_numpy(np.ascontiguousarray(values)).bfloat16() for name, values in arrays.items()}
    save(given, tmp_path / "arrays.safetensors")
    bnorm.import_arrays(model, tmp_path / "arrays.safetensors", tmp_path / "out.weights")
    for name, values in back(model, tmp_path / "out.weights").items():
        assert np.array_equal(values, given[name].float().numpy())


def test_a_value_beyond_float32_is_an_error_and_infinity_is_counted(model, arrays, store, tmp_path):
    odd = {name: values.astype("f8") for name, values in arrays.items()}
    odd["1.biases"][1] = np.inf
    for folder, value in (("inf", np.inf), ("large", 1e39)):
        (tmp_path / folder).mkdir()
        odd["1.biases"][0] = value
        path, output = store(tmp_path / folder, odd), tmp_path / folder / "out.weights"
        if value == np.inf:
            assert [row.not_finite for row in bnorm.import_arrays(model, path, output).arrays][-2:] == [2, 0]
        else:
            with pytest.raises(bnorm.TensorError, match="layer 1 biases exceeds float32"):
                bnorm.import_arrays(model, path, output)
            assert not output.exists()


def test_the_header_is_that_of_a_new_file(model, arrays, store, tmp_path):
    report = bnorm.import_arrays(model, store(tmp_path, arrays), tmp_path / "out.weights", seen=2**40)
    new = bnorm.read_model(model.network.text.path, tmp_path / "out.weights")
    assert (new.header, new.fits) == (report.header, True)
    assert (new.header.version, new.header.seen) == ("0.2.5", 2**40)


# --- ε ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", ["1e-4", "1e-3", "keras", "1e-6:outside", "darknet"])
def test_scales_are_rewritten_so_that_darknet_computes_the_same(model, arrays, store, tmp_path, epsilon):
    report = bnorm.import_arrays(model, store(tmp_path, arrays), tmp_path / "out.weights", epsilon=epsilon)
    found = back(model, tmp_path / "out.weights")
    variance = arrays["0.rolling_variance"].astype(np.float64)
    gain = arrays["0.scales"] / report.epsilon.deviation(variance)
    new = found["0.scales"] / DARKNET.deviation(variance)
    assert new == pytest.approx(gain, rel=1e-7)
    same = {name for name in arrays if np.array_equal(found[name], arrays[name])}
    assert same | {"0.scales"} == arrays.keys()
    change = np.abs(found["0.scales"] / arrays["0.scales"].astype(np.float64) - 1).max()
    assert [row.rescaled for row in report.arrays if row.rescaled is not None] == [change]


@pytest.mark.parametrize("variance", [-1e-3, np.nan, np.inf])
def test_another_epsilon_needs_variances_with_a_root(model, arrays, store, tmp_path, variance):
    arrays["0.rolling_variance"][2] = variance
    path = store(tmp_path, arrays)
    with pytest.raises(bnorm.TensorError, match=r"layer 0 rolling_variance is \S+ in channel 2, expected finite"):
        bnorm.import_arrays(model, path, tmp_path / "out.weights", epsilon="1e-4")
    bnorm.import_arrays(model, path, tmp_path / "out.weights")


def test_a_scale_that_no_float32_can_replace_is_an_error(model, arrays, store, tmp_path):
    arrays["0.rolling_variance"][0], arrays["0.scales"][0] = 0, 3e38
    path = store(tmp_path, arrays)
    with pytest.raises(bnorm.TensorError, match="layer 0 scales exceeds float32"):
        bnorm.import_arrays(model, path, tmp_path / "out.weights", epsilon=Epsilon(1e-12, inside=True))


NET = cfg_source(
    "3x16x16",
    "convolutional batch_normalize=1 filters=8 size=3 pad=1 activation=leaky | "
    "convolutional batch_normalize=1 filters=6 size=3 stride=2 pad=1 activation=relu | "
    "convolutional batch_normalize=1 filters=5 size=1 activation=leaky | "
    "convolutional filters=4 size=1 activation=linear",
)


SHAPES = ((3, 8, 3, 1, "leaky"), (8, 6, 3, 2, "relu"), (6, 5, 1, 1, "leaky"), (5, 4, 1, 1, ""))


def port(torch, variance):
    """Return a network of the ultralytics family with ε = 1e-4, and rolling variances of about this size."""
    activations = {"leaky": torch.nn.LeakyReLU(0.1), "relu": torch.nn.ReLU(), "": torch.nn.Identity()}
    network = torch.nn.Module()
    network.module_list = torch.nn.ModuleList()
    for channels, filters, size, stride, activation in SHAPES:
        block = torch.nn.Sequential()
        block.add_module("Conv2d", torch.nn.Conv2d(channels, filters, size, stride, size // 2, bias=not activation))
        if activation:
            norm = torch.nn.BatchNorm2d(filters, eps=1e-4)
            torch.nn.init.uniform_(norm.weight, variance**0.5 / 2, variance**0.5)
            torch.nn.init.normal_(norm.bias)
            torch.nn.init.normal_(norm.running_mean, std=0.1)
            torch.nn.init.uniform_(norm.running_var, variance / 10, variance)
            block.add_module("BatchNorm2d", norm)
        block.add_module("activation", activations[activation])
        network.module_list.append(block)
    return network.eval()


@pytest.fixture
def ported(tmp_path):
    """Import a port's state dict with this ε; return PyTorch's output and a function for that of OpenCV 4."""
    torch = pytest.importorskip("torch")
    cv2 = pytest.importorskip("cv2")
    save = pytest.importorskip("safetensors.torch").save_file
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("OpenCV 5 has no importer for darknet")

    def run(variance, epsilon):
        torch.manual_seed(0)
        network, x = port(torch, variance), torch.rand(1, 3, 16, 16)
        with torch.no_grad():
            expected = torch.nn.Sequential(*network.module_list)(x).numpy()
        save(network.state_dict(), tmp_path / "port.safetensors")
        (tmp_path / "net.cfg").write_text(NET)
        model = bnorm.read_model(tmp_path / "net.cfg")
        report = bnorm.import_arrays(model, tmp_path / "port.safetensors", tmp_path / "net.weights", epsilon=epsilon)
        assert (report.names, report.family_epsilon) == ("ultralytics", 1e-4)

        def difference(name):
            net = cv2.dnn.readNetFromDarknet(str(tmp_path / f"{name}.cfg"), str(tmp_path / f"{name}.weights"))
            net.setInput(x.numpy())
            return np.abs(net.forward() - expected).max()

        return difference

    return run


def test_a_port_in_pytorch_gives_the_same_in_opencv(ported):
    assert ported(1.0, "1e-4")("net") < 1e-4


@pytest.mark.parametrize("epsilon", ["1e-4", None])
def test_small_variances_need_the_epsilon_of_the_port(ported, tmp_path, epsilon):
    """OpenCV adds 1e-6, and not the ε that the file is for now: the pair is folded."""
    difference = ported(1e-2, epsilon)
    bnorm.fold(bnorm.read_model(tmp_path / "net.cfg", tmp_path / "net.weights"), tmp_path / "folded.weights")
    assert (difference("folded") < 1e-4) == (epsilon is not None)


# --- notes ------------------------------------------------------------------------------------------------------------

YOLO = "convolutional filters=21 activation=linear | yolo mask=0,1,2 classes=2"


@pytest.mark.parametrize("family", PORTS)
def test_heads_and_epsilon_of_a_family_are_noted(invoke, tmp_path, family):
    (tmp_path / "net.cfg").write_text(cfg_source("3x16x16", f"{YOLO} | route layers=0 | {YOLO} new_coords=1"))
    model = bnorm.read_model(tmp_path / "net.cfg")
    words = {"weights": "weight", "biases": "bias"}
    named = {
        f"module_list.{array.layer}.{PORTS[family][0].format(array.layer)}.{words[array.field]}": np.ones(array.shape)
        for array in model.layout.arrays
    }
    np.savez(tmp_path / "arrays.npz", **named)
    out = tmp_path / "out.weights"
    printed = invoke("import", tmp_path / "net.cfg", tmp_path / "arrays.npz", "-o", out, columns="400").stdout
    assert "the [yolo] layers 1 of the cfg need new_coords=1" in printed
    assert ("--epsilon 0.0001" in printed) == (family == "ultralytics")
    report = bnorm.import_arrays(model, tmp_path / "arrays.npz", out, force=True)
    assert report.heads == (1,)


# --- arguments and the command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{"names": "keras"}, {"seen": -1}, {"seen": 2**64}, {"epsilon": "tensorflow"}])
def test_arguments_are_checked_before_anything_is_read(model, tmp_path, choices):
    with pytest.raises(ValueError, match="expected"):
        bnorm.import_arrays(model, tmp_path / "missing.npz", tmp_path / "out.weights", **choices)


def test_an_unknown_name_lists_the_known_ones(model, tmp_path):
    with pytest.raises(ValueError, match=", ".join(WAYS)):
        bnorm.import_arrays(model, tmp_path / "missing.npz", tmp_path / "out.weights", names="x")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".h5", ".bin"])
def test_pickles_are_refused_with_the_way_out(invoke, tiny, tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"\x80\x02")
    error = invoke("import", tiny[0], tmp_path / f"model{suffix}", "-o", tmp_path / "o.weights", exit_code=1).stderr
    assert len(error.splitlines()) == 2
    program = error.splitlines()[1].partition(": ")[2]
    assert "numpy.savez(" in program if suffix == ".h5" else "save_file(model.state_dict()" in program
    compile(program, "the way out", "exec")


@pytest.mark.parametrize("format_", ["table", "csv", "markdown", "json"])
def test_every_format_of_the_report(invoke, tiny, arrays, store, tmp_path, format_):
    path = store(tmp_path, {name: values.astype("f8") / 3 for name, values in arrays.items()})
    arguments = ("-o", tmp_path / "out.weights", "--epsilon", "1e-4", "--format", format_)
    printed = invoke("import", tiny[0], path, *arguments).stdout
    if format_ == "json":
        document = json.loads(printed)
        assert document["epsilon"] == {"value": 1e-4, "inside": True}
        assert document["arrays"][1]["rescaled"] > 0
        assert document["arrays"][0]["rounding"] > 0
        assert document["header"]["seen"] == 0


def test_a_plain_import_prints_one_line(invoke, tiny, arrays, store, tmp_path):
    printed = invoke("import", tiny[0], store(tmp_path, arrays), "-o", tmp_path / "out.weights", columns="300").stdout
    size = (tmp_path / "out.weights").stat().st_size
    assert printed.strip() == f"wrote 7 arrays in {size:,} bytes to {tmp_path / 'out.weights'}"


def test_it_can_be_quiet(invoke, tiny, arrays, store, tmp_path):
    assert invoke("import", tiny[0], store(tmp_path, arrays), "-o", tmp_path / "out.weights", "-q").stderr == ""


def test_an_input_is_never_the_output(model, arrays, store, tmp_path):
    path = store(tmp_path, arrays)
    inside = next(path.glob("*.npy")) if path.is_dir() else path
    for output in (inside, model.network.text.path):
        with pytest.raises(bnorm.OutputError, match="is an input"):
            bnorm.import_arrays(model, path, output, force=True)
