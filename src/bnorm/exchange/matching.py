"""Match the arrays of a file with those of the weights, by name or by order and shape: each is used exactly once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network
from bnorm.errors import TensorError
from bnorm.exchange.names import FAMILIES, MODULES, array_names, family_of, is_ignored, role_of, without_prefix
from bnorm.exchange.readers import Reader, StoredArray, natural
from bnorm.text import plural, short

NUMBER = re.compile(rf"(?:{re.escape(MODULES)})?([0-9]{{1,9}})\.")  # of a layer, in the names of each family

ORDER = "order"  # the family of arrays that are matched by order and shape


class Match(NamedTuple):
    """The family of names; the file's array for each planned array, in the order of the plan; and the ignored names."""

    family: str
    arrays: Mapping[Array, StoredArray]
    ignored: tuple[str, ...]


def match(model: Model, reader: Reader, names: str, *, partial: bool = False) -> Match:
    """Match the arrays of the file with those of the weights; a `TensorError` if one is missing, extra or misshapen.

    With `partial` the file may end after any layer; up to there every layer must have all of its arrays.
    """
    family = names if names != "auto" else _detected(reader)
    ignored = tuple(name for name in reader.names if family != "bnorm" and is_ignored(name))
    used = [name for name in reader.names if name not in ignored]
    plan = model.layout.arrays
    if partial:
        plan = _first_of(plan, len(used)) if family == ORDER else _up_to(plan, _last_layer(used))
    arrays = _by_order(plan, reader, used) if family == ORDER else _by_name(model.network, plan, reader, used, family)
    for array, stored in arrays.items():
        if stored.shape != array.shape:
            what = f"{_named(array)} is {short(stored.name)} of the shape {short(str(stored.shape))}"
            raise TensorError(reader.path, f"{what}, expected {array.shape}", cause=_shape_cause(array, stored))
    return Match(family=family, arrays=arrays, ignored=ignored)


def _detected(reader: Reader) -> str:
    """Return the family of the names; a `TensorError` if there is none."""
    family = family_of(reader.names)
    if family is None:
        what = f"has names of no family that bnorm knows, such as {short(reader.names[0])}"
        cause = "--names order takes arrays by order and shape"
        raise TensorError(reader.path, f"{what}, expected bnorm or {', '.join(FAMILIES)}", cause=cause)
    return family


def _up_to(plan: Sequence[Array], last: int) -> tuple[Array, ...]:
    """Return the arrays up to a layer."""
    return tuple(array for array in plan if array.layer <= last)


def _last_layer(names: Sequence[str]) -> int:
    """Return the largest layer in these names, −1 if they name none."""
    found = (NUMBER.match(without_prefix(name)) for name in names)
    return max((int(number[1]) for number in found if number), default=-1)


def _first_of(plan: Sequence[Array], count: int) -> tuple[Array, ...]:
    """Return the arrays of the fewest layers that have at least this many arrays."""
    return _up_to(plan, plan[count - 1].layer) if 0 < count < len(plan) else tuple(plan)


def _named(array: Array) -> str:
    return f"layer {array.layer} {array.name}"


def _shape_cause(array: Array, stored: StoredArray) -> str:
    """Return the likely cause of the wrong shape."""
    if sorted(array.shape) == sorted(stored.shape) and len(array.shape) > 1:
        return "axes in another order? darknet stores (filters, channels, height, width), and (outputs, inputs)"
    return "another cfg, or another number of classes?"


# --- by name ----------------------------------------------------------------------------------------------------------


def _by_name(
    network: Network, plan: Sequence[Array], reader: Reader, names: Sequence[str], family: str
) -> dict[Array, StoredArray]:
    """Return the array of each name; a `TensorError` for one that is missing or left over."""
    try:
        expected = array_names(network, plan, family)
    except ValueError as error:
        raise TensorError(reader.path, str(error), cause="--names order takes any layers") from None
    given: dict[str, str] = {}
    for name in names:
        plain = name if family == "bnorm" else without_prefix(name)
        if plain in given:
            raise TensorError(reader.path, f"holds {short(plain)} twice, as {short(given[plain])} and {short(name)}")
        given[plain] = name
    missing = [array for array in plan if expected[array.layer, array.name] not in given]
    extra = sorted(given.keys() - expected.values(), key=natural)
    if missing:
        raise _missing(reader, missing, expected, extra)
    if extra:
        others = f" and {len(extra) - 1:,} more" if extra[1:] else ""
        what = f"holds {short(given[extra[0]])}{others}, for which the cfg has no array"
        raise TensorError(reader.path, what, cause=_extra_cause(extra))
    return {array: reader.array(given[expected[array.layer, array.name]]) for array in plan}


def _missing(
    reader: Reader, missing: Sequence[Array], expected: Mapping[tuple[int, str], str], extra: Sequence[str]
) -> TensorError:
    """Return the error for arrays that the file lacks."""
    first = missing[0]
    name = expected[first.layer, first.name]
    others = f", {plural(len(missing), 'array')} in all" if missing[1:] else ""
    cause = "another cfg?"
    if all(array.field != "weights" for array in missing):
        cause = "was the model fused? Then its arrays fit the cfg that bnorm fold writes"
    elif extra:
        cause = f"it holds {short(extra[0])}, for which the cfg has no array: another cfg?"
    return TensorError(reader.path, f"lacks {_named(first)}, expected {name}{others}", cause=cause)


def _extra_cause(extra: Sequence[str]) -> str:
    if any(name.endswith(("running_mean", "rolling_mean")) for name in extra):
        return "batch normalisation where the cfg has none: is the cfg that of a folded model?"
    return "another cfg?"


# --- by order ---------------------------------------------------------------------------------------------------------


def _by_order(plan: Sequence[Array], reader: Reader, names: Sequence[str]) -> dict[Array, StoredArray]:
    """Return the arrays matched in the order of the file: within each kind if the names tell the kinds, otherwise all.

    A .safetensors file and a folder are sorted by name, so their layers are in the order of the numbers in the names.
    """
    stored = [reader.array(name) for name in _in_layer_order(names, reader)]
    roles = [role_of(array.name, len(array.shape)) for array in stored]
    told = None not in roles
    queues: dict[str | None, list[StoredArray]] = defaultdict(list)
    for role, array in zip(roles, stored, strict=True):
        queues[role if told else None].append(array)
    wanted: dict[str | None, list[Array]] = defaultdict(list)
    for planned in plan:
        wanted[planned.field if told else None].append(planned)
    for role in wanted | queues:
        _check_count(reader, role, wanted[role], queues[role])
    pairs = {array: found for role in wanted for array, found in zip(wanted[role], queues[role], strict=True)}
    return {array: pairs[array] for array in plan}


def _in_layer_order(names: Sequence[str], reader: Reader) -> list[str]:
    """Return the names in the order of an archive, otherwise sorted by module; a module's arrays keep their order."""
    if reader.path.suffix == ".npz":
        return list(names)
    return sorted(names, key=lambda name: natural(name.rpartition(".")[0]))


def _check_count(reader: Reader, role: str | None, wanted: Sequence[Array], given: Sequence[StoredArray]) -> None:
    """Raise a `TensorError` if the file has more or fewer arrays of a kind than the cfg."""
    if len(wanted) == len(given):
        return
    what = f"has {plural(len(given), 'array')}{f' of {role}' if role else ''}, expected {len(wanted):,}"
    if len(wanted) > len(given):
        raise TensorError(reader.path, f"{what}: lacks {_named(wanted[len(given)])}")
    raise TensorError(reader.path, f"{what}: {short(given[len(wanted)].name)} is left over")
