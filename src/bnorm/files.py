"""Open inputs safely, read and write at an offset, and write a set of outputs as a whole.

An output is written next to its target under a temporary name, synced, and renamed once the whole set is complete.
Nothing here needs POSIX: where a system call is missing, another one does its work, or a step such as syncing a folder
is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from weakref import WeakKeyDictionary

from bnorm.errors import BnormError, OutputError

MARK = "bnorm-tmp"  # part of the name of every temporary file; a killed process may leave one

PATIENCE = 30.0  # seconds to wait for a folder's lock, which is held for a few renames: milliseconds

_POSITIONS: WeakKeyDictionary[BinaryIO | FileIO, Lock] = WeakKeyDictionary()  # locks for files that threads share


# --- inputs -----------------------------------------------------------------------------------------------------------


def open_regular(path: Path, kind: type[BnormError]) -> BinaryIO:
    """Open a regular file for reading; raise `kind` for a pipe or a device, which might block or never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise kind(path, "is a pipe or a device, expected a regular file")
    return path.open("rb")


def read_at(file: BinaryIO | FileIO, view: memoryview, offset: int) -> int:
    """Read from an offset into the view, from any thread; return the number of bytes, 0 only at the end of the file.

    The file's own position is undefined afterwards.
    """
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    with _POSITIONS.setdefault(file, Lock()):
        file.seek(offset)
        data = file.read(view.nbytes)
    view[: len(data)] = data
    return len(data)


def write_at(file: BinaryIO | FileIO, view: memoryview, offset: int) -> int:
    """Write the view at an offset, from any thread; return the number of bytes written.

    The file's buffer must be empty before the call, and its own position is undefined afterwards.
    """
    if hasattr(os, "pwritev"):
        return os.pwritev(file.fileno(), [view], offset)
    with _POSITIONS.setdefault(file, Lock()):
        file.seek(offset)
        count = file.write(view)
        file.flush()
    return count


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError of reading or writing an open file, which lacks it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


# --- outputs ----------------------------------------------------------------------------------------------------------


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, force: bool = False, cause: str = "") -> None:
    """Raise an `OutputError` for an output that is one of the inputs by any path, is not a file, or exists.

    `force` allows outputs to exist; `cause` is the hint on how to allow that.
    """
    outputs, inputs = list(outputs), list(inputs)
    for number, path in enumerate(outputs):
        if any(_same(path, other) for other in inputs):
            raise OutputError(path, "is an input, expected another name for the output")
        if any(os.path.realpath(path) == os.path.realpath(other) for other in outputs[:number]):
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
        return os.path.realpath(path) == os.path.realpath(other)  # Path.resolve raises RuntimeError for links in a loop


def check_folder(path: Path, *, new_parent: bool = False) -> None:
    """Raise an `OutputError` for an output folder that is a file, or has no parent unless that will be created."""
    if not new_parent and not path.parent.is_dir():
        raise OutputError(path, f"no folder {path.parent}, expected one that exists")
    if path.exists() and not path.is_dir():
        raise OutputError(path, "is a file, expected a folder or a new name", cause="FILE.npz writes one archive")


@contextlib.contextmanager
def replacing(*targets: Path) -> Iterator[Sequence[BinaryIO]]:
    """Open one temporary file per target; rename them to the targets on a clean exit, otherwise remove them.

    The files may be opened again for reading in the meantime, but must be closed before the exit: Windows neither
    renames nor removes an open file. `OutputError` if they cannot be written.
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
            _rename(temporary, targets)
    except OSError as error:
        if error.filename not in (None, *map(str, temporary)):
            raise  # an error of another file, which the message names
        reason = (error.strerror or str(error)).lower()
        raise OutputError(targets[0], f"cannot be written: {reason}") from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _rename(temporary: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename the set, the first target first, after removing the old version of each other target.

    Whenever the process dies, a later target that exists belongs to the first one.
    """
    for target in targets[1:]:
        target.unlink(missing_ok=True)
    for path, target in zip(temporary, targets, strict=True):
        path.replace(target)
        _sync(target.parent)


def _sync(folder: Path) -> None:
    """Make a rename durable, on systems that can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the lock of a folder ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of bnorm from renaming in the folder, so that their files do not mix with this set.

    Does nothing on a file system without locks, as some network ones are.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.callback(os.close, _lock(folder))
        yield


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock until it is closed.

    `OutputError` if another process does not release it in time, OSError if the file system has no locks.
    """
    patience = time.monotonic() + PATIENCE
    while True:
        try:
            return _try_lock(folder)
        except BlockingIOError:
            if time.monotonic() > patience:
                what = f"another process has been writing here for {PATIENCE:g} seconds, expected milliseconds"
                raise OutputError(folder, what, cause="end that process, or choose another folder") from None
        time.sleep(0.01)


def _try_lock(folder: Path) -> int:
    """Return the descriptor, or raise BlockingIOError while another one holds the lock.

    The system releases both kinds of lock when the process ends, even after a crash.
    """
    try:
        import fcntl
    except ImportError:
        return _create_lock(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _create_lock(folder: Path) -> int:
    """Do the same on Windows, which cannot open folders, with a file that the system deletes on closing."""
    temporary = getattr(os, "O_TEMPORARY", None)
    if temporary is None:
        raise OSError(errno.ENOTSUP, "no locks")
    try:
        return os.open(folder / f".{MARK}-lock", os.O_CREAT | os.O_EXCL | temporary)
    except (FileExistsError, PermissionError):  # PermissionError while it is being deleted
        raise BlockingIOError from None
