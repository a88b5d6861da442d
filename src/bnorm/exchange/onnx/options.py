"""The options of an export to ONNX, checked before anything is read. Nothing here imports onnx."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon, as_epsilon

HEAD_FORMS = ("boxes", "raw")

SHOWN = ("last", "layers")

OPSET, OLDEST, NEWEST = 13, 11, 21  # by default; what the builders were written for and tested with

MOST_IMAGES = 65_536


class GraphChoices(NamedTuple):
    """The options that only a graph has; None is the default."""

    opset: int | None = None
    head: str | None = None
    batch: int | str | None = None
    outputs: str | None = None


class OnnxOptions(NamedTuple):
    """The options by which a model becomes a graph; `batch` is None for any number of images.

    `layers` makes every layer's output an output of the graph, to find where two programs begin to differ.
    """

    epsilon: Epsilon
    keep_batchnorm: bool
    opset: int
    head: str
    batch: int | None
    layers: bool
    verify: bool


def onnx_options(epsilon: Epsilon | str, *, keep_batchnorm: bool, verify: bool, choices: GraphChoices) -> OnnxOptions:
    """Return the options; ValueError for an invalid one, with the valid values."""
    chosen, opset = as_epsilon(epsilon), OPSET if choices.opset is None else choices.opset
    if keep_batchnorm and not chosen.inside:
        raise ValueError("epsilon is outside the root, expected inside, as in ONNX's BatchNormalization; fold instead")
    if not OLDEST <= opset <= NEWEST:
        raise ValueError(f"opset {opset}, expected {OLDEST} to {NEWEST}")
    return OnnxOptions(
        epsilon=chosen,
        keep_batchnorm=keep_batchnorm,
        opset=opset,
        head=one_of("head", choices.head, HEAD_FORMS),
        batch=_batch(1 if choices.batch is None else choices.batch),
        layers=one_of("outputs", choices.outputs, SHOWN) == "layers",
        verify=verify,
    )


def one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> str:
    """Return the value, by default the first that is allowed; ValueError for one that is not allowed."""
    if value is not None and value not in allowed:
        raise ValueError(f"{what} {value!r}, expected one of {', '.join(allowed)}")
    return allowed[0] if value is None else value


def _batch(batch: int | str) -> int | None:
    """Return the number of images, None for `dynamic`."""
    if batch == "dynamic":
        return None
    text = str(batch)
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_IMAGES):
        raise ValueError(f"batch {batch!r}, expected 1 to {MOST_IMAGES}, or dynamic")
    return int(text)
