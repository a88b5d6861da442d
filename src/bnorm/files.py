"""Outputs: each is written beside its target under a temporary name, synced, and renamed when all is done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from bnorm.errors import BnormError, OutputError

PATIENCE = 5.0  # seconds that a lock is waited for

MARK = "bnorm-tmp"  # what a killed run may leave behind carries it in its name


class Closing:
    """Something that `with` closes at the end."""

    __slots__ = ()

    def close(self) -> None:
        """Let go of what is open."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, force: bool = False, cause: str = "") -> None:
    """Refuse an output that is an input under any spelling of its path, that is no file, or that exists already.

    `force` allows it to exist; `cause` tells the user how, if there is a way.
    """
    outputs, inputs = list(outputs), list(inputs)
    for number, path in enumerate(outputs):
        if any(_same(path, other) for other in inputs):
            raise OutputError(path, "is an input, expected another name for the output")
        if any(path.resolve() == other.resolve() for other in outputs[:number]):
            raise OutputError(path, "is given for two outputs, expected two names")
        if not path.parent.is_dir():
            raise OutputError(path, f"no folder {path.parent}, expected one that exists")
        if path.exists() and not path.is_file():
            raise OutputError(path, "is not a regular file, expected a new name")
        if os.path.lexists(path) and not force:
            raise OutputError(path, "exists already, expected a new name", cause=cause)


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return path.resolve() == other.resolve()


def check_folder(path: Path, *, new_parent: bool = False) -> None:
    """Refuse an output folder that is something else, or whose parent is missing and will not be made."""
    if not new_parent and not path.parent.is_dir():
        raise OutputError(path, f"no folder {path.parent}, expected one that exists")
    if path.exists() and not path.is_dir():
        raise OutputError(path, "is a file, expected a folder or a new name", cause="FILE.npz writes one archive")


@contextlib.contextmanager
def replacing(*targets: Path) -> Iterator[Sequence[BinaryIO]]:
    """Open one temporary file per target; on a clean exit they become the targets, otherwise they vanish.

    The first target is renamed first, and an old version of each other target is removed before that: whatever
    moment the process dies at, a later target that exists belongs to the first one. Of several processes with the same
    targets one renames after the other.
    """
    temporary = [path.with_name(f".{MARK}-{os.urandom(8).hex()}") for path in targets]
    try:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("xb")) for path in temporary]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        with _alone_in(targets[0].parent):
            for target in targets[1:]:
                target.unlink(missing_ok=True)
            for path, target in zip(temporary, targets, strict=True):
                path.replace(target)
                _sync(target.parent)
    except OSError as error:
        if error.filename not in (None, *map(str, temporary)):
            raise  # about another file, which its message names
        reason = (error.strerror or str(error)).lower()
        raise OutputError(targets[0], f"cannot be written: {reason}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of reading or writing an open file say which file it was: the system does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of bnorm from renaming in a folder, where it has locks and nobody holds its own for long."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            _lock(descriptor)
        yield


def _lock(descriptor: int) -> None:
    patience = time.monotonic() + PATIENCE
    while time.monotonic() < patience:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.01)


def _sync(folder: Path) -> None:
    """Make a rename itself durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_regular(path: Path, kind: type[BnormError]) -> BinaryIO:
    """Open a regular file for reading; another one, which might never end or never begin, is an error of this kind."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder's own error says what it is
        raise kind(path, "is a pipe or a device, expected a regular file")
    return path.open("rb")
