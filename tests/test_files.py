"""Outputs: all there or not at all, and never over an input."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from bnorm import files
from bnorm.errors import CfgError, OutputError
from bnorm.files import check_outputs, open_regular, replacing


def write(*targets: Path, data: bytes = b"new", error: BaseException | None = None) -> None:
    """Replace the targets, or fail behind the first bytes of each."""
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


def test_a_symbolic_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "a").symlink_to("old")
    write(tmp_path / "a")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "a").read_bytes()) == (b"old", b"new")


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


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a" / "b").startswith("no folder")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_output(tmp_path, force):
    assert refused(tmp_path, force=force) == "is not a regular file, expected a new name"


@pytest.mark.parametrize("force", [False, True])
def test_a_device_is_no_output(force):
    """Renaming over /dev/null would replace it for everybody."""
    assert refused(Path("/dev/null"), force=force) == "is not a regular file, expected a new name"


def test_a_pipe_is_no_output(tmp_path):
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


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_input(name):
    with pytest.raises(CfgError, match=f"{name}: is a pipe or a device, expected a regular file"):
        open_regular(Path(name), CfgError)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    """Opening one would wait for somebody who writes to it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CfgError, match="is a pipe or a device"):
        open_regular(tmp_path / "pipe", CfgError)


def test_a_folder_is_the_system_s_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path, CfgError)


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_that_another_program_keeps_is_not_waited_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with (tmp_path / "other").open("wb"):
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with replacing(tmp_path / "out") as (file,):
            file.write(b"new")
        os.close(descriptor)
    assert (tmp_path / "out").read_bytes() == b"new"


def test_renames_are_synced_where_there_are_no_locks(tmp_path, monkeypatch):
    def no_locks(_descriptor: int, _kind: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    synced: list[bool] = []
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    with replacing(tmp_path / "out"):
        pass
    assert synced == [False, True]


def test_one_folder_under_two_names_is_locked_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    with replacing(tmp_path / "a" / "x", tmp_path / "b" / "y"):
        pass
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x", "y"]
