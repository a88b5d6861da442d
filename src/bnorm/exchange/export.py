"""`bnorm export`: the arrays of a model in files of other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, as_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Floats
from bnorm.errors import WeightsError
from bnorm.exchange.job import ExportOptions, Item, Job, Writer
from bnorm.exchange.names import NAMES, array_names
from bnorm.exchange.npz import write_npz
from bnorm.exchange.source import Source, open_source
from bnorm.files import check_outputs, replacing
from bnorm.transforms.pair import Meter, Progress

Paths = Callable[[Path], tuple[Path, ...]]


def _alone(path: Path) -> tuple[Path, ...]:
    return (path,)


class Format(NamedTuple):
    """A format: its writer, its files, and what it can hold.

    `fold` says whether batch normalisation is folded unless it is asked for, `named` whether names can be chosen.
    `graph` is true for a format of networks: it takes all layers, and `opset` and `head`.
    """

    write: Writer
    files: Paths = _alone
    dtypes: tuple[str, ...] = ("float32",)
    fold: bool = False
    named: bool = False
    graph: bool = False


FORMATS: dict[str, Format] = {
    ".npz": Format(write_npz, named=True),
}

DTYPES = ("float32", "float16", "int8", "int16")

GRANULARITIES = ("channel", "tensor")


class ExportedArray(NamedTuple):
    """An array of the export: its layer there and its name within it, its name in the file, shape and type."""

    layer: int
    part: str
    array: str
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The result of `export`. `epsilon` is None without folding; `removed` are the layers that folding removed.

    `details` is what the writer of the format returns, None for most.
    """

    output: Path
    outputs: tuple[Path, ...]
    names: str
    dtype: str
    epsilon: Epsilon | None
    removed: tuple[int, ...]
    arrays: tuple[ExportedArray, ...]
    nbytes: int
    details: object = None

    def __repr__(self) -> str:
        return f"<ExportReport: {len(self.arrays):,} arrays, output={str(self.output)!r}>"


@quiet
def export(
    model: Model,
    output: Path | str,
    *,
    fold: bool = False,
    keep_batchnorm: bool = False,
    epsilon: Epsilon | str = DARKNET,
    layers: Iterable[int] | None = None,
    names: str = "bnorm",
    dtype: str = "float32",
    granularity: str = "channel",
    opset: int | None = None,
    head: str | None = None,
    force: bool = False,
    advance: Progress | None = None,
) -> ExportReport:
    """Write arrays of the model to `output`, whose suffix is a row of `FORMATS`.

    ValueError for an invalid argument, before anything is read; `WeightsError` for a file that does not fit;
    `OutputError` for an output that must not be written.
    """
    output = Path(output)
    format_ = format_of(output)
    options = ExportOptions(
        layers=_known_layers(model, layers),
        names=_one_of("names", names, NAMES if format_.named else NAMES[:1]),
        dtype=_one_of("dtype", dtype, format_.dtypes),
        granularity=_one_of("granularity", granularity, GRANULARITIES),
        epsilon=as_epsilon(epsilon) if fold or (format_.fold and not keep_batchnorm) else None,
        opset=opset,
        head=head,
    )
    paths = format_.files(output)
    inputs = [model.network.text.path, *([model.weights] if model.weights else [])]
    check_outputs(paths, inputs, force=force, cause="--force overwrites it")
    with open_source(model, options.epsilon) as source:
        job = Job(source=source, items=_items(source, options, advance), outputs=paths, options=options)
        with replacing(*paths) as files:
            details = format_.write(job, files)
            nbytes = sum(file.tell() for file in files)
        return _report(job, output, nbytes, details)


def format_of(output: Path) -> Format:
    """Return the format of this output; ValueError for an unknown suffix."""
    if output.suffix not in FORMATS:
        raise ValueError(f"output {output.name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[output.suffix]


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{what} {value!r}, expected one of {', '.join(allowed)}")
    return value


def _known_layers(model: Model, layers: Iterable[int] | None) -> frozenset[int] | None:
    """Return the selected layers; ValueError for one that the network does not have."""
    selection = None if layers is None else frozenset(layers)
    last = len(model.network.layers) - 1
    for layer in selection or ():
        if not 0 <= layer <= last:
            raise ValueError(f"layer {layer}, expected 0 to {last}")
    return selection


def _items(source: Source, options: ExportOptions, advance: Progress | None) -> tuple[Item, ...]:
    """Return the selected arrays in the order of the file."""
    arrays = tuple(
        array
        for array in source.model.layout.arrays
        if options.layers is None or source.numbers[array.layer] in options.layers
    )
    if not arrays:
        raise WeightsError(source.weights.path, "holds no arrays of these layers, expected at least one")
    types = {layer.index: layer.type for layer in source.model.network.layers}
    convolutions = frozenset(index for index in types if types[index] == "convolutional")
    names = array_names(arrays, convolutions, options.names)
    meter = Meter(sum(array.size for array in arrays), advance)
    return tuple(_item(source, array, names[array.layer, array.name], meter) for array in arrays)


def _item(source: Source, array: Array, name: str, meter: Meter) -> Item:
    def blocks() -> Iterator[Floats]:
        for block in source.blocks(array):
            yield block
            meter.add(block.size)

    return Item(name=name, array=array, shape=array.shape, dtype="<f4", blocks=blocks)


def _report(job: Job, output: Path, nbytes: int, details: object) -> ExportReport:
    return ExportReport(
        output=output,
        outputs=job.outputs,
        names=job.options.names,
        dtype=job.options.dtype,
        epsilon=job.options.epsilon,
        removed=tuple(sorted(job.source.folded.folds.removed)) if job.source.folded else (),
        arrays=tuple(
            ExportedArray(
                layer=item.array.layer,
                part=item.array.part,
                array=item.array.name,
                name=item.name,
                shape=item.shape,
                dtype=item.dtype,
            )
            for item in job.items
        ),
        nbytes=nbytes,
        details=details,
    )
