"""`bnorm export`: the arrays of a model in files of other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, as_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.model import Model
from bnorm.errors import CfgError, WeightsError
from bnorm.exchange.bins import bin_files, write_bins
from bnorm.exchange.c_source import c_files, write_c
from bnorm.exchange.encoding import DTYPES, SCALE_PER, Rounding, encoded
from bnorm.exchange.job import SCALE, ExportOptions, Item, Job, Writer
from bnorm.exchange.names import NAMES, array_names
from bnorm.exchange.npz import write_npz
from bnorm.exchange.onnx.options import GraphChoices, one_of, onnx_options
from bnorm.exchange.safetensors import write_safetensors
from bnorm.exchange.source import Source, open_source
from bnorm.exchange.wts import write_wts
from bnorm.extras import require
from bnorm.files import FORCE, check_folder, check_outputs, replacing
from bnorm.statistics.bad_variance import BadVariance, policy_by_name
from bnorm.transforms.fold.fold import FoldedLayer, compared, folded_layers, worst_of
from bnorm.transforms.fold.folded_model import FoldOptions
from bnorm.transforms.pair import Meter, NullWriter, Progress

Files = Callable[[Path, Sequence[Item] | None], tuple[Path, ...]]


def _alone(path: Path, _items: Sequence[Item] | None) -> tuple[Path, ...]:
    return (path,)


def _write_onnx(job: Job, files: Sequence[BinaryIO]) -> object:
    """Write a network; the extra package is imported here, when it is needed."""
    require("onnx", of=job.outputs[0])
    from bnorm.exchange.onnx.write import write_onnx

    return write_onnx(job, files)


class Format(NamedTuple):
    """A format: its writer, its files, and what it can hold.

    `files` returns the files for these arrays, or without arrays all files that may be written. `fold` says whether
    batch normalisation is folded by default, `named` whether names can be chosen. `graph` is true for a format that
    holds a whole network: it takes all layers, and the options of `OnnxOptions`.
    """

    write: Writer
    files: Files = _alone
    dtypes: tuple[str, ...] = ("float32",)
    fold: bool = False
    named: bool = False
    graph: bool = False


FORMATS: dict[str, Format] = {
    ".npz": Format(write_npz, dtypes=DTYPES, named=True),
    ".safetensors": Format(write_safetensors, named=True),
    ".wts": Format(write_wts, named=True),
    ".h": Format(write_c, c_files, dtypes=DTYPES, fold=True),
    ".onnx": Format(_write_onnx, fold=True, graph=True),
    "": Format(write_bins, bin_files, dtypes=DTYPES),
}

FOLDER = ""  # the suffix of a folder


class ExportedArray(NamedTuple):
    """An exported array: its layer, part and name in the model, its name in the file, its shape and type."""

    layer: int
    part: str
    array: str
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The result of `export`. `epsilon` is None without folding; `removed` lists the layers that folding removed.

    `folds` has a row for each normalised part, as in `bnorm.fold`, and is empty without folding. `details` is what the
    writer of the format returns, None for most.
    """

    output: Path
    outputs: tuple[Path, ...]
    names: str
    dtype: str
    epsilon: Epsilon | None
    removed: tuple[int, ...]
    folds: tuple[FoldedLayer, ...]
    arrays: tuple[ExportedArray, ...]
    nbytes: int
    roundings: tuple[Rounding, ...]
    details: object = None

    @property
    def worst(self) -> FoldedLayer | None:
        """Return the folded layer with the largest relative error; None without folding."""
        return worst_of(self.folds)

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
    bad_variance: BadVariance | str = BadVariance.ERROR,
    layers: Iterable[int] | None = None,
    names: str = "bnorm",
    dtype: str = "float32",
    scale_per: str = "channel",
    opset: int | None = None,
    head: str | None = None,
    batch: int | str | None = None,
    outputs: str | None = None,
    verify: bool = True,
    force: bool = False,
    advance: Progress | None = None,
) -> ExportReport:
    """Write arrays of the model to `output`, in the format of its suffix (see `FORMATS`); for `.onnx`, the network.

    For an ONNX file, `opset` is the version of the operators, `batch` the number of images or `dynamic`, and `head` is
    the output of the detection layers: `boxes`, or `raw` for their undecoded input. `outputs="layers"` adds the output
    of every layer, named `layer_<number>`. With `verify` each folded layer is compared before and after, as in
    `bnorm.fold`, and an ONNX file is run and compared if onnxruntime is installed.

    `fold` folds all batch normalisation first, as `bnorm.fold` does, without a file in between; `keep_batchnorm` turns
    that off for a format that is folded by default; `epsilon` and `bad_variance` are those of `bnorm.fold`. `layers`
    are numbers of the given cfg. `scale_per` is "channel" or "tensor", for the scales of int8 and int16.

    ValueError for an invalid argument, before anything is read; `WeightsError` for a file that does not fit;
    `OutputError` for an output that must not be written; `ProofError` for a difference that rounding does not explain.
    """
    output = Path(output)
    graph = GraphChoices(opset=opset, head=head, batch=batch, outputs=outputs)
    check_choices(output, names=names, dtype=dtype, graph=graph)
    format_ = format_of(output)
    if format_.graph and layers is not None:
        raise ValueError("layers with .onnx, expected none: an ONNX file holds the whole network")
    folding = FoldOptions(layers=None, epsilon=as_epsilon(epsilon), bad_variance=policy_by_name(bad_variance))
    options = ExportOptions(
        layers=_known_layers(model, layers),
        names=names,
        dtype=dtype,
        scale_per=one_of("scale_per", scale_per, SCALE_PER),
        fold=folding if fold or (format_.fold and not keep_batchnorm) else None,
        graph=onnx_options(epsilon, keep_batchnorm=keep_batchnorm, verify=verify, choices=graph)
        if format_.graph
        else None,
    )
    inputs = [model.network.text.path, *([model.weights] if model.weights else [])]
    _check_outputs(output, format_, inputs, force)
    with open_source(model, options.fold) as source:
        folds = _folds(source, verify)
        job = Job(source=source, items=_items(source, options), outputs=(), options=options)
        items, roundings = encoded(job)
        job = replace(job, items=_counted(items, advance), outputs=format_.files(output, items))
        with _folder(output) if format_ is FORMATS[FOLDER] else nullcontext(), replacing(*job.outputs) as files:
            details = format_.write(job, files)
            nbytes = sum(file.tell() for file in files)
        for path in set(format_.files(output, None)) - set(job.outputs):
            path.unlink(missing_ok=True)  # of an older export to the same folder
        return _report(job, output, nbytes, roundings, folds, details)


def _folds(source: Source, verify: bool) -> tuple[FoldedLayer, ...]:
    """Return a row for each normalised part, with the differences before and after folding if `verify`."""
    if source.folded is None:
        return ()
    differences = compared(source.folded, NullWriter(), Meter(0, None)) if verify else {}
    return folded_layers(source.folded, differences)


def _check_outputs(output: Path, format_: Format, inputs: Sequence[Path], force: bool) -> None:
    """Raise an `OutputError` for an output that must not be written."""
    if format_ is FORMATS[FOLDER]:
        check_folder(output)
        if not output.is_dir():
            return
    check_outputs(format_.files(output, None), inputs, force=force, cause=FORCE)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make the folder; remove it after an error, unless it existed before."""
    new = not path.exists()
    path.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # another process may have written files into it
                path.rmdir()
        raise


def check_choices(output: Path, *, names: str, dtype: str, graph: GraphChoices) -> None:
    """Raise ValueError for an unknown suffix, and for an option that its format does not have."""
    format_ = format_of(output)
    of = f"{output.suffix or 'folder'}: "
    one_of(f"{of}names", names, NAMES if format_.named else NAMES[:1])
    one_of(f"{of}dtype", dtype, format_.dtypes)
    if given := [] if format_.graph else [name for name, value in graph._asdict().items() if value is not None]:
        raise ValueError(f"{of}{given[0]} is for .onnx")


def format_of(output: Path) -> Format:
    """Return the format of this output: a folder if it has no suffix, or if it exists as a folder.

    ValueError for an unknown suffix.
    """
    if output.suffix in FORMATS:
        return FORMATS[output.suffix]
    if output.is_dir():
        return FORMATS[FOLDER]
    suffixes = ", ".join(filter(None, FORMATS))
    raise ValueError(f"output {output.name!r}, expected the suffix {suffixes}, or none for a folder")


def _known_layers(model: Model, layers: Iterable[int] | None) -> frozenset[int] | None:
    """Return the selected layers; ValueError for one that the network does not have."""
    selection = None if layers is None else frozenset(layers)
    last = len(model.network.layers) - 1
    for layer in selection or ():
        if not 0 <= layer <= last:
            raise ValueError(f"layer {layer}, expected 0 to {last}")
    return selection


def _items(source: Source, options: ExportOptions) -> tuple[Item, ...]:
    """Return the selected arrays in the order of the file."""
    arrays = tuple(
        array
        for array in source.model.layout.arrays
        if options.layers is None or source.numbers[array.layer] in options.layers
    )
    if not arrays and not options.graph:
        raise WeightsError(source.weights.path, "holds no arrays of these layers, expected at least one")
    try:
        names = array_names(source.model.network, arrays, options.names)
        if options.graph:  # a graph names its outputs, too, by the layers' numbers in the given cfg
            names = {(layer, name): f"{source.numbers[layer]}.{name}" for layer, name in names}
    except ValueError as error:
        raise CfgError(source.model.network.text.path, str(error)) from None
    return tuple(
        Item(
            name=names[array.layer, array.name],
            array=array,
            shape=array.shape,
            dtype="<f4",
            blocks=partial(source.blocks, array),
        )
        for array in arrays
    )


def _counted(items: Sequence[Item], advance: Progress | None) -> tuple[Item, ...]:
    """Return the same arrays, with progress reported as their values are written."""
    meter = Meter(sum(item.size for item in items), advance)

    def counted(item: Item) -> Iterator[NDArray[Any]]:
        for block in item.blocks():
            yield block
            meter.add(block.size)

    return tuple(item._replace(blocks=partial(counted, item)) for item in items)


def _report(
    job: Job,
    output: Path,
    nbytes: int,
    roundings: tuple[Rounding, ...],
    folds: tuple[FoldedLayer, ...],
    details: object,
) -> ExportReport:
    return ExportReport(
        output=output,
        outputs=job.outputs,
        names=job.options.names,
        dtype=job.options.dtype,
        epsilon=job.options.fold.epsilon if job.options.fold else None,
        removed=tuple(sorted(job.source.folded.folds.removed)) if job.source.folded else (),
        folds=folds,
        arrays=tuple(
            ExportedArray(
                layer=job.source.numbers[item.array.layer] if job.options.graph else item.array.layer,
                part=item.array.part,
                array=item.array.name + (SCALE if item.scale_of else ""),
                name=item.name,
                shape=item.shape,
                dtype=np.dtype(item.dtype).name,
            )
            for item in job.items
        ),
        nbytes=nbytes,
        roundings=roundings,
        details=details,
    )
