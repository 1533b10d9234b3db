"""A file that is written is whole or not there, whichever of the three doors it goes through."""
import errno
import os

import pytest

from utils.errors import UserError, WriteError
from utils.files import atomic
from utils.files.atomic import remove_parts, whole_file, write_atomic, write_text_atomic


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "result.txt"
    with whole_file(path) as part:
        part.write_text("new")
        assert not path.exists() and part.suffix == ".txt"
    assert path.read_text() == "new" and names_in(path.parent) == ["result.txt"]


@pytest.mark.parametrize("error, seen_as", [
    (OSError(28, "No space left on device"), WriteError), (KeyError("a bug"), KeyError),
    (RuntimeError("a bug"), RuntimeError), (UserError("bad input"), UserError)])
def test_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, error, seen_as):
    path = tmp_path / "result.txt"
    path.write_text("earlier")
    with pytest.raises(Exception) as caught, whole_file(path) as part:
        part.write_text("half")
        raise error
    assert type(caught.value) is seen_as
    assert path.read_text() == "earlier" and names_in(tmp_path) == ["result.txt"]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(WriteError, match="result.txt"), whole_file(tmp_path / "result.txt"):
        pass


def test_files_have_the_usual_mode_and_the_very_bytes(tmp_path):
    write_text_atomic(tmp_path / "ours.txt", "ü\r\n")
    (tmp_path / "usual.txt").write_text("")
    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "usual.txt").stat().st_mode
    assert (tmp_path / "ours.txt").read_bytes() == "ü\r\n".encode()
    write_atomic(tmp_path / "ours.txt", lambda stream: stream.write(b"\0\xff"))
    assert (tmp_path / "ours.txt").read_bytes() == b"\0\xff"


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """Else a power cut could leave the new name with nothing behind it."""
    events = []
    for name in ("fsync", "replace"):
        inner = getattr(os, name)
        monkeypatch.setattr(atomic.os, name, lambda *args, name=name, inner=inner: (
            events.append(name), inner(*args)))
    write_text_atomic(tmp_path / "result.txt", "new")
    assert events == ["fsync", "replace", "fsync"]
    write_atomic(tmp_path / "picture.png", lambda stream: stream.write(b"new"), is_flushed=False)
    assert events[3:] == ["replace"]


@pytest.mark.parametrize("number, words", [
    (errno.ENOSPC, ["is full", "MiB free"]), (errno.EDQUOT, ["is full"]),
    (errno.EACCES, ["no permission"]), (errno.EROFS, ["no permission"]), (errno.EIO, []),
    (errno.EMFILE, ["too many open files", "ulimit -n"])])
def test_errors_name_the_file_the_cause_and_the_cure(tmp_path, monkeypatch, number, words):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(WriteError) as caught:
        write_text_atomic(tmp_path / "result.txt", "new")
    cure = [] if number == errno.EMFILE else ["--logging_root"]     # no folder is at fault there
    wanted = ["cannot write", str(tmp_path / "result.txt"), *cure, *words]
    assert all(word in str(caught.value) for word in wanted)
    assert names_in(tmp_path) == []


def test_halves_of_processes_that_are_gone_are_removed(tmp_path):
    """Names of this version, of a process that is gone and of this one; and of earlier ones."""
    gone = 2 ** 22 + 1                     # beyond the greatest number of a process on Linux
    kept = [f".a.{os.getpid()}.part.png", "a.png", ".other.12345678.tmp"]
    for name in [*kept, f".a.{gone}.part.png", ".a.png.abcd_123.tmp"]:
        (tmp_path / name).write_text("half")
    remove_parts(tmp_path, ["a.png"])
    assert names_in(tmp_path) == sorted(kept)
    remove_parts(tmp_path / "absent")
