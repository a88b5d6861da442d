"""All outputs of a run, planned once: what is checked is what is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnorm.errors import OutputError
from bnorm.files import check_folder, check_outputs

FINAL = ("rolling_mean", "rolling_variance")  # the statistics after several mini-batches, next to their folders


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Every folder and file that a run may write; all are empty for a run that only makes a summary."""

    folders: tuple[Path, ...] = ()  # of the results of each input
    names: tuple[str, ...] = ()  # of the results, in each folder or in the archive
    archive: Path | None = None
    parent: Path | None = None  # the folder of several folders
    final: tuple[Path, ...] = ()  # in `parent`: a file for each name in `FINAL`
    updated_weights: Path | None = None

    def path_of(self, number: int, name: str) -> str | None:
        """Return the destination of one result of one input: a file, or `FILE.npz:NAME`."""
        if self.archive:
            return f"{self.archive}:{name}"
        return str(self.folders[number] / f"{name}.npy") if self.folders else None

    def check(self, inputs: Iterable[Path]) -> None:
        """Raise `OutputError` where an output is impossible, is one of the inputs, or is another output.

        Results may replace older results, but never an input; the updated weights never replace a file.
        """
        inputs = list(inputs)
        new = [self.updated_weights] if self.updated_weights else []
        check_outputs(new, inputs)
        folders = [self.parent, *self.folders] if self.parent else list(self.folders)
        for folder in folders:
            check_folder(folder, new_parent=self.parent not in (None, folder))
        check_outputs([*self._files_in_old_folders(), *new], inputs, force=True)
        if self.updated_weights and self.updated_weights.resolve() in [folder.resolve() for folder in folders]:
            raise OutputError(self.updated_weights, "is the folder for results, expected another name")

    def _files_in_old_folders(self) -> list[Path]:
        """Return the files of results; a folder that does not exist yet has none to replace."""
        results = [folder / f"{name}.npy" for folder in self.folders for name in self.names]
        files = [path for path in (*self.final, *results) if path.parent.is_dir()]
        return [self.archive] if self.archive else files


def plan_outputs(
    output: Path | None, updated_weights: Path | None, names: tuple[str, ...], *, inputs: int, train: bool
) -> OutputPlan:
    """Return the outputs of this many inputs: a folder or FILE.npz, or for several inputs a folder of folders."""
    if output is None:
        return OutputPlan(updated_weights=updated_weights)
    if output.suffix == ".npz":
        return OutputPlan(names=names, archive=output, updated_weights=updated_weights)
    if inputs == 1:
        return OutputPlan(names=names, folders=(output,), updated_weights=updated_weights)
    return OutputPlan(
        names=names,
        folders=tuple(output / f"{number:03}" for number in range(inputs)),
        parent=output,
        final=tuple(output / f"{name}.npy" for name in FINAL) if train else (),
        updated_weights=updated_weights,
    )
