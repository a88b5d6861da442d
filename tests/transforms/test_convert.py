"""`bnorm convert`: ε, headers, `seen`, unfolding, several changes at once, refusals, and the proof."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, parse_epsilon
from bnorm.checks.check import check
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from bnorm.errors import ProofError, WeightsError
from bnorm.transforms.convert import converted_model
from bnorm.transforms.convert.convert import convert
from bnorm.transforms.fold.fold import fold
from support.builders import BN, cfg_source, odd_pair, patch, write_weights
from support.forward import Run
from support.golden import MODELS, SHARED, needs_shared, sample
from support.oracle import ONE_ROUNDING

EPSILONS = ("--epsilon-from", "darknet", "--epsilon-to", "opencv")


def arrays_of(cfg: Path, weights: Path, dialect: str = "alexeyab") -> dict[tuple[int, str], np.ndarray]:
    with open_weights(read_model(cfg, weights, dialect)) as opened:
        opened.require_fit()
        return {(array.layer, array.name): opened.read(array) for array in opened.layout.arrays}


@pytest.fixture
def run(invoke, tiny, tmp_path):
    """Convert the tiny model into out.weights and out.cfg; returns the document."""

    def converted(*options: object, cfg: Path = tiny[0], weights: Path = tiny[1]) -> dict:
        arguments = ("-o", tmp_path / "out.weights", "--force", "--format", "json", *options)
        return json.loads(invoke("convert", cfg, weights, *arguments).stdout)

    return converted


# --- ε ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [*RUNTIMES, "0.5:outside"])
@pytest.mark.parametrize("new", [*RUNTIMES, "3e-2"])
def test_scales_are_those_with_which_the_other_epsilon_gives_the_same_gain(run, tiny, tmp_path, old, new):
    document = run("--epsilon-from", old, "--epsilon-to", new)
    before, after = arrays_of(*tiny), arrays_of(tmp_path / "out.cfg", tmp_path / "out.weights")
    variance = before[0, "rolling_variance"].astype("f8")
    factor = parse_epsilon(new).deviation(variance) / parse_epsilon(old).deviation(variance)
    expected = (before[0, "scales"] * factor).astype("f4")
    np.testing.assert_array_equal(after.pop((0, "scales")), expected)
    (layer,) = document["layers"]
    change = np.abs(expected / before.pop((0, "scales")).astype("f8") - 1).max()
    assert layer["scale_change"] == pytest.approx(change, rel=1e-6, abs=1e-12)
    assert layer["max_rel_error"] <= 2**-24
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() for key in before)
    assert (tmp_path / "out.cfg").read_bytes() == tiny[0].read_bytes()


def test_a_detector_computes_the_same_with_another_epsilon(tmp_path):
    """In float64, every layer of a network with shortcuts, routes and heads."""
    cfg, weights = sample("detector")
    convert(read_model(cfg, weights), tmp_path / "out.weights", epsilon_from="darknet", epsilon_to="keras")
    dialect = read_model(cfg, weights).dialect.name
    x = np.random.default_rng(0).random(read_model(cfg, weights).network.input[:3])
    (before,) = Run(cfg, weights, dialect, DARKNET).layers(x)
    (after,) = Run(tmp_path / "out.cfg", tmp_path / "out.weights", dialect, RUNTIMES["keras"]).layers(x)
    (other,) = Run(cfg, weights, dialect, RUNTIMES["keras"]).layers(x)
    gaps = [max(np.abs(y - x).max() for x, y in zip(before, layers, strict=True)) for layers in (after, other)]
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]


@needs_shared("models")
def test_opencv_agrees_with_darknet_on_a_file_that_was_rewritten_for_it(tmp_path):
    """Against the float64 forward pass with darknet's ε: within 5e-5, while the original file is off by 0.01."""
    cv2 = pytest.importorskip("cv2")
    cfg, weights = MODELS / "yolo-fastest-1.1.cfg", MODELS / "yolo-fastest-1.1.weights"
    convert(read_model(cfg, weights), tmp_path / "out.weights", epsilon_from="darknet", epsilon_to="opencv")
    x = np.random.default_rng(0).random((3, 320, 320), dtype=np.float32)
    heads = (120, 129)  # the convolutions before [yolo]
    (layers,) = Run(cfg, weights, "alexeyab", DARKNET).layers(x.astype("f8"))
    gaps = []
    for pair in ((cfg, weights), (tmp_path / "out.cfg", tmp_path / "out.weights")):
        net = cv2.dnn.readNetFromDarknet(*map(str, pair))
        net.setInput(x[np.newaxis])
        outputs = net.forward([f"conv_{layer}" for layer in heads])
        gaps.append(max(np.abs(out[0] - layers[layer]).max() for out, layer in zip(outputs, heads, strict=True)))
    assert gaps[1] < 5e-5 < 5e-3 < gaps[0]


BAD = {(0, "rolling_variance"): {0: -1.0, 2: np.nan, 3: np.inf}}


def bad_model(folder: Path):
    """Two normalised layers, the first with three variances that have no root."""
    return odd_pair(folder, f"convolutional {BN} filters=4 | convolutional {BN} filters=2", BAD)


def test_a_bad_variance_is_an_error_by_default(tmp_path):
    with pytest.raises(WeightsError, match=r"layer 0 rolling_variance is -1 in channel 0 and 2 more"):
        convert(bad_model(tmp_path), tmp_path / "o.weights", epsilon_from="darknet", epsilon_to="opencv")
    assert not (tmp_path / "o.weights").exists()


def test_a_bad_variance_is_written_as_the_nearest_valid_one(tmp_path):
    model = bad_model(tmp_path)
    report = convert(model, tmp_path / "o.weights", epsilon_from="darknet", epsilon_to="opencv", bad_variance="clamp")
    assert [(row.index, row.kinds, row.clamped) for row in report.layers] == [
        (0, ("scales", "clamped"), (0, 2, 3)),
        (1, ("scales",), ()),
    ]
    after = arrays_of(tmp_path / "o.cfg", tmp_path / "o.weights")
    variance = after[0, "rolling_variance"]
    assert (variance[0], variance[2], variance[3]) == (0, 0, np.finfo("f4").max)
    assert np.isfinite(after[0, "scales"]).all()


def test_a_layer_with_a_bad_variance_can_stay_unchanged(tmp_path):
    model = bad_model(tmp_path)
    report = convert(model, tmp_path / "o.weights", epsilon_from="darknet", epsilon_to="opencv", bad_variance="skip")
    assert [(row.index, row.kinds) for row in report.layers] == [(0, ()), (1, ("scales",))]
    assert "rolling_variance is -1" in report.layers[0].reason
    before, after = (
        arrays_of(tmp_path / "net.cfg", model.weights),
        arrays_of(tmp_path / "o.cfg", tmp_path / "o.weights"),
    )
    assert all(before[key].tobytes() == after[key].tobytes() for key in before if key[0] == 0)


@pytest.mark.parametrize(
    ("layers", "changes", "epsilons", "what"),
    [
        (f"convolutional {BN}", {(0, "scales"): {0: 3e38}}, ("1e-5", "1e3"), "its scales exceed float32"),
        (f"convolutional {BN} dontloadscales=1", {}, ("1e-5", "1e-6"), "its scales are not in the file"),
        (f"convolutional {BN} dontload=1", {}, ("1e-5", "1e-6"), "dontload: its values are not in the file"),
    ],
)
def test_scales_that_no_float32_holds_are_refused_by_layer(tmp_path, layers, changes, epsilons, what):
    model = odd_pair(tmp_path, layers, changes)
    with pytest.raises(WeightsError) as caught:
        convert(model, tmp_path / "o.weights", epsilon_from=epsilons[0], epsilon_to=epsilons[1])
    assert "cannot be converted exactly: layer 0: " in caught.value.what
    assert what in caught.value.what


@pytest.mark.parametrize("epsilons", [("0", "1"), ("1", "0")])
@pytest.mark.parametrize("policy", ["error", "clamp"])
def test_a_variance_of_0_is_refused_where_one_epsilon_is_0(tmp_path, epsilons, policy):
    model = odd_pair(tmp_path, f"convolutional {BN}", {(0, "rolling_variance"): {0: 0.0}})
    with pytest.raises(WeightsError, match=r"layer 0:? rolling_variance is 0"):
        convert(model, tmp_path / "o.weights", epsilon_from=epsilons[0], epsilon_to=epsilons[1], bad_variance=policy)


@pytest.mark.parametrize("epsilons", [("darknet", "pjreddie-cpu"), ("pjreddie-cpu", "darknet")])
def test_a_variance_that_is_bad_for_one_of_the_two_epsilons_is_bad(tmp_path, epsilons):
    """A rounding error of 0 is valid with ε inside the root, and gives NaN outside."""
    model = odd_pair(tmp_path, f"convolutional {BN}", {(0, "rolling_variance"): {0: -1e-9}})
    old, new = epsilons
    with pytest.raises(WeightsError) as caught:
        convert(model, tmp_path / "o.weights", epsilon_from=old, epsilon_to=new)
    assert "with ε outside the root it gives NaN" in caught.value.cause
    report = convert(model, tmp_path / "o.weights", epsilon_from=old, epsilon_to=new, bad_variance="clamp")
    assert report.layers[0].clamped == (0,)
    inside = convert(model, tmp_path / "p.weights", epsilon_from="darknet", epsilon_to="opencv")
    assert inside.layers[0].clamped == ()


def test_trailing_bytes_are_kept_or_dropped(tiny, tmp_path):
    with tiny[1].open("ab") as file:
        file.write(b"12345")
    model = read_model(*tiny)
    with pytest.raises(WeightsError):
        convert(model, tmp_path / "o.weights", seen=0)
    kept = convert(model, tmp_path / "kept.weights", seen=0, trailing="keep")
    dropped = convert(model, tmp_path / "dropped.weights", seen=0, trailing="drop")
    assert (kept.bytes_after - dropped.bytes_after, kept.bytes_before) == (5, model.nbytes)
    assert (tmp_path / "kept.weights").read_bytes() == (tmp_path / "dropped.weights").read_bytes() + b"12345"


@pytest.mark.parametrize("nbytes", [16, 20])
def test_a_header_that_its_version_does_not_fit_is_repaired_as_check_says(tiny, tmp_path, nbytes):
    cfg, weights = tiny
    sound = weights.read_bytes()
    weights.write_bytes(sound[:16] + sound[20:])  # a version for 20 bytes, and 16 of them
    (finding,) = check(cfg, weights).findings
    assert (finding.id, "bnorm convert --header 20" in finding.cause) == ("weights-header-offset", True)
    with pytest.raises(WeightsError):
        convert(read_model(cfg, weights), tmp_path / "o.weights", seen=0)
    report = convert(read_model(cfg, weights), tmp_path / "o.weights", header=nbytes)
    assert (report.header_before.nbytes, report.header_after.nbytes) == (16, nbytes)
    repaired = read_model(cfg, tmp_path / "o.weights")
    assert (repaired.fits, repaired.header.nbytes, repaired.header.seen) == (True, nbytes, report.header_before.seen)
    assert (tmp_path / "o.weights").read_bytes()[nbytes:] == sound[20:]


def test_the_converted_cfg_is_checked(tmp_path):
    model = odd_pair(tmp_path, f"convolutional {BN} nonsense=1", {})
    report = convert(model, None, dry_run=True, seen=0)
    assert [(finding.id, finding.layer) for finding in report.findings if "nonsense" in finding.message]


def test_scales_of_0_nan_and_the_smallest_numbers_are_rewritten_too(tmp_path):
    odd = {(0, "scales"): {0: 0.0, 1: -0.0, 2: 1e-45, 3: np.nan}, (0, "rolling_mean"): {2: 1e30}}
    model = odd_pair(tmp_path, f"convolutional {BN} filters=4", odd)
    report = convert(model, tmp_path / "o.weights", epsilon_from="keras", epsilon_to="pjreddie-cpu")
    assert report.layers[0].silent_channels == 1
    scales = arrays_of(tmp_path / "o.cfg", tmp_path / "o.weights")[0, "scales"]
    assert np.signbit(scales[:2]).tolist() == [False, True]
    assert np.isnan(scales[3])


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_header_of_20_bytes_becomes_one_of_16_and_comes_back(run, tiny, tmp_path):
    document = run("--header", 16, "--dialect", "alexeyab")
    data = (tmp_path / "out.weights").read_bytes()
    assert data[:16] == np.array([0, 1, 0, 12345], "<i4").tobytes()
    assert data[16:] == tiny[1].read_bytes()[20:]
    assert document["bytes_before"] - document["bytes_after"] == 4
    (tmp_path / "narrow.weights").write_bytes(data)
    run("--header", 20, "--dialect", "alexeyab", weights=tmp_path / "narrow.weights")
    assert (tmp_path / "out.weights").read_bytes() == tiny[1].read_bytes()


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_a_new_header_has_the_version_of_its_dialect(run, tmp_path, dialect):
    run("--header", 16, "--dialect", dialect)
    (tmp_path / "narrow.weights").write_bytes((tmp_path / "out.weights").read_bytes())
    after = run("--header", 20, "--dialect", dialect, weights=tmp_path / "narrow.weights")["header_after"]
    assert (after["minor"], after["revision"]) == (2, 0 if dialect == "pjreddie" else 5)


def test_more_images_than_16_bytes_hold_are_refused(invoke, tiny, tmp_path):
    arguments = ("convert", *tiny, "-o", tmp_path / "o.weights", "--header", 16, "--seen")
    invoke(*arguments, 2**31 - 1)
    error = invoke(*arguments, 2**31, "--force", exit_code=1).stderr
    assert "2,147,483,648 images seen, expected 0 to 2,147,483,647 in a header of 16 bytes" in error


def test_seen_alone_changes_8_bytes(run, tiny, tmp_path):
    run("--seen", 0)
    old = tiny[1].read_bytes()
    assert (tmp_path / "out.weights").read_bytes() == old[:12] + bytes(8) + old[20:]


def test_a_negative_seen_goes_to_20_bytes_with_a_new_one_only(invoke, tiny, tmp_path):
    old = tmp_path / "old.weights"
    old.write_bytes(np.array([0, 1, 0, -5], "<i4").tobytes() + tiny[1].read_bytes()[20:])
    arguments = ("convert", tiny[0], old, "-o", tmp_path / "o.weights", "--dialect", "pjreddie", "--header", 20)
    assert "-5 images seen, expected 0 to" in invoke(*arguments, exit_code=1).stderr
    invoke(*arguments, "--seen", 7)


# --- unfolding --------------------------------------------------------------------------------------------------------

NET = "convolutional filters=4 size=3 pad=1 | convolutional filters=18 activation=linear | yolo classes=1 num=3"


def write_net(folder: Path, layers: str, dialect: str = "alexeyab") -> tuple[Path, Path]:
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source("3x32x32", layers))
    return cfg, write_weights(cfg, folder / "net.weights", dialect)


@pytest.mark.parametrize("epsilon", [*RUNTIMES, "0.1:outside", "0"])
def test_bare_convolutions_get_the_identity_but_those_before_a_head(run, tmp_path, epsilon):
    cfg, weights = write_net(tmp_path, NET)
    document = run("--unfold", "--epsilon-to", epsilon, cfg=cfg, weights=weights)
    assert [(row["index"], row["kinds"], row["reason"]) for row in document["layers"]] == [
        (0, ["unfolded"], ""),
        (1, [], "before layer 2 ([yolo])"),
    ]
    after = arrays_of(tmp_path / "out.cfg", tmp_path / "out.weights")
    deviation = parse_epsilon(epsilon).deviation(after[0, "rolling_variance"].astype("f8"))
    np.testing.assert_allclose(deviation, 1, rtol=0, atol=2**-25)
    assert (after[0, "scales"] == 1).all()
    assert (after[0, "rolling_mean"] == 0).all()
    expected = cfg.read_text().replace("[convolutional]\n", "[convolutional]\nbatch_normalize=1\n", 1)
    assert (tmp_path / "out.cfg").read_text() == expected


def test_the_guard_of_darknet_is_exactly_1_in_float32(run, tmp_path):
    cfg, weights = write_net(tmp_path, NET)
    run("--unfold", cfg=cfg, weights=weights)
    variance = arrays_of(tmp_path / "out.cfg", tmp_path / "out.weights")[0, "rolling_variance"]
    assert (np.sqrt(variance + np.float32(1e-5)) == 1).all()


@pytest.mark.parametrize("name", ["darknet", "pjreddie-cpu", "opencv", "keras"])
def test_unfolding_then_folding_gives_the_same_bytes(tmp_path, name):
    """To the last bit: each gain is so close to 1 that no float32 changes."""
    cfg, weights = write_net(tmp_path, NET)
    convert(read_model(cfg, weights), tmp_path / "u.weights", unfold=True, epsilon_to=name)
    fold(read_model(tmp_path / "u.cfg", tmp_path / "u.weights"), tmp_path / "f.weights", epsilon=name)
    assert (tmp_path / "f.weights").read_bytes() == weights.read_bytes()
    assert (tmp_path / "f.cfg").read_bytes() == cfg.read_bytes()


@needs_shared("models")
def test_a_folded_detector_is_unfolded_and_folded_to_the_same_bytes(tmp_path):
    name = SHARED / "models" / "yolo-fastest-1.1"
    fold(read_model(f"{name}.cfg", f"{name}.weights"), tmp_path / "f.weights")
    convert(read_model(tmp_path / "f.cfg", tmp_path / "f.weights"), tmp_path / "u.weights", unfold=True)
    fold(read_model(tmp_path / "u.cfg", tmp_path / "u.weights"), tmp_path / "again.weights")
    for suffix in ("weights", "cfg"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"f.{suffix}").read_bytes()


@pytest.mark.parametrize("variance", [None, 0.0])
def test_opencv_computes_the_same_with_the_identity_and_not_with_the_variance_of_0_that_darknet_writes(
    tmp_path, variance
):
    cv2 = pytest.importorskip("cv2")
    cfg, weights = write_net(tmp_path, "convolutional activation=leaky filters=4 size=3 pad=1 | maxpool size=1")
    convert(read_model(cfg, weights), tmp_path / "u.weights", unfold=True, epsilon_to="opencv")
    if variance is not None:
        offset = read_model(tmp_path / "u.cfg", tmp_path / "u.weights").layout.array(0, "rolling_variance").offset
        patch(tmp_path / "u.weights", offset, *[variance] * 4)
    outputs = []
    for pair in ((cfg, weights), (tmp_path / "u.cfg", tmp_path / "u.weights")):
        net = cv2.dnn.readNetFromDarknet(*map(str, pair))
        net.setInput(np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32))
        outputs.append(net.forward())
    same = np.isfinite(outputs[1]).all() and np.abs(outputs[1] - outputs[0]).max() < 1e-5
    assert same == (variance is None)


@pytest.mark.parametrize(
    ("layers", "chosen", "unfolded"),
    [
        (NET, ("--layer", "1"), [1]),
        (NET, ("--layer", "0-2"), [0, 1]),
        ("convolutional filters=3 | convolutional filters=3 share_index=0 | convolutional", (), [0, 2]),
        ("convolutional dontload=1 | convolutional dontloadscales=1 | convolutional", (), [2]),
        (f"convolutional {BN} | connected output=2 | softmax", (), []),
        ("convolutional batch_normalize=0", (), [0]),
    ],
)
def test_which_layers_are_unfolded(run, tmp_path, layers, chosen, unfolded):
    cfg, weights = write_net(tmp_path, layers)
    document = run("--unfold", *chosen, "--dialect", "alexeyab", cfg=cfg, weights=weights)
    assert [row["index"] for row in document["layers"] if row["kinds"]] == unfolded
    assert all(row["reason"] for row in document["layers"] if not row["kinds"])


def test_layers_that_share_the_weights_of_an_unfolded_one_compute_the_same(run, tmp_path):
    cfg, weights = write_net(tmp_path, "convolutional filters=3 | convolutional filters=3 share_index=0")
    run("--unfold", "--dialect", "alexeyab", cfg=cfg, weights=weights)
    x = np.random.default_rng(0).standard_normal((3, 32, 32))
    pairs = ((cfg, weights), (tmp_path / "out.cfg", tmp_path / "out.weights"))
    (before,), (after,) = (Run(*pair, "alexeyab", DARKNET).layers(x) for pair in pairs)
    np.testing.assert_allclose(after[-1], before[-1], rtol=1e-7)


# --- together ---------------------------------------------------------------------------------------------------------


def test_all_at_once_is_one_after_the_other(run, tmp_path):
    layers = f"convolutional {BN} filters=2 dot=0 foo=1 | lstm output=4 | convolutional"
    cfg, weights = write_net(tmp_path, layers.replace(" | lstm output=4", " | convolutional filters=3"))
    tasks = [("--to", "pjreddie"), EPSILONS, ("--header", 16), ("--seen", 9), ("--unfold",)]
    together = [word for task in tasks for word in task]
    run(*together, "--dialect", "alexeyab", cfg=cfg, weights=weights)
    expected = [(tmp_path / f"out.{suffix}").read_bytes() for suffix in ("weights", "cfg")]
    options: dict = {"to": "pjreddie", "epsilon_from": "darknet", "epsilon_to": "opencv", "header": 16, "seen": 9}
    steps = [{"to": options["to"]}, {key: options[key] for key in ("epsilon_from", "epsilon_to")}]
    steps += [{"unfold": True, "epsilon_to": "opencv"}, {"header": 16}, {"seen": 9}]
    pair, dialect = (cfg, weights), "alexeyab"
    for number, step in enumerate(steps):
        output = tmp_path / f"{number}.weights"
        convert(read_model(*pair, dialect), output, **step)
        pair, dialect = (output.with_suffix(".cfg"), output), "pjreddie"
    assert [pair[1].read_bytes(), pair[0].read_bytes()] == expected


def test_a_conversion_to_the_same_fork_is_a_copy(run, tiny, tmp_path):
    document = run("--to", "alexeyab", "--dialect", "alexeyab")
    assert (tmp_path / "out.weights").read_bytes() == tiny[1].read_bytes()
    assert (document["layers"], document["cfg_changes"]) == ([], [])


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "nothing to convert"),
        (("--epsilon-from", "opencv"), "--epsilon-from needs --epsilon-to"),
        (("--epsilon-to", "opencv"), "--epsilon-to needs --epsilon-from"),
        (("--seen", "1", "--layer", "0"), "--layer needs --unfold"),
        (("--unfold", "--epsilon-to", "1.5"), "--unfold needs an ε below 1"),
        (("--seen", str(2**64)), "64 bits"),
        (("--header", "18"), "18"),
        (("--to", "auto"), "auto"),
    ],
)
def test_options_that_mean_nothing_are_refused(invoke, tiny, tmp_path, options, what):
    error = invoke("convert", *tiny, "-o", tmp_path / "o.weights", *options, exit_code=2).stderr
    assert what in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "nothing to convert"),
        ({"to": "auto"}, "expected one of alexeyab, hank, pjreddie"),
        ({"to": "caffe"}, "dialect 'caffe', expected one of"),
        ({"epsilon_from": "opencv"}, "epsilon_from alone"),
        ({"epsilon_to": "opencv"}, "epsilon_to alone"),
        ({"epsilon_from": "foo", "epsilon_to": "opencv"}, "epsilon 'foo'"),
        ({"header": 18}, "header 18, expected 16 or 20"),
        ({"seen": -1}, "seen -1"),
        ({"seen": 0, "layers": {0}}, "layers without unfold"),
        ({"unfold": True, "layers": {9}}, "layer 9, expected 0 to 1"),
        ({"unfold": True, "epsilon_to": "2"}, "ε of 2"),
        ({"seen": 0, "bad_variance": "foo"}, "bad_variance 'foo'"),
    ],
)
def test_the_library_refuses_the_same(tiny, tmp_path, arguments, what):
    with pytest.raises(ValueError, match=re.escape(what)):
        convert(read_model(*tiny), tmp_path / "o.weights", **arguments)
    assert not (tmp_path / "o.weights").exists()


def test_a_dry_run_reports_the_same_and_writes_nothing(invoke, tiny, tmp_path):
    before = set(tmp_path.iterdir())
    options = (*EPSILONS, "--unfold", "--format", "json")
    dry = json.loads(invoke("convert", *tiny, "--dry-run", *options).stdout)
    assert set(tmp_path.iterdir()) == before
    done = json.loads(invoke("convert", *tiny, "-o", tmp_path / "o.weights", *options).stdout)
    assert dry == done | {"output": None, "output_cfg": None}
    assert "--dry-run" in invoke("convert", *tiny, "--seen", 0, exit_code=2).stderr
    with pytest.raises(ValueError, match="expected an output, or a dry run"):
        convert(read_model(*tiny), None, seen=0)


def test_an_existing_output_is_refused_without_force_and_an_input_always(invoke, tiny, tmp_path):
    output = tmp_path / "o.weights"
    output.write_text("old")
    assert "exists already" in invoke("convert", *tiny, "-o", output, "--seen", 0, exit_code=1).stderr
    assert output.read_text() == "old"
    invoke("convert", *tiny, "-o", output, "--seen", 0, "--force")
    for name in tiny:
        assert "is an input" in invoke("convert", *tiny, "-o", name, "--seen", 0, "--force", exit_code=1).stderr


def test_a_file_that_does_not_fit_is_refused(invoke, tiny, tmp_path):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    error = invoke("convert", *tiny, "-o", tmp_path / "o.weights", "--seen", 0, exit_code=1).stderr
    assert "missing" in error


def test_no_verify_writes_the_same_and_says_so(run, tmp_path):
    document = run(*EPSILONS)
    data = (tmp_path / "out.weights").read_bytes()
    unproven = run(*EPSILONS, "--no-verify")
    assert (tmp_path / "out.weights").read_bytes() == data
    assert (document["verified"], unproven["verified"], unproven["worst"]) == (True, False, None)
    assert document["worst"]["layer"] == 0
    assert 0 < document["worst"]["max_rel_error"] < ONE_ROUNDING


def test_the_page_lists_the_changes(invoke, tiny, tmp_path):
    page = invoke("convert", *tiny, "-o", tmp_path / "o.weights", *EPSILONS, "--to", "pjreddie", "--unfold").stdout
    for text in ("changed layers", "dialect  alexeyab → pjreddie", "header   0.2.5, 20 bytes", "scales", "unfolded"):
        assert text in page
    assert max(map(len, page.splitlines()[1:])) <= 80


def test_csv_has_a_row_for_each_part(invoke, tiny):
    text = invoke("convert", *tiny, "--dry-run", *EPSILONS, "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["index"], row["type"], row["change"]) == ("0", "convolutional", "scales")


# --- the proof --------------------------------------------------------------------------------------------------------


def test_an_array_with_other_bits_is_a_defect(tiny, tmp_path, monkeypatch):
    before = set(tmp_path.iterdir())
    monkeypatch.setattr("bnorm.transforms.pair.write_block", lambda file, block: file.write((block * 2).tobytes()))
    with pytest.raises(ProofError, match="has changed, expected the same bits"):
        convert(read_model(*tiny), tmp_path / "o.weights", seen=0)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("factor", [1 + 2**-22, 1 - 2**-22, np.nan])
def test_a_scale_that_is_off_by_more_than_its_rounding_is_a_defect(tiny, tmp_path, monkeypatch, factor):
    right = converted_model.rescaled
    monkeypatch.setattr(converted_model, "rescaled", lambda *arguments: right(*arguments) * factor)
    kind = WeightsError if np.isnan(factor) else ProofError
    with pytest.raises(kind):
        convert(read_model(*tiny), tmp_path / "o.weights", epsilon_from="darknet", epsilon_to="keras")
    assert not (tmp_path / "o.weights").exists()


def test_an_identity_for_another_epsilon_is_a_defect(tiny, tmp_path, monkeypatch):
    right = converted_model.identity
    monkeypatch.setattr(converted_model, "identity", lambda channels, _: right(channels, RUNTIMES["keras"]))
    with pytest.raises(ProofError, match="layer 1 differs by"):
        convert(read_model(*tiny), tmp_path / "o.weights", unfold=True)


def test_every_value_is_counted_once_written_and_once_compared(tiny, tmp_path):
    told: list[tuple[int, int]] = []
    convert(read_model(*tiny), tmp_path / "o.weights", seen=0, advance=lambda *counts: told.append(counts))
    parameters = read_model(*tiny).layout.parameters
    assert told[-1] == (2 * parameters, 2 * parameters)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_document_has_the_keys_of_fold_s(run, invoke, tiny):
    document = run("--unfold")
    folded = json.loads(invoke("fold", *tiny, "--dry-run", "--format", "json").stdout)
    assert document.keys() >= folded.keys()
    assert document["layers"][0].keys() >= {"index", "type", "part", "reason", "max_abs_error", "max_rel_error"}
