"""A new model's weights and cfg, written as one set of files: both or neither."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from bnorm.batchnorm.threads import processors
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Floats, Trailing, Weights, open_weights, write_block
from bnorm.files import replacing

Progress = Callable[[int, int], None]  # called with the number of finished values, and the total


class Targets(NamedTuple):
    """The paths of a pair. The weights are renamed first, so that an existing cfg belongs to them."""

    weights: Path
    cfg: Path


def targets(weights: Path | str, cfg: Path | str | None = None) -> Targets:
    """Return the paths of a pair; by default the cfg is named after the weights, with the suffix `.cfg`."""
    weights = Path(weights)
    return Targets(weights, Path(cfg) if cfg else weights.parent / f"{weights.stem}.cfg")


class Writer(Protocol):
    """Destination of a new model: `begin`, then `write` for each block; a second `begin` discards earlier blocks."""

    def begin(self, head: bytes, text: bytes) -> None:
        """Empty both files, and write the header of the weights and the whole cfg."""

    def write(self, block: Floats) -> None:
        """Append values to the weights."""

    def append(self, data: bytes) -> None:
        """Append trailing bytes to the weights."""

    def reopen(self, model: Model) -> Weights | None:
        """Open the written weights to be read by the plan of `model`; None if nothing is written."""

    def sync(self) -> None:
        """Wait until both files are on disk; raise OSError for a disk error, which the system reports only once."""


@dataclass(frozen=True, slots=True)
class PairWriter:
    """Writes to two open files, which `writing` renames to their targets."""

    weights: BinaryIO
    cfg: BinaryIO

    def begin(self, head: bytes, text: bytes) -> None:
        """Empty both files, and write the header of the weights and the whole cfg."""
        for file, start in ((self.weights, head), (self.cfg, text)):
            file.seek(0)
            file.truncate()
            file.write(start)

    def write(self, block: Floats) -> None:
        """Append values to the weights."""
        write_block(self.weights, block)

    def append(self, data: bytes) -> None:
        """Append trailing bytes to the weights."""
        self.weights.write(data)

    def reopen(self, model: Model) -> Weights:
        """Open the written weights to be read by the plan of `model`."""
        self.weights.flush()
        return open_weights(model._replace(weights=Path(self.weights.name)), Trailing.KEEP)  # they were copied

    def sync(self) -> None:
        """Wait until both files are on disk; raise OSError for a disk error, which the system reports only once."""
        for file in (self.weights, self.cfg):
            os.fsync(file.fileno())


class NullWriter:
    """Writes nothing: a dry run."""

    def begin(self, head: bytes, text: bytes) -> None:
        """Do nothing."""

    def write(self, block: Floats) -> None:
        """Do nothing."""

    def append(self, data: bytes) -> None:
        """Do nothing."""

    def reopen(self, _model: Model) -> None:
        """Return None: nothing is written."""

    def sync(self) -> None:
        """Do nothing."""


@contextmanager
def writing(paths: Targets) -> Iterator[PairWriter]:
    """Write a pair next to its targets; a clean exit replaces them, any other exit removes the pair."""
    with replacing(*paths) as (weights, cfg):
        yield PairWriter(weights, cfg)


@contextmanager
def while_syncing(writer: Writer) -> Iterator[Executor]:
    """Sync both files in the background, while the yielded threads check what was written."""
    with ThreadPoolExecutor(processors() + 1) as pool:
        synced = pool.submit(writer.sync)
        yield pool
        synced.result()  # the system reports a write error only once


class Meter:
    """Counts finished values, and reports them to a `Progress`."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def add(self, count: int) -> None:
        """Count this many more values as finished."""
        self._done += count
        if self._progress:
            self._progress(self._done, self._total)
