"""`bnorm diff`: a verdict on two weights files, and each array that differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import groupby

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, as_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network
from bnorm.darknet.weights import Weights, open_weights
from bnorm.reports.diff.arrays import Comparable, Comparables, computed_arrays, stored_arrays
from bnorm.reports.diff.comparison import ArrayDifference, compare
from bnorm.transforms.pair import Meter, Progress

STATISTICS = ("rolling_mean", "rolling_variance")


class Verdict(StrEnum):
    """The kind of difference, in one word."""

    IDENTICAL = "identical"
    HEADER = "header"  # only the header
    ROLLING = "rolling"  # only rolling statistics, as in layers that were frozen
    PREFIX = "prefix"  # every layer after the first few, or one file ends there
    LAYERS = "layers"  # only some layers
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """Two models, and every array of either in the order of the file.

    `differing` are the layers with an array that differs. `same_until` is the last layer with arrays before the first
    differing layer, None if there is none. `left_over` are the bytes of each file after its last array. By `function`,
    headers do not count.
    """

    a: Model
    b: Model
    function: bool
    epsilons: tuple[Epsilon, Epsilon]
    verdict: Verdict
    same_until: int | None
    differing: tuple[int, ...]
    left_over: tuple[int, int]
    arrays: tuple[ArrayDifference, ...]

    @property
    def is_same(self) -> bool:
        """Return whether nothing differs."""
        return self.verdict is Verdict.IDENTICAL


@quiet
def diff(
    a: Model,
    b: Model,
    *,
    function: bool = False,
    epsilon: Epsilon | str = DARKNET,
    epsilon_b: Epsilon | str | None = None,
    advance: Progress | None = None,
) -> DiffReport:
    """Compare two models, each with its weights file, array by array.

    By default stored values are compared exactly. With `function`, the computation of the layers is compared: weights
    times gain and biases, as `fold` would write them, the first file with `epsilon`, the second with `epsilon_b` or the
    same ε; only a difference that the roundings of both do not explain counts. Files may end early, and have different
    headers and dialects.
    """
    epsilons = as_epsilon(epsilon), as_epsilon(epsilon if epsilon_b is None else epsilon_b)
    with ExitStack() as stack:
        files = [stack.enter_context(open_weights(model, allow_misfit=True)) for model in (a, b)]
        ours, theirs = (
            computed_arrays(weights, own) if function else stored_arrays(weights)
            for weights, own in zip(files, epsilons, strict=True)
        )
        meter = Meter(sum(item.array.size for item in ours.values()), advance)
        rows = tuple(_rows(a.network, b.network, ours, theirs, meter, exactly=not function))
        left_over = _left_over(files[0]), _left_over(files[1])
        same_end = function or _ends(files[0]) == _ends(files[1])
    differing = tuple(dict.fromkeys(row.layer for row in rows if not row.is_same))
    storing = list(dict.fromkeys(row.layer for row in rows))
    same_head = function or (a.header == b.header and same_end)
    return DiffReport(
        a=a,
        b=b,
        function=function,
        epsilons=epsilons,
        verdict=_verdict(rows, storing, differing, same_head),
        same_until=_same_until(storing, differing),
        differing=differing,
        left_over=left_over,
        arrays=rows,
    )


def _left_over(weights: Weights) -> int:
    return max(0, weights.nbytes - weights.layout.nbytes)


def _ends(weights: Weights) -> bytes:
    """Return the bytes after the last array; their number if there are too many to compare."""
    size = _left_over(weights)
    return weights.bytes_at(weights.layout.nbytes, size) if size < 1 << 20 else str(size).encode()


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(
    a: Network, b: Network, ours: Comparables, theirs: Comparables, meter: Meter, *, exactly: bool
) -> Iterator[ArrayDifference]:
    """Yield every array of A with its partner in B, and after each layer the arrays that only B has there."""
    partners = paired_layers(a, b)
    numbers = {other: own for own, other in partners.items()}
    wanted = dict(theirs)
    for layer, items in groupby(ours.items(), key=lambda pair: pair[0][0]):
        for (_, task, field), item in items:
            partner = wanted.pop((partners.get(layer, -1), task, field), None)
            yield _row(item, partner, exactly=exactly)
            meter.add(item.array.size)
        for key in [key for key in wanted if key[0] == partners.get(layer, -1)]:
            yield _alone(wanted.pop(key), layer, "is only in B")
    for (other, *_), item in wanted.items():
        yield _alone(item, numbers.get(other, other), "is only in B")


def paired_layers(a: Network, b: Network) -> dict[int, int]:
    """Return, for each layer of A, the layer of B that it is compared with, by matching the sequences of types."""
    types, types_b = ([layer.type for layer in network.layers] for network in (a, b))
    blocks = SequenceMatcher(None, types, types_b, autojunk=False).get_matching_blocks()
    return {block.a + number: block.b + number for block in blocks for number in range(block.size)}


def _row(a: Comparable, b: Comparable | None, *, exactly: bool) -> ArrayDifference:
    if b is None:
        return _alone(a, a.array.layer, "is only in A")
    reasons = [f"{name} {item.missing}" for name, item in (("A", a), ("B", b)) if item.missing]
    if a.array.shape != b.array.shape:
        reasons = [f"has the shape {_shape(a)} in A, {_shape(b)} in B"]
    if reasons:
        return _alone(a, a.array.layer, " and ".join(reasons))
    return compare(a, b, exactly=exactly)


def _shape(item: Comparable) -> str:
    return "x".join(map(str, item.array.shape))


def _alone(item: Comparable, layer: int, reason: str) -> ArrayDifference:
    """Return the row of an array that cannot be compared, at this layer of A."""
    return ArrayDifference(
        layer=layer,
        layer_b=None,
        part=item.array.part,
        name=item.name,
        count=item.array.size,
        compared=False,
        reason=reason,
    )


# --- verdict ----------------------------------------------------------------------------------------------------------


def _verdict(
    rows: Sequence[ArrayDifference], storing: Sequence[int], differing: Sequence[int], same_head: bool
) -> Verdict:
    """Return the narrowest description of what differs."""
    if not differing:
        return Verdict.IDENTICAL if same_head else Verdict.HEADER
    changed = [row for row in rows if not row.is_same]
    if all(row.compared and row.name.rpartition(".")[2] in STATISTICS for row in changed):
        return Verdict.ROLLING
    if len(differing) == len(storing) or (storing[0] in differing and storing[-1] in differing):
        return Verdict.DIFFERENT
    if storing[0] not in differing and list(differing) == list(storing[-len(differing) :]):
        return Verdict.PREFIX
    return Verdict.LAYERS


def _same_until(storing: Sequence[int], differing: Sequence[int]) -> int | None:
    """Return the last layer with arrays before the first layer that differs."""
    before = [layer for layer in storing if not differing or layer < min(differing)]
    return max(before, default=None)
