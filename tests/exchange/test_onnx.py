"""Export to ONNX: the graph computes what the network computes, or the layer that it cannot express is named."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm import CfgError, OutputError, ProofError, export, read_model
from bnorm.batchnorm.epsilon import as_epsilon
from bnorm.darknet.weights import open_weights
from bnorm.exchange.onnx.activations import FORMULAS
from bnorm.exchange.plain.forward import forward
from support.builders import cfg_source, write_weights
from support.golden import SHARED, needs_shared, sample

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OUTPUTS = sorted((SHARED / "golden" / "outputs").glob("*.npz")) if SHARED.is_dir() else []
FEW = ("tiny-yolov4", "yolov2-passthrough", "region-softmax", "yolo-new-coords", "shortcut-sizes", "reorg3d", "lrn")

# AlexeyAB's and hank's CPU code has no case for some activations and outputs zeros: the graph computes what they mean.
ZEROS = "quirk-zero-activation"


def run(path, image):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": image}), strict=True))


def gap(got, expected):
    """The largest difference, in relation to the largest value."""
    assert got.size == expected.size
    return np.abs(got.reshape(-1) - expected.reshape(-1)).max() / max(np.abs(expected).max(), 1e-30)


def network(folder, net, layers, dialect="alexeyab"):
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, layers))
    return read_model(cfg, write_weights(cfg, folder / "net.weights", dialect), dialect)


# --- against the forks' own programs ----------------------------------------------------------------------------------


def compare_with_fork(file, folder):
    with np.load(file) as archive:
        data = dict(archive)
    dialect = str(data["dialect"])
    (folder / "net.cfg").write_bytes(data["cfg"].tobytes())
    (folder / "net.weights").write_bytes(data["weights"].tobytes())
    model = read_model(folder / "net.cfg", folder / "net.weights", dialect)
    epsilon = "pjreddie-cpu" if dialect == "pjreddie" else "darknet"
    report = export(model, folder / "net.onnx", epsilon=epsilon, outputs="layers").details
    onnx.checker.check_model(str(folder / "net.onnx"), full_check=True)
    got = run(folder / "net.onnx", data["input"][np.newaxis])
    boxes = {name for name in data if name.startswith("boxes_")}
    for output in report.outputs:
        if output.kind == "boxes":
            expected = data[f"boxes_{output.layer:03}"]
            boxes.remove(f"boxes_{output.layer:03}")
            if output.name.startswith("region") and dialect != "pjreddie":  # where the fork says 1 for each objectness
                expected[:, 4] = got[output.name][:, 4]
        else:
            expected = data[f"out_{output.layer:03}"]
        assert gap(got[output.name], expected) < 1e-4, output.name
    assert not boxes
    with open_weights(model) as weights:
        for layer, _, y in forward(weights, as_epsilon(epsilon), data["input"]):
            assert gap(y, data[f"out_{layer.index:03}"]) < 1e-4, f"plain {layer.index}"


@needs_shared("golden/outputs")
@pytest.mark.parametrize("file", [file for file in OUTPUTS if file.name.startswith(FEW)], ids=lambda file: file.stem)
def test_some_networks_as_the_forks_compute_them(file, tmp_path):
    compare_with_fork(file, tmp_path)


@pytest.mark.slow
@needs_shared("golden/outputs")
@pytest.mark.parametrize("file", OUTPUTS, ids=lambda file: file.stem)
def test_all_networks_as_the_forks_compute_them(file, tmp_path):
    if file.name.startswith(ZEROS):
        pytest.skip("the fork's CPU code outputs zeros, which is not what the activation means")
    compare_with_fork(file, tmp_path)


# --- against the plain forward pass, where there is no data of the forks ----------------------------------------------

CONV = "convolutional filters={} size=3 pad=1 stride=2 activation=linear"
EXACT = [
    ("alexeyab", "3x9x8", "convolutional filters=4 size=3 stride=2 pad=1 batch_normalize=1 antialiasing=1 | connected"),
    ("alexeyab", "3x9x8", "convolutional filters=4 size=3 stride=2 pad=1 antialiasing=2 | maxpool antialiasing=1"),
    ("pjreddie", "3x9x8", "convolutional filters=4 size=3 pad=1 batch_normalize=1 activation=leaky binary=1"),
    ("alexeyab", "3x9x8", "convolutional filters=4 size=3 pad=1 activation=normalize_channels"),
    ("alexeyab", "3x9x8", "convolutional filters=4 size=3 pad=1 activation=normalize_channels_softmax"),
    ("alexeyab", "3x9x8", "convolutional filters=4 size=3 pad=1 activation=normalize_channels_softmax_maxval"),
    ("alexeyab", "3x9x8", "maxpool maxpool_depth=1 out_channels=2 | maxpool maxpool_depth=1 out_channels=5"),
    ("alexeyab", "4x3x3", "maxpool size=2 stride=2 padding=8"),
    ("alexeyab", "4x9x9", "maxpool size=1 stride=4 padding=0 | local_avgpool size=2 stride=3 padding=0"),
    ("alexeyab", "32x4x4", "reorg3d stride=2 reverse=1"),
    ("pjreddie", "8x4x4", "reorg flatten=1 | reorg extra=5 | connected output=3"),
    ("pjreddie", "5x4x4", "l2norm | logistic"),
    ("pjreddie", "4x5x7", "upsample stride=-2 scale=.5"),
    ("pjreddie", "4x8x8", f"{CONV.format(4)} | shortcut from=0 alpha=.5 beta=2 | upsample | shortcut from=0 alpha=.5"),
    ("pjreddie", "3x8x8", "convolutional filters=9 | yolo mask=0 num=1 classes=4 | shortcut from=1 activation=ramp"),
    ("pjreddie", "1x6x14", "convolutional filters=6 | region classes=1 num=1 | shortcut from=1"),
    ("alexeyab", "3x16x16", "local filters=4 size=3 stride=2 pad=1 activation=leaky"),
    ("alexeyab", "4x3x3", "convolutional filters=3 size=4 stride=2"),
    (
        "alexeyab",
        "3x16x16",
        f"{CONV.format(28)} | Gaussian_yolo mask=0,2 anchors=4,5,6,7,8,9 num=3 classes=5 scale_x_y=1.1",
    ),
    ("alexeyab", "3x16x16", f"{CONV.format(28)} | Gaussian_yolo num=2 classes=5 yolo_point=left_top"),
    (
        "pjreddie",
        "3x16x16",
        f"{CONV.format(8)} | connected output=135 | detection classes=5 coords=4 num=2 side=3 sqrt=1",
    ),
    ("alexeyab", "3x16x16", f"{CONV.format(8)} | connected output=63 | detection coords=4 classes=2 side=3 softmax=1"),
    ("pjreddie", "3x16x16", f"{CONV.format(26)} | region coords=7 classes=5 num=2 softmax=1 | convolutional filters=2"),
    ("alexeyab", "3x16x16", f"{CONV.format(20)} | region classes=5 num=2 softmax=1 | convolutional filters=2"),
    ("alexeyab", "3x16x16", f"{CONV.format(20)} | yolo classes=5 num=2 | convolutional filters=2"),
    ("alexeyab", "3x16x16", f"{CONV.format(10)} | yolo classes=0 num=2"),
    (
        "alexeyab",
        "3x6x7",
        "implicit filters=4 atoms=1 | implicit filters=3 atoms=1 | shortcut from=-1 | route layers=0,1",
    ),
    ("alexeyab", "12", "connected output=6 | softmax groups=2 temperature=2"),
]


@pytest.mark.parametrize(("dialect", "net", "layers"), EXACT, ids=[f"{case[0][:2]}-{case[2][:60]}" for case in EXACT])
def test_every_layer_equals_the_plain_forward_pass(dialect, net, layers, tmp_path):
    proof = export(network(tmp_path, net, layers, dialect), tmp_path / "net.onnx", outputs="layers").details.proof
    assert proof.worst is not None
    assert proof.worst < 1e-5


MIXED = (
    "convolutional filters=20 size=3 pad=1 batch_normalize=1 activation=mish stride=2 | implicit filters=20 | "
    "route layers=0 | avgpool | shortcut from=1 | scale_channels from=0 | upsample | "
    "convolutional filters=20 activation=normalize_channels | route layers=-2 | region classes=5 num=2 softmax=1 | "
    "route layers=0 | Gaussian_yolo num=2 classes=1 | route layers=0 | yolo num=2 classes=5 | connected output=5 | "
    "softmax"
)


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 17, 18, 19, 21])
def test_every_opset_gives_the_same(opset, tmp_path):
    details = export(network(tmp_path, "3x16x16", MIXED), tmp_path / "net.onnx", opset=opset).details
    assert details.proof.worst is not None
    written = onnx.load(tmp_path / "net.onnx")
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    assert written.ir_version == details.ir_version


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
@pytest.mark.parametrize("head", ["boxes", "raw"])
def test_batches_and_forms_of_heads(batch, head, tmp_path):
    details = export(network(tmp_path, "3x16x16", MIXED), tmp_path / "net.onnx", batch=batch, head=head).details
    assert details.proof.worst is not None
    size = None if batch == "dynamic" else batch
    shapes = {output.name: output.shape for output in details.outputs}
    rows = {"region_9": (512, 10), "Gaussian_yolo_11": (128, 6), "yolo_13": (128, 10)}
    planes = {"region_9": (20, 16, 16), "Gaussian_yolo_11": (20, 8, 8), "yolo_13": (20, 8, 8)}
    lead = () if batch == 1 and head == "boxes" else (size,)
    expected = {name: (*lead, *shape) for name, shape in (rows if head == "boxes" else planes).items()}
    assert shapes == expected | {"softmax_15": (size, 5)}


def test_a_batch_has_each_image_by_itself(tmp_path):
    model = network(tmp_path, "3x16x16", MIXED)
    export(model, tmp_path / "one.onnx")
    export(model, tmp_path / "many.onnx", batch="dynamic")
    images = np.random.default_rng(1).random((3, 3, 16, 16), np.float32)
    many = run(tmp_path / "many.onnx", images)
    for number in range(3):
        one = run(tmp_path / "one.onnx", images[number : number + 1])
        assert gap(many["yolo_13"][number], one["yolo_13"]) < 1e-6


def test_kept_batch_normalisation_is_an_operator(tmp_path):
    layers = "convolutional filters=4 size=3 pad=1 batch_normalize=1 | connected output=5 batch_normalize=1 | softmax"
    model = network(tmp_path, "3x16x16", layers)
    kept = export(model, tmp_path / "kept.onnx", keep_batchnorm=True, epsilon="keras").details
    folded = export(model, tmp_path / "folded.onnx", epsilon="keras").details
    assert "BatchNormalization" in kept.operators
    assert "BatchNormalization" not in folded.operators
    node = next(node for node in onnx.load(tmp_path / "kept.onnx").graph.node if node.op_type == "BatchNormalization")
    assert node.attribute[0].f == pytest.approx(1e-3)
    image = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    outputs = [run(tmp_path / name, image)["softmax_2"] for name in ("kept.onnx", "folded.onnx")]
    assert gap(*outputs) < 1e-5


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ("alexeyab", "rnn output=3", 5),
    ("alexeyab", "convolutional | lstm output=3", 6),
    ("alexeyab", "convolutional | gru output=3", 6),
    ("alexeyab", "crnn pad=1", 5),
    ("alexeyab", "conv_lstm pad=1", 5),
    ("alexeyab", "history", 5),
    ("alexeyab", "convolutional filters=4 xnor=1", 7),
    ("alexeyab", "convolutional filters=4 size=1 padding=1", 5),
    ("pjreddie", "convolutional filters=4 size=1 stride=2", 5),
    ("alexeyab", "convolutional filters=4 size=3 dilation=2", 5),
    ("alexeyab", "convolutional filters=4 groups=3", 7),
    ("alexeyab", "convolutional filters=4 dontload=1", 7),
    ("pjreddie", "convolutional filters=4 numload=2", 7),
    ("alexeyab", "reorg3d stride=2", 6),
    ("alexeyab", "softmax tree=tree.txt", 6),
    ("alexeyab", "softmax spatial=1", 6),
    ("alexeyab", "maxpool maxpool_zero_nonmax=1", 6),
    ("alexeyab", "crop crop_width=99 crop_height=2", 5),
    ("alexeyab", "activation activation=normalize_channels", 6),
    ("alexeyab", "local_avgpool size=2 padding=9", 7),
    ("alexeyab", "convolutional stride=2 size=3 pad=1 antialiasing=1 | connected | route layers=0", 11),
    ("alexeyab", "convolutional filters=7 | yolo classes=2 mask=5", 9),
    ("alexeyab", "convolutional filters=7 | region classes=2 classfix=-1", 9),
    ("alexeyab", "convolutional filters=7 | region classes=2 tree=tree.txt", 9),
    ("alexeyab", "convolutional filters=8 | region classes=2 coords=5", 9),
    ("alexeyab", "convolutional filters=5000 | lrn", 7),
]


@pytest.mark.parametrize(("dialect", "layers", "line"), REFUSED, ids=[case[1] for case in REFUSED])
def test_what_cannot_be_expressed_is_named_by_its_line(dialect, layers, line, tmp_path):
    model = network(tmp_path, "4x9x9", layers, dialect)
    with pytest.raises(CfgError) as error:
        export(model, tmp_path / "net.onnx")
    assert error.value.line == line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.cfg", "net.weights"]


def test_a_grid_of_gigabytes_is_refused_before_it_is_made(tmp_path):
    model = network(tmp_path, "1x30000x30000", "upsample stride=-2 | convolutional filters=5 | yolo num=1 classes=0")
    with pytest.raises(CfgError, match="450,000,000 values for the grid"):
        export(model, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        ("1x30000x30000", "upsample stride=-2 | avgpool"),
        ("400x600x600", "convolutional filters=1000 size=3 | avgpool"),
    ],
)
def test_a_pass_that_takes_too_much_is_not_run(net, layers, tmp_path):
    proof = export(network(tmp_path, net, layers), tmp_path / "net.onnx").details.proof
    assert proof.worst is None
    assert "more than" in proof.reason


def test_a_head_that_is_refused_can_be_left_as_it_is(tmp_path):
    model = network(tmp_path, "4x9x9", "convolutional filters=7 | region classes=2 tree=tree.txt")
    details = export(model, tmp_path / "net.onnx", head="raw").details
    assert details.outputs[0].shape == (1, 7, 9, 9)


@pytest.mark.parametrize(
    "option",
    [
        {"opset": 10},
        {"opset": 99},
        {"head": "box"},
        {"batch": 0},
        {"batch": "many"},
        {"batch": "²"},
        {"outputs": "all"},
        {"layers": [0]},
        {"keep_batchnorm": True, "epsilon": "pjreddie-cpu"},
        {"epsilon": "tiny"},
        {"names": "ultralytics"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_wrong_options(option, tmp_path):
    with pytest.raises(ValueError, match=r"expected|unknown"):
        export(network(tmp_path, "4x9x9", "convolutional"), tmp_path / "net.onnx", **option)
    assert not (tmp_path / "net.onnx").exists()


def test_no_file_beyond_two_gibibytes(tmp_path, monkeypatch):
    monkeypatch.setattr("bnorm.exchange.onnx.file.LIMIT", 500)
    with pytest.raises(OutputError, match="500"):
        export(network(tmp_path, "4x9x9", "convolutional filters=100"), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_graph_with_other_shapes_than_the_plan_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("bnorm.exchange.onnx.linear.window_end", lambda *_: 0)
    with pytest.raises(ProofError, match="shape"):
        export(network(tmp_path, "4x9x9", "convolutional size=3 pad=1 filters=2"), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_graph_with_other_values_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMULAS, "leaky", lambda graph, x: graph.unary("LeakyRelu", x, alpha=0.101))
    with pytest.raises(ProofError, match="differs"):
        export(network(tmp_path, "4x9x9", "convolutional activation=leaky filters=9"), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_same_bytes_every_time(tmp_path):
    model = network(tmp_path, "3x16x16", MIXED)
    for name in ("a.onnx", "b.onnx"):
        export(model, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_streamed_bytes_are_those_of_protobuf(tmp_path):
    export(network(tmp_path, "3x16x16", MIXED), tmp_path / "net.onnx")
    written = (tmp_path / "net.onnx").read_bytes()
    model = onnx.load_model_from_string(written)
    assert model.SerializeToString(deterministic=True) == written
    assert model.producer_name == "bnorm"
    assert {prop.key: prop.value for prop in model.metadata_props}["cfg"] == "net.cfg"


def test_initializers_are_named_as_in_the_cfg(tmp_path):
    model = network(
        tmp_path, "3x8x8", "convolutional filters=2 activation=linear | batchnorm | convolutional filters=3"
    )
    export(model, tmp_path / "net.onnx")
    arrays = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert arrays == {"0.weights": (2, 3, 1, 1), "0.biases": (2,), "2.weights": (3, 2, 1, 1), "2.biases": (3,)}


def test_outputs_have_the_numbers_of_the_given_cfg(tmp_path):
    model = network(tmp_path, "3x8x8", "batchnorm | convolutional filters=2 activation=linear | batchnorm | cost")
    (output,) = export(model, tmp_path / "net.onnx").details.outputs
    assert (output.name, output.layer) == ("batchnorm_2", 2)


@pytest.mark.parametrize("name", ["detector", "digits", "batchnorm", "deconvolution", "local", "shared", "weighted"])
def test_samples(name, tmp_path):
    proof = export(read_model(*sample(name)), tmp_path / "net.onnx").details.proof
    assert proof.worst is not None
    assert proof.worst < 1e-5
