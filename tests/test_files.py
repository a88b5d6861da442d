"""Outputs: all of them or none, and never over an input."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread

import pytest

from bnorm import files
from bnorm.errors import CfgError, OutputError
from bnorm.files import check_outputs, open_regular, read_at, replacing, replacing_set, write_at

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and folders that can be opened")


def write(*targets: Path, data: bytes = b"new", error: BaseException | None = None) -> None:
    """Replace the targets, or fail after the first bytes of each."""
    with replacing(*targets) as opened:
        for file in opened:
            file.write(data)
        if error:
            raise error


def refused(output: Path, *inputs: Path, force: bool = False) -> str:
    with pytest.raises(OutputError) as caught:
        check_outputs([output], inputs, force=force)
    assert caught.value.path == output
    return caught.value.what


# --- replacing --------------------------------------------------------------------------------------------------------


def test_the_temporary_file_becomes_the_target(tmp_path):
    write(tmp_path / "a", tmp_path / "b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}


def test_a_target_that_exists_is_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    write(tmp_path / "a")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_while_it_is_written_the_target_is_the_old_one(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with replacing(tmp_path / "a") as (file,):
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_bytes() == b"old"
        (temporary,) = set(tmp_path.iterdir()) - {tmp_path / "a"}
        assert files.MARK in temporary.name


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(5, "no", "another file")])
def test_an_error_leaves_the_old_targets_and_no_temporary_file(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)):
        write(tmp_path / "a", tmp_path / "b", error=error)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_disk_that_is_full_at_the_end_leaves_the_old_target(tmp_path, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="a: cannot be written: no space left on device"):
        write(tmp_path / "a")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_target_that_cannot_be_replaced_leaves_the_others(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="b"):
        write(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_that_is_missing_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: no such file or directory"):
        write(tmp_path / "a", tmp_path / "missing" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "a").symlink_to("old")
    write(tmp_path / "a")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "a").read_bytes()) == (b"old", b"new")


@posix
def test_an_output_may_have_the_longest_name_that_the_system_takes(tmp_path):
    target = tmp_path / ("x" * 255)
    write(target)
    assert list(tmp_path.iterdir()) == [target]


# --- outputs that are refused -----------------------------------------------------------------------------------------


def test_a_new_name_is_fine(tmp_path):
    check_outputs([tmp_path / "a", tmp_path / "b"], [tmp_path / "in"])


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_refused(tmp_path, force):
    (tmp_path / "in").touch()
    assert refused(tmp_path / "in", tmp_path / "in", force=force) == "is an input, expected another name for the output"


def test_an_input_is_refused_in_another_spelling(tmp_path, monkeypatch):
    (tmp_path / "in").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for spelling in ("in", "./in", "folder/../in"):
        assert refused(Path(spelling), tmp_path / "in", force=True).startswith("is an input")


def test_an_input_is_refused_through_a_symbolic_link(tmp_path):
    (tmp_path / "in").touch()
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "folder").symlink_to(tmp_path)
    for output in (tmp_path / "link", tmp_path / "folder" / "in"):
        assert refused(output, tmp_path / "in", force=True).startswith("is an input")
    assert refused(tmp_path / "in", tmp_path / "link", force=True).startswith("is an input")


def test_a_link_that_leads_to_itself_exists_already(tmp_path):
    """`Path.resolve` raised RuntimeError for it."""
    (tmp_path / "a").symlink_to("a")
    assert "exists already" in refused(tmp_path / "a", tmp_path / "input")
    with pytest.raises(OutputError, match="given for two outputs"):
        check_outputs([tmp_path / "a", tmp_path / "a"], [], force=True)


def test_an_input_is_refused_through_a_hard_link(tmp_path):
    (tmp_path / "in").touch()
    (tmp_path / "link").hardlink_to(tmp_path / "in")
    assert refused(tmp_path / "link", tmp_path / "in", force=True).startswith("is an input")


def test_every_output_is_compared_with_every_input(tmp_path):
    (tmp_path / "in").touch()
    with pytest.raises(OutputError, match="is an input"):
        check_outputs([tmp_path / "new", tmp_path / "in"], iter([tmp_path / "in"]), force=True)


def test_one_name_for_two_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="is given for two outputs, expected two names"):
        check_outputs([tmp_path / "a", Path("a")], [])


def test_one_name_for_two_outputs_is_refused_through_a_symbolic_link(tmp_path):
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is given for two outputs"):
        check_outputs([tmp_path / "a", tmp_path / "folder" / "a"], [])


def test_a_missing_folder_is_refused(tmp_path):
    assert refused(tmp_path / "missing" / "a") == f"no folder {tmp_path / 'missing'}, expected one that exists"


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a" / "b").startswith("no folder")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_not_an_output(tmp_path, force):
    assert refused(tmp_path, force=force) == "is not a regular file, expected a new name"


@posix
@pytest.mark.parametrize("force", [False, True])
def test_a_device_is_not_an_output(force):
    """Renaming over /dev/null would replace it for everybody."""
    assert refused(Path("/dev/null"), force=force) == "is not a regular file, expected a new name"


@posix
def test_a_pipe_is_not_an_output(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", force=True) == "is not a regular file, expected a new name"


def test_an_output_that_exists_needs_force(tmp_path):
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a") == "exists already, expected a new name"
    check_outputs([tmp_path / "a"], [], force=True)


def test_a_symbolic_link_to_nowhere_exists(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    assert refused(tmp_path / "a") == "exists already, expected a new name"


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_a_regular_file_is_opened_for_reading(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    with open_regular(tmp_path / "a", CfgError) as file:
        assert file.read() == b"data"


def test_a_link_to_a_regular_file_is_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link", CfgError) as file:
        assert file.read() == b"data"


@posix
@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_not_an_input(name):
    with pytest.raises(CfgError, match=f"{name}: is a pipe or a device, expected a regular file"):
        open_regular(Path(name), CfgError)


@posix
def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    """Opening a pipe would wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CfgError, match="is a pipe or a device"):
        open_regular(tmp_path / "pipe", CfgError)


def test_a_folder_is_the_system_s_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path, CfgError)


# --- reading and writing at an offset ---------------------------------------------------------------------------------


@pytest.fixture(params=["positioned", "one position"])
def _system(request, monkeypatch):
    """A system with positioned reads and writes, and one without."""
    if request.param == "one position":
        monkeypatch.delattr(os, "preadv", raising=False)
        monkeypatch.delattr(os, "pwritev", raising=False)


@pytest.mark.usefixtures("_system")
@pytest.mark.parametrize("buffering", [0, -1])
def test_bytes_are_read_at_their_offset(tmp_path, buffering):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with (tmp_path / "a").open("rb", buffering=buffering) as file:
        for offset, length in [(90, 10), (3, 5), (0, 1)]:
            data = bytearray(length)
            assert read_at(file, memoryview(data), offset) == length
            assert data == bytes(range(offset, offset + length))


@pytest.mark.usefixtures("_system")
def test_at_the_end_of_the_file_fewer_bytes_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    data = bytearray(b"----")
    with (tmp_path / "a").open("rb") as file:
        assert [read_at(file, memoryview(data), offset) for offset in (1, 3, 99)] == [2, 0, 0]
    assert data == b"bc--"


@pytest.mark.usefixtures("_system")
@pytest.mark.parametrize("buffering", [0, -1])
def test_bytes_are_written_at_their_offset_and_can_be_read_at_once(tmp_path, buffering):
    with (tmp_path / "a").open("xb", buffering=buffering) as file:
        file.write(b"head")
        file.flush()
        assert write_at(file, memoryview(b"xyz"), 6) == 3
        assert write_at(file, memoryview(b"uv"), 4) == 2
        assert (tmp_path / "a").read_bytes() == b"headuvxyz"


@pytest.mark.usefixtures("_system")
def test_threads_share_a_file():
    length, count = 1 << 10, 400
    with TemporaryFile() as file, ThreadPoolExecutor(8) as pool:

        def there_and_back(number: int) -> bool:
            block = number.to_bytes(2, "big") * (length // 2)
            write_at(file, memoryview(block), number * length)
            data = bytearray(length)
            return read_at(file, memoryview(data), number * length) == length and data == block

        assert all(pool.map(there_and_back, range(count)))


# --- sets that two processes write ------------------------------------------------------------------------------------


def test_of_two_writers_of_a_set_one_renames_after_the_other(tmp_path, monkeypatch):
    """Without the lock, the second pair would come between the two renames of the first one."""
    targets = tmp_path / "weights", tmp_path / "cfg"
    second = Thread(target=write, args=targets, kwargs={"data": b"second"})
    replace = Path.replace

    def replace_and_wait(path: Path, target: Path) -> Path:
        result = replace(path, target)
        if second.ident is None:  # the first rename of all
            second.start()
            second.join(0.5)  # seconds in which nothing would keep it from renaming both
        return result

    monkeypatch.setattr(Path, "replace", replace_and_wait)
    write(*targets, data=b"first")
    second.join(60)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"weights": b"second", "cfg": b"second"}


HOLD = """
import sys, time
from pathlib import Path
from bnorm.files import _alone_in
with _alone_in(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("holder")
def test_a_lock_that_is_never_released_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "out")
    assert caught.value.path == tmp_path
    assert [path for path in tmp_path.iterdir() if not path.name.endswith("-lock")] == []


def test_the_lock_of_a_process_that_is_killed_is_released(tmp_path, holder):
    Thread(target=lambda: (time.sleep(0.1), holder.kill())).start()
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


@posix
def test_a_file_locks_a_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    """Windows deletes the file when it is closed; here the test does."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(os, "O_TEMPORARY", 0, raising=False)
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    write(tmp_path / "out", data=b"old")
    (lock,) = set(tmp_path.iterdir()) - {tmp_path / "out"}
    assert files.MARK in lock.name
    with pytest.raises(OutputError):
        write(tmp_path / "out")
    lock.unlink()
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


@posix
def test_renames_are_synced_where_there_are_no_locks(tmp_path, monkeypatch):
    def no_locks(_folder: Path) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    synced: list[bool] = []
    monkeypatch.setattr(files, "_try_lock", no_locks)
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    write(tmp_path / "out")
    assert synced == [False, True]


def test_the_folder_of_a_set_may_have_two_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    write(tmp_path / "a" / "x", tmp_path / "b" / "y")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x", "y"]


# --- sets that are written one after the other ------------------------------------------------------------------------


def test_a_set_replaces_an_older_one_as_a_whole(tmp_path):
    old, new = tmp_path / "old", tmp_path / "deep" / "er" / "new"
    old.write_bytes(b"old")
    with replacing_set(lock=tmp_path, stale=lambda: [old]) as outputs:
        outputs.make_folder(new.parent)
        for target in (new, tmp_path / "second"):
            with outputs.open(target) as (file,):
                file.write(b"new")
        assert old.exists()
        assert not new.exists()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["new", "second"]


def test_a_set_that_fails_leaves_the_older_one_and_no_folder(tmp_path):
    old = tmp_path / "old"
    old.write_bytes(b"old")
    with contextlib.suppress(KeyError), replacing_set(stale=lambda: [old]) as outputs:
        outputs.make_folder(tmp_path / "deep" / "er")
        with outputs.open(tmp_path / "deep" / "er" / "new") as (file,):
            file.write(b"new")
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
