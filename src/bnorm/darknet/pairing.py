"""The cfg and the weights among two files, and the cfg that belongs to a weights file by its name.

The content decides what a file is. darknet names weights after their cfg: `NAME_last.weights`, `NAME_1000.weights`,
`NAME.backup`; AlexeyAB's fork cuts NAME at its first dot. `darknet partial` writes `NAME.conv.15`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bnorm.darknet.foreign import is_cfg, is_weights
from bnorm.errors import BnormError, WeightsError
from bnorm.files import open_regular

SAMPLE = 1 << 16  # bytes at the start of a cfg that contain its first heading

_EXTENSION = re.compile(r"\.(?:weights|backup)$")

_TRAINED = re.compile(r"_(?:[0-9]+|last|best|final|ema)$")  # what a fork adds while it trains

_PARTIAL = re.compile(r"\.conv\.[0-9]+$")


class Pair(NamedTuple):
    """A cfg and its weights. `is_swapped`: given in reverse order; `is_named`: the cfg was found by its name."""

    cfg: Path | None
    weights: Path | None
    is_swapped: bool = False
    is_named: bool = False


def pair(first: Path, second: Path | None = None) -> Pair:
    """Return the pair; for weights alone, the cfg is the one with their name, None if there is none.

    `WeightsError` if several cfgs have that name.
    """
    if second is not None:
        swapped = _are_swapped(first, second)
        return Pair(second, first, is_swapped=True) if swapped else Pair(first, second)
    if not _is_loose_weights(first):
        return Pair(first, None)
    cfg = named_cfg(first)
    return Pair(cfg, first, is_named=cfg is not None)


def _are_swapped(first: Path, second: Path) -> bool:
    """Return whether the first file is not a cfg and the second is, or the first is weights and the second is not."""
    one, two = _sample(first), _sample(second)
    if not one or not two:
        return False
    return (is_cfg(two) and not is_cfg(one)) or (is_weights(one) and not is_weights(two))


def _is_loose_weights(path: Path) -> bool:
    """Return whether a single file is weights, by its content, or by its name if the content does not tell."""
    data = _sample(path)
    named = _EXTENSION.search(path.name) or _PARTIAL.search(path.name)
    return is_weights(data) or (bool(named) and not is_cfg(data))


def _sample(path: Path) -> bytes:
    """Return the beginning of a file; empty if it cannot be read, which is reported later, when it is opened."""
    try:
        with open_regular(path, BnormError) as file:
            return file.read(SAMPLE)
    except (BnormError, OSError):
        return b""


def named_cfg(weights: Path) -> Path | None:
    """Return the cfg named like these weights, in the same folder or in `../cfg`; `WeightsError` for several."""
    folders = (weights.parent, weights.parent / ".." / "cfg")
    cfgs = {
        path.resolve(): path
        for folder in reversed(folders)  # if one file has two paths, the shorter path is shown
        for path in sorted(folder.glob("*.cfg"))
        if _has_name(path, weights.name) and path.is_file()
    }
    if len(cfgs) > 1:
        names = ", ".join(sorted(map(str, cfgs.values())))
        what = f"{len(cfgs)} cfgs have its name, expected one: {names}"
        raise WeightsError(weights, what, cause="give CFG and WEIGHTS")
    return next(iter(cfgs.values()), None)


def _has_name(cfg: Path, weights: str) -> bool:
    whole = _EXTENSION.sub("", weights)
    stem = _TRAINED.sub("", _PARTIAL.sub("", whole))
    return cfg.stem in (whole, stem) or (bool(_TRAINED.search(whole)) and cfg.name.partition(".")[0] == stem)


def cfg_names(weights: Path) -> list[str]:
    """Return the names of a cfg that would be found for these weights."""
    whole = _EXTENSION.sub("", weights.name)
    stem = _TRAINED.sub("", _PARTIAL.sub("", whole))
    return [f"{name}.cfg" for name in dict.fromkeys((stem, whole))]
