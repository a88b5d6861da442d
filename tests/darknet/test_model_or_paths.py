"""`darknet.model_or_paths`: functions of a model take the paths of a cfg and its weights as well."""

from __future__ import annotations

import numpy as np
import pytest

import bnorm


def scales(*pair: object) -> list[float]:
    with bnorm.open_weights(*pair) as weights:
        return weights[0, "scales"].tolist()


CALLS = {
    "open_weights": scales,
    "inspect": lambda *pair: bnorm.inspect(*pair, [0], weights=True).layers[0].channels[""].folded_max.tolist(),
    "fold": lambda *pair: bnorm.fold(*pair, None, dry_run=True).layers,
    "run": lambda *pair: bnorm.run(*pair, 0, inputs="x.npy").results,
}


@pytest.fixture(autouse=True)
def tensor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((1, 4, 8, 8), "f4"))


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
@pytest.mark.parametrize("name", CALLS)
def test_two_paths_can_replace_a_model(tiny, name, kind):
    assert CALLS[name](*map(kind, tiny)) == CALLS[name](bnorm.read_model(*tiny))


def test_a_cfg_alone_can_be_inspected(tiny):
    assert bnorm.inspect(tiny[0]).fits is None


@pytest.mark.parametrize("wrong", [3, ["net.cfg"], {}])
@pytest.mark.parametrize("name", CALLS)
def test_anything_else_is_a_type_error(tiny, name, wrong):
    for arguments in ((wrong,), (tiny[0], wrong)):
        with pytest.raises(TypeError, match="expected a model, or the paths of a cfg and its weights"):
            CALLS[name](*arguments)


def test_a_path_for_the_weights_of_inspect_is_refused(tiny):
    with pytest.raises(TypeError, match="expected True or False"):
        bnorm.inspect(tiny[0], weights=tiny[1])
