"""`bnorm convert --to`: every golden network to every fork and back, and the obstacles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import DARKNET
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.weights import open_weights
from bnorm.errors import BnormError
from bnorm.transforms.convert.convert import convert
from support.builders import BN, cfg_source, write_weights
from support.forward import Run
from support.golden import GOLDEN, SHARED, golden, needs_shared

# Networks that cannot be translated, by target: the layer, and a word about what would be lost.
REFUSED = {
    ("antialias", "pjreddie"): (0, "antialiasing"),
    ("batchnorm", "hank"): (0, "[batchnorm]"),
    ("conv_lstm", "hank"): (0, "[conv_lstm]"),
    ("conv_lstm", "pjreddie"): (0, "[conv_lstm]"),
    ("deconv", "alexeyab"): (1, "[deconvolutional]"),
    ("deconv", "hank"): (1, "[deconvolutional]"),
    ("geometry", "pjreddie"): (0, "stride_x"),
    ("gru", "hank"): (0, "[gru]"),
    ("implicit", "hank"): (1, "[implicit]"),
    ("implicit", "pjreddie"): (1, "[implicit]"),
    ("local", "hank"): (1, "[local]"),
    ("rnn_ab", "pjreddie"): (0, "input_layer has weights of (5, 9)"),
    ("route_groups", "pjreddie"): (1, "groups"),
    ("shared", "pjreddie"): (3, "share_index"),
    ("shortcut_weights", "pjreddie"): (3, "weights_type"),
    ("xnor", "pjreddie"): (0, "weights of (8, 8, 3, 3), in pjreddie of (8, 2, 3, 3)"),
    ("xnor_pj", "alexeyab"): (0, "weights of (8, 2, 3, 3), in alexeyab of (8, 8, 3, 3)"),
    ("xnor_pj", "hank"): (0, "weights of (8, 2, 3, 3), in hank of (8, 8, 3, 3)"),
}
BIASES = ("batchnorm.alexeyab", "pjreddie")  # the random biases of alexeyab's [batchnorm] are not 0

TOLD = {"crnn", "crnn_ab", "rnn"}  # cfgs in which the target needs values that the source implies


@pytest.mark.parametrize("to", sorted(DIALECTS))
def test_every_network_goes_to_every_fork_and_back_or_is_refused_by_layer(layout_case, tmp_path, to):
    name = layout_case.weights.stem.partition(".")[0]
    model = read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)
    there, back = tmp_path / "there.weights", tmp_path / "back.weights"
    if (layout_case.weights.stem, to) == BIASES or (name, to) in REFUSED:
        layer, what = REFUSED.get((name, to), (0, "biases of 3 channels are not 0"))
        with pytest.raises(BnormError) as caught:
            convert(model, there, to=to)
        assert f"layer {layer}: " in caught.value.what
        assert what in caught.value.what
        assert list(tmp_path.iterdir()) == []
        return
    convert(model, there, to=to)
    convert(read_model(tmp_path / "there.cfg", there, to), back, to=layout_case.dialect)
    assert back.read_bytes() == layout_case.weights.read_bytes()
    assert ((tmp_path / "back.cfg").read_bytes() == layout_case.cfg.read_bytes()) or name in TOLD


def convert_command(invoke, cfg: Path, weights: Path, folder: Path, *options: object) -> dict:
    """Convert into out.weights and out.cfg; return the document."""
    arguments = ("-o", folder / "out.weights", "--force", "--format", "json", *options)
    return json.loads(invoke("convert", cfg, weights, *arguments).stdout)


RECURRENT = [("lstm", "pjreddie", "alexeyab"), ("lstm", "alexeyab", "pjreddie"), ("lstm", "pjreddie", "hank")]
RECURRENT += [("gru", "pjreddie", "alexeyab"), ("gru", "alexeyab", "pjreddie"), ("rnn", "pjreddie", "alexeyab")]
RECURRENT += [("crnn", "pjreddie", "alexeyab"), ("crnn", "pjreddie", "hank"), ("crnn_ab", "alexeyab", "pjreddie")]


@pytest.mark.parametrize(("name", "old", "new"), RECURRENT)
def test_a_recurrent_network_computes_the_same_over_three_steps(tmp_path, name, old, new):
    case = golden(GOLDEN / "layouts" / f"{name}.{old}.json")
    convert(read_model(case.cfg, case.weights, old), tmp_path / "out.weights", to=new)
    before = Run(case.cfg, case.weights, old, DARKNET)
    after = Run(tmp_path / "out.cfg", tmp_path / "out.weights", new, DARKNET)
    rng, shape = np.random.default_rng(0), before.network.input
    size = shape[:3] if all(shape[:3]) else (shape.outputs, 1, 1)
    steps = [rng.standard_normal(size) for _ in range(3)]
    for ours, theirs in zip(before.layers(*steps), after.layers(*steps), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(np.ravel(other), np.ravel(one), rtol=1e-12, atol=1e-12)


def test_gates_that_are_not_moved_compute_something_else():
    """The test above can fail."""
    case = golden(GOLDEN / "layouts" / "lstm.pjreddie.json")
    x = np.random.default_rng(0).standard_normal((6, 1, 1))
    ours, theirs = (Run(case.cfg, case.weights, name, DARKNET).layers(x)[0][0] for name in ("pjreddie", "alexeyab"))
    assert np.abs(np.ravel(ours) - np.ravel(theirs)).max() > 0.01


def test_moved_gates_are_listed_by_part(invoke, tmp_path):
    case = golden(GOLDEN / "layouts" / "lstm.pjreddie.json")
    document = convert_command(invoke, case.cfg, case.weights, tmp_path, "--to", "hank")
    rows = [(row["index"], row["part"], row["kinds"]) for row in document["layers"]]
    assert rows == [(layer, part, ["moved"]) for layer in (0, 1) for part in "wf wi wg wo uf ui ug uo".split()]
    assert (document["dialect"], document["to"], document["verified"]) == ("pjreddie", "hank", True)
    assert document["header_after"] == {"major": 0, "minor": 2, "revision": 5, "seen": case.seen, "bytes": 20}


def test_a_batchnorm_with_biases_of_0_goes_to_pjreddie(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x4x4", f"convolutional {BN} filters=4 | batchnorm | connected output=2"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    model = read_model(cfg, weights, "alexeyab")
    offset = model.layout.array(1, "biases").offset
    weights.write_bytes(weights.read_bytes()[:offset] + bytes(16) + weights.read_bytes()[offset + 16 :])
    document = convert_command(invoke, cfg, weights, tmp_path, "--to", "pjreddie", "--dialect", "alexeyab")
    assert [row["kinds"] for row in document["layers"]] == [["biases removed"]]
    assert document["bytes_before"] - document["bytes_after"] == 16
    convert(
        read_model(tmp_path / "out.cfg", tmp_path / "out.weights", "pjreddie"), tmp_path / "b.weights", to="alexeyab"
    )
    assert (tmp_path / "b.weights").read_bytes() == weights.read_bytes()


@needs_shared("models")
@pytest.mark.parametrize("to", ["hank", "pjreddie"])
def test_a_real_detector_keeps_its_values_and_its_cfg(invoke, tmp_path, to):
    name = SHARED / "models" / "yolo-fastest-1.1"
    document = convert_command(invoke, f"{name}.cfg", f"{name}.weights", tmp_path, "--to", to)
    assert (tmp_path / "out.weights").read_bytes()[20:] == Path(f"{name}.weights").read_bytes()[20:]
    assert document["cfg_changes"] == []


# --- cfgs -------------------------------------------------------------------------------------------------------------


def translated(invoke, folder: Path, layers: str, old: str, new: str, net: str = "3x8x8") -> tuple[str, list[dict]]:
    """Return the cfg of these layers for another fork, and its changed lines."""
    cfg = folder / "net.cfg"
    cfg.write_bytes((cfg_source(net, layers) if "\n" not in layers else layers).encode())
    weights = write_weights(cfg, folder / "net.weights", old)
    document = convert_command(invoke, cfg, weights, folder, "--dialect", old, "--to", new)
    assert read_model(folder / "out.cfg", folder / "out.weights", new).fits
    return (folder / "out.cfg").read_bytes().decode(), document["cfg_changes"]


CONVOLUTION = "convolutional filters=2 activation=linear"


@pytest.mark.parametrize(
    ("layers", "old", "new", "before", "after"),
    [
        # options that hank refuses: unknown keys, duplicates, keys without their condition
        (f"{CONVOLUTION} foo=1", "alexeyab", "hank", "foo=1", ""),
        (f"{CONVOLUTION} filters=3", "alexeyab", "hank", "filters=3", ""),
        # lines that only the target would read
        (f"{CONVOLUTION} dilation=2", "pjreddie", "alexeyab", "dilation=2", ""),
        ("gru output=2 tanh=1", "alexeyab", "pjreddie", "tanh=1", ""),
        # activations that one of the forks reads as relu
        ("convolutional filters=2 activation=mish", "pjreddie", "alexeyab", "activation=mish", "activation=relu"),
        ("convolutional filters=2 activation=foo", "alexeyab", "hank", "activation=foo", "activation=relu"),
        # values that the target needs
        ("rnn output=5", "pjreddie", "alexeyab", "[rnn]", "[rnn]\nhidden=5"),
        (f"{CONVOLUTION} | {CONVOLUTION} | shortcut from=-2,-1", "pjreddie", "hank", "from=-2,-1", "from=-2"),
        (
            f"{CONVOLUTION} stride_x=2 stride_y=2",
            "alexeyab",
            "pjreddie",
            "[convolutional]",
            "[convolutional]\nstride=2",
        ),
    ],
)
def test_a_cfg_is_changed_where_the_target_would_read_it_in_another_way(
    invoke, tmp_path, layers, old, new, before, after
):
    text, changes = translated(invoke, tmp_path, layers, old, new)
    assert [(change["before"], change["after"]) for change in changes] == [(before, after)]
    lines = cfg_source("3x8x8", layers).splitlines()
    number = changes[0]["line"] - 1
    assert lines[number] == before
    assert text.splitlines() == [*lines[:number], *after.splitlines(), *lines[number + 1 :]]


def test_a_shortcut_with_weights_per_layer_is_one_per_feature(invoke, tmp_path):
    layers = f"{CONVOLUTION} | {CONVOLUTION} | shortcut from=-2 weights_type=per_layer weights_normalization=relu"
    _, changes = translated(invoke, tmp_path, layers, "alexeyab", "hank")
    assert [change["after"] for change in changes] == ["weights_type=per_feature"]


def test_comments_line_ends_and_blanks_that_the_target_reads_in_another_way_are_rewritten(invoke, tmp_path):
    source = (
        "[net] # the input\nwidth=8\nheight=8\nchannels = 3 # RGB\n; of a photo\n\n[convolutional] # one\nfilters = 2\n"
    )
    text, changes = translated(invoke, tmp_path, source, "hank", "alexeyab")
    assert text == "[net]\nwidth=8\nheight=8\nchannels=3\n; of a photo\n\n[convolutional]\nfilters = 2\n"
    assert [change["line"] for change in changes] == [1, 4, 7]


def test_a_comment_that_hank_reads_as_a_key_is_dropped(invoke, tmp_path):
    source = cfg_source("3x8x8", CONVOLUTION).replace("filters", ";filters=9\nfilters")
    text, changes = translated(invoke, tmp_path, source, "alexeyab", "hank")
    assert [change["before"] for change in changes] == [";filters=9"]
    assert ";" not in text


def test_line_ends_of_windows_are_lost_on_the_way_to_pjreddie(invoke, tmp_path):
    source = cfg_source("3x8x8", CONVOLUTION)
    text, _ = translated(invoke, tmp_path, source.replace("\n", "\r\n"), "alexeyab", "pjreddie")
    assert text == source


REFUSALS = [
    (f"{CONVOLUTION} dilation=2 size=3", "alexeyab", "pjreddie", "dilation=2"),
    ("convolutional filters=2 activation=mish", "alexeyab", "pjreddie", "activation=mish"),
    ("gru output=2 tanh=1", "pjreddie", "alexeyab", "tanh=1"),
    (f"{CONVOLUTION} | {CONVOLUTION} | shortcut from=-2 alpha=0.5", "pjreddie", "alexeyab", "alpha=0.5"),
    (f"{CONVOLUTION} | {CONVOLUTION} | shortcut from=-2,-1", "alexeyab", "pjreddie", "reads layers 0, 1"),
    ("convolutional filters=4 | route layers=-1 groups=2", "alexeyab", "pjreddie", "groups=2"),
    ("convolutional filters=18 | yolo classes=1 num=3 scale_x_y=1.2", "alexeyab", "pjreddie", "scale_x_y=1.2"),
    ("convolutional filters=18 | yolo classes=1 num=3", "alexeyab", "hank", "multiples of 32"),
    (f"{CONVOLUTION} numload=1", "pjreddie", "alexeyab", "numload=1"),
    ("convolutional stride=2.5x", "alexeyab", "hank", "stride"),
]


@pytest.mark.parametrize(("layers", "old", "new", "what"), REFUSALS)
def test_a_loss_is_named_with_its_layer_and_line(invoke, tmp_path, layers, old, new, what):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", layers))
    weights = write_weights(cfg, tmp_path / "net.weights", old)
    arguments = ("-o", tmp_path / "out.weights", "--dialect", old, "--to", new)
    error = invoke("convert", cfg, weights, *arguments, exit_code=1).stderr
    assert f"cannot be converted to {new} exactly: layer " in error
    assert what in error
    assert f"error: {cfg}:" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.cfg", "net.weights"]


def test_several_reasons_are_listed_after_the_first(invoke, tmp_path):
    case = golden(GOLDEN / "layouts" / "geometry.alexeyab.json")
    arguments = ("-o", tmp_path / "out.weights", "--to", "pjreddie", "--dialect", "alexeyab")
    first, cause = invoke("convert", case.cfg, case.weights, *arguments, exit_code=1).stderr.splitlines()
    assert "layer 0: stride_x=2" in first
    assert "layer 1: dilation=2" in cause
    assert "layer 3: maxpool_depth=1" in cause


def test_transposed_matrices_are_written_as_every_fork_writes_them(invoke, tmp_path, monkeypatch):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("12", f"connected {BN} output=5 activation=linear | connected output=3"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    model = read_model(cfg, weights, "alexeyab")
    with open_weights(model) as file:
        arrays = [(array, file.read(array)) for array in model.layout.arrays]
    turned = b"".join(np.ascontiguousarray(v.T if a.field == "weights" else v).tobytes() for a, v in arrays)
    old = tmp_path / "old.weights"
    old.write_bytes(np.array([0, 2000, 0, 77], "<i4").tobytes() + bytes(4) + turned)
    monkeypatch.setattr("bnorm.darknet.weights.STRIP", 24)
    document = convert_command(invoke, cfg, old, tmp_path, "--header", 20, "--dialect", "alexeyab")
    assert [row["kinds"] for row in document["layers"]] == [["transposed"], ["transposed"]]
    assert (tmp_path / "out.weights").read_bytes()[20:] == weights.read_bytes()[20:]
    convert_command(invoke, cfg, old, tmp_path, "--seen", 5, "--dialect", "alexeyab")
    assert (tmp_path / "out.weights").read_bytes()[20:] == turned  # its version says how they are stored


@pytest.mark.parametrize(("dialect", "ambiguous"), [("pjreddie", False), ("alexeyab", True)])
def test_a_version_that_names_another_fork_as_the_writer_of_gates_is_said(invoke, tmp_path, dialect, ambiguous):
    case = golden(GOLDEN / "layouts" / f"lstm.{dialect}.json")
    options = ("--header", 16, "--dialect", dialect, "--seen", 1)
    assert convert_command(invoke, case.cfg, case.weights, tmp_path, *options)["ambiguous_gates"] == ambiguous
    page = invoke("convert", case.cfg, case.weights, "--dry-run", *options).stdout
    assert ("read it with --dialect alexeyab" in " ".join(page.split())) == ambiguous


# --- results of the forks themselves ----------------------------------------------------------------------------------

OUTPUTS = SHARED / "golden" / "outputs"


def fork_pairs() -> list[tuple[str, str, str]]:
    """Every network that two forks computed, converted from one fork to the other."""
    forks: dict[str, list[str]] = {}
    for path in sorted(OUTPUTS.glob("*.npz")):
        name, fork = path.name[: -len(".npz")].rsplit(".", 1)
        forks.setdefault(name, []).append(fork)
    return [(name, a, b) for name, found in forks.items() for a in found for b in found if a != b]


@needs_shared("golden")
@pytest.mark.parametrize(("name", "old", "new"), fork_pairs())
def test_a_network_that_is_translated_is_one_of_which_both_programs_computed_the_same(tmp_path, name, old, new):
    """Up to the ε of pjreddie's CPU. The values of [region] are in another order, and some lack their activation."""
    ours, theirs = (np.load(OUTPUTS / f"{name}.{fork}.npz") for fork in (old, new))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_bytes(ours["cfg"].tobytes())
    weights.write_bytes(ours["weights"].tobytes())
    model = read_model(cfg, weights, old)
    convert(model, tmp_path / "out.weights", to=new)
    assert (tmp_path / "out.weights").read_bytes()[20:] == theirs["weights"].tobytes()[20:]
    assert (tmp_path / "out.cfg").read_bytes() == theirs["cfg"].tobytes()
    for layer in model.network.layers:
        if layer.type != "region":
            one, other = ours[f"out_{layer.index:03}"], theirs[f"out_{layer.index:03}"]
            np.testing.assert_allclose(other, one, rtol=0, atol=5e-3 * np.abs(one).max())
