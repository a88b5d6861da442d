"""The options of an export to ONNX, checked before anything is read."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.batchnorm.epsilon import Epsilon, as_epsilon
from bnorm.transforms.fold.variances import BadVariance

HEAD_FORMS = ("boxes", "raw")

OPSET, OLDEST, NEWEST = 13, 11, 21  # by default; what the builders were written for and tested with

MOST_IMAGES = 65_536


class OnnxOptions(NamedTuple):
    """How a model becomes a graph; `batch` is None for any number of images.

    `layers` adds every layer's output to the outputs, to look for a difference.
    """

    epsilon: Epsilon
    bad_variance: BadVariance
    keep_batchnorm: bool
    opset: int
    head: str
    batch: int | None
    layers: bool


def onnx_options(
    *,
    epsilon: Epsilon | str,
    bad_variance: BadVariance | str,
    keep_batchnorm: bool,
    opset: int,
    head: str,
    batch: int | str,
    outputs: str,
) -> OnnxOptions:
    """Return the options; ValueError for one that is none, with what there is."""
    chosen = as_epsilon(epsilon)
    if keep_batchnorm and not chosen.inside:
        raise ValueError("epsilon outside the root, expected one inside: BatchNormalization knows no other; fold instead")
    if head not in HEAD_FORMS:
        raise ValueError(f"head {head!r}, expected one of {', '.join(HEAD_FORMS)}")
    if not OLDEST <= opset <= NEWEST:
        raise ValueError(f"opset {opset}, expected {OLDEST} to {NEWEST}")
    if outputs not in ("last", "layers"):
        raise ValueError(f"outputs {outputs!r}, expected one of last, layers")
    policies = [policy.value for policy in BadVariance]
    if bad_variance not in policies:
        raise ValueError(f"bad_variance {bad_variance!r}, expected one of {', '.join(policies)}")
    return OnnxOptions(
        epsilon=chosen,
        bad_variance=BadVariance(bad_variance),
        keep_batchnorm=keep_batchnorm,
        opset=opset,
        head=head,
        batch=_batch(batch),
        layers=outputs == "layers",
    )


def _batch(batch: int | str) -> int | None:
    """Return the number of images, None for `dynamic`."""
    if batch == "dynamic":
        return None
    text = str(batch)
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_IMAGES):
        raise ValueError(f"batch {batch!r}, expected 1 to {MOST_IMAGES}, or dynamic")
    return int(text)
