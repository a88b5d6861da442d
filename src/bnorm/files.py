"""Open inputs safely, read and write at an offset, and write a set of outputs as a whole.

An output is written next to its target under a temporary name, synced, and renamed once the whole set is complete.
Nothing here needs POSIX: if a system call is missing, another one is used, or a step such as syncing a folder
is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from weakref import WeakKeyDictionary

from bnorm.errors import BnormError, OutputError

MARK = "bnorm-tmp"  # part of the name of every temporary file; a killed process may leave one

FORCE = "--force replaces existing files"  # the hint on how to allow an output to exist

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
    read, earlier = FileSet(inputs), set[str]()
    for path in outputs:
        real = os.path.realpath(path)
        if path in read:
            raise OutputError(path, "is an input, expected another name for the output")
        if real in earlier:
            raise OutputError(path, "is given for two outputs, expected two names")
        if not path.parent.is_dir():
            raise OutputError(path, f"no folder {path.parent}, expected one that exists")
        if path.exists() and not path.is_file():
            raise OutputError(path, "is not a regular file, expected a new name")
        if os.path.lexists(path) and not force:
            raise OutputError(path, "exists already, expected a new name", cause=cause)
        earlier.add(real)


class FileSet:
    """A set of files that recognises each under any of its names, including hard links; there may be thousands."""

    def __init__(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        self._paths = {os.path.realpath(path) for path in paths}  # Path.resolve raises RuntimeError for links in a loop
        self._identities = {identity for path in paths if (identity := _identity(path))}

    def __contains__(self, path: Path) -> bool:
        return os.path.realpath(path) in self._paths or _identity(path) in self._identities


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, the same for every name of a file; None if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_folder(path: Path, *, new_parent: bool = False) -> None:
    """Raise an `OutputError` for an output folder that is a file, or has no parent unless that will be created."""
    if not new_parent and not path.parent.is_dir():
        raise OutputError(path, f"no folder {path.parent}, expected one that exists")
    if path.exists() and not path.is_dir():
        raise OutputError(path, "is a file, expected a folder or a new name", cause="FILE.npz writes one archive")


class Outputs:
    """Files that are written one after the other and renamed to their targets together, see `replacing_set`."""

    def __init__(self) -> None:
        self._temporary: dict[Path, Path] = {}  # by target, in the order of writing
        self._folders: list[Path] = []  # that were made for the files

    @contextlib.contextmanager
    def open(self, *targets: Path) -> Iterator[Sequence[BinaryIO]]:
        """Open a temporary file per target; sync and close them on a clean exit. `OutputError` if that fails.

        The files may be opened again for reading in the meantime.
        """
        temporary = [path.with_name(f".{MARK}-{os.urandom(8).hex()}") for path in targets]
        self._temporary |= zip(targets, temporary, strict=True)
        with _blaming(targets[0], temporary), contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("x+b")) for path in temporary]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents, which are removed again if the set is not completed."""
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._folders.extend(reversed(new))

    def rename(self, lock: Path | None, stale: Callable[[], Iterable[Path]]) -> None:
        """Remove stale files, and rename all files to their targets."""
        targets, temporary = list(self._temporary), list(self._temporary.values())
        if not targets:
            return
        with _blaming(targets[0], temporary), _alone_in(lock or targets[0].parent):
            for path in stale():
                if path not in self._temporary:
                    path.unlink(missing_ok=True)
            _rename(temporary, targets)
        self._folders.clear()

    def discard(self) -> None:
        """Remove temporary files, and the folders that were made, after a failure; does nothing after `rename`."""
        for path in self._temporary.values():
            path.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):  # another process may have written files into it
                folder.rmdir()


def _nothing() -> Iterable[Path]:
    return ()


@contextlib.contextmanager
def replacing_set(*, lock: Path | None = None, stale: Callable[[], Iterable[Path]] = _nothing) -> Iterator[Outputs]:
    """Write a set of files beside their targets; on a clean exit rename all, otherwise remove all.

    `stale` returns the files of an older set, which are removed; it is called while no other process of bnorm renames
    files in the folder `lock`, by default that of the first target. Files must be closed before the exit: Windows
    neither renames nor removes an open file.
    """
    outputs = Outputs()
    try:
        yield outputs
        outputs.rename(lock, stale)
    finally:
        outputs.discard()


@contextlib.contextmanager
def replacing(*targets: Path) -> Iterator[Sequence[BinaryIO]]:
    """Open one temporary file per target; rename them to the targets on a clean exit, otherwise remove them.

    The files are also open for reading, and may be opened again in the meantime. `OutputError` if that fails.
    """
    with replacing_set() as outputs, outputs.open(*targets) as files:
        yield files


@contextlib.contextmanager
def _blaming(target: Path, temporary: Sequence[Path]) -> Iterator[None]:
    """Turn an OSError about the temporary files, or without a file name, into an `OutputError` about the target."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, *map(str, temporary)):
            raise  # an error about another file, which the message names
        reason = (error.strerror or str(error)).lower()
        raise OutputError(target, f"cannot be written: {reason}") from error


def _rename(temporary: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename the set, the first target first, after removing the old version of each other target.

    Even if the process is killed in between, any later target that exists belongs to the first target. The first
    target's folder is synced before the others are renamed, so that this holds after a power cut as well.
    """
    for target in targets[1:]:
        target.unlink(missing_ok=True)
    temporary[0].replace(targets[0])
    _sync(targets[0].parent)
    for path, target in zip(temporary[1:], targets[1:], strict=True):
        path.replace(target)
    for folder in dict.fromkeys(target.parent for target in targets[1:]):
        _sync(folder)


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

    Does nothing on a file system without locks, such as some network file systems.
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
    """Lock a folder on Windows, which cannot open folders: create a file that the system deletes when it is closed."""
    temporary = getattr(os, "O_TEMPORARY", None)
    if temporary is None:
        raise OSError(errno.ENOTSUP, "no locks")
    try:
        return os.open(folder / f".{MARK}-lock", os.O_CREAT | os.O_EXCL | temporary)
    except (FileExistsError, PermissionError):  # PermissionError while it is being deleted
        raise BlockingIOError from None
