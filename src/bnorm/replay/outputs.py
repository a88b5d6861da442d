"""All outputs of a run, planned once, so that the checked files are exactly those that are written or removed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import OutputError
from bnorm.files import FORCE, FileSet, Outputs, check_folder, check_outputs
from bnorm.tensors.npy import write_npy

TENSORS = ("y", "x_norm", "dx")

FINAL = ("rolling_mean", "rolling_variance")  # the statistics after several mini-batches, next to their folders

VECTORS = ("mean", "variance", *FINAL, "scale_updates", "bias_updates", "mean_delta", "variance_delta")

RESULTS = (*TENSORS, *VECTORS)  # the names of all results that a run may have


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """Every folder and file that a run may write; all are empty for a run that only makes a summary."""

    root: Path | None = None  # the folder of all results
    folders: tuple[Path, ...] = ()  # of the results of each input: `root`, or for several inputs folders in it
    names: tuple[str, ...] = ()  # of the results, in each folder or in the archive
    archive: Path | None = None
    final: tuple[Path, ...] = ()  # in `root`: a file for each name in `FINAL`
    updated_weights: Path | None = None
    moments: Path | None = None  # of each input, for another process to merge

    def path_of(self, number: int, name: str) -> str | None:
        """Return the destination of one result of one input: a file, or `FILE.npz:NAME`."""
        if self.archive:
            return f"{self.archive}:{name}"
        return str(self.folders[number] / f"{name}.npy") if self.folders else None

    def check(self, inputs: Iterable[Path], *, force: bool) -> None:
        """Raise `OutputError` if an output is impossible, is one of the inputs, equals another output, or exists.

        A folder may exist, with any files except the results of an earlier run; `force` allows those as well.
        """
        inputs = list(inputs)
        files = [path for path in (self.archive, self.updated_weights, self.moments) if path]
        check_outputs(files, inputs, force=force, cause=FORCE)
        for folder in self._all_folders():
            check_folder(folder, new_parent=folder != self.root)
        results = [path for path in self._results() if path.parent.is_dir()]  # a new folder has none to replace
        check_outputs([*results, *files], inputs, force=True)
        for path in files:
            if path.resolve() in map(Path.resolve, self._all_folders()):
                raise OutputError(path, "is the folder for results, expected another name")
        if self.root and not force and (old := next(self.stale(inputs), None)):
            what = f"holds results of an earlier run, such as {old.relative_to(self.root)}, expected a new name"
            raise OutputError(self.root, what, cause=FORCE)

    def stale(self, inputs: Iterable[Path]) -> Iterator[Path]:
        """Yield the results of earlier runs in the folder, of any number of inputs; an input is not a result."""
        if self.root is None or not self.root.is_dir():
            return
        read = FileSet(inputs)
        numbered = sorted(path for path in self.root.iterdir() if re.fullmatch("[0-9]{3,}", path.name))
        for folder in (self.root, *numbered):
            for path in (folder / f"{name}.npy" for name in RESULTS):
                is_file = path.is_file() or path.is_symlink()
                if is_file and path not in read:
                    yield path

    def write_final(self, outputs: Outputs, vectors: Iterable[NDArray[np.floating]]) -> None:
        """Write the rolling statistics, a vector for each name in `FINAL`."""
        with outputs.open(*self.final) as files:
            for file, vector in zip(files, vectors, strict=True):
                write_npy(file, vector)

    def _all_folders(self) -> list[Path]:
        return [*dict.fromkeys((self.root, *self.folders))] if self.root else []

    def _results(self) -> list[Path]:
        return [*self.final, *(folder / f"{name}.npy" for folder in self.folders for name in self.names)]


def plan_outputs(
    output: Path | None, updated_weights: Path | None, names: tuple[str, ...], *, inputs: int, train: bool
) -> OutputPlan:
    """Return the outputs for this many inputs: a folder or FILE.npz, or for several inputs a folder of folders."""
    if output is None:
        return OutputPlan(updated_weights=updated_weights)
    if output.suffix == ".npz":
        return OutputPlan(names=names, archive=output, updated_weights=updated_weights)
    return OutputPlan(
        root=output,
        folders=input_folders(output, inputs),
        names=names,
        final=final_files(output) if train and inputs > 1 else (),
        updated_weights=updated_weights,
    )


def final_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the rolling statistics after the last input."""
    return tuple(folder / f"{name}.npy" for name in FINAL)


def input_folders(folder: Path, inputs: int) -> tuple[Path, ...]:
    """Return the folder of each input's results: the folder itself, or for several inputs 000, 001 and so on in it."""
    return (folder,) if inputs == 1 else tuple(folder / f"{number:03}" for number in range(inputs))
