"""Files that are either whole or not there: the one way in which anything here is written.

The content goes into a temporary file beside its final place, is flushed to the disk and renamed.
Whoever looks finds the earlier file or the new one, never a half, whenever the process is killed or
the power fails. Flushing took 25 ms a file on a busy disk; pictures and flow files, written by the
hundred and made again at will, do without, and so are safe from kills alone.
"""
from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import WriteError

BYTES_PER_MIB = 2**20
#: Names of temporary files: those of `whole_file`, and those that earlier versions left.
PART = re.compile(r"\.(?P<stem>.+)\.(?P<process>\d+)\.part(?P<suffix>\.\w+)?")
TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")


@contextmanager
def whole_file(path: str | os.PathLike, *, is_flushed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place if the block ends without an error.

    A file that was there before stays as it was until then, and for good if the block fails. The
    suffix is the same, for libraries that choose a format by it.

    Args:
        path: where the result goes; its folder is made if need be.
        is_flushed: it is on the disk when the block ends, not only in the system's memory.
    Yields:
        a path in the same folder, to be written by the block.
    Raises:
        WriteError: the folder or file cannot be written; no permission, or no space.
    """
    path = Path(path)
    part = part_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if is_flushed:
            _sync_file(part)
        os.replace(part, path)
        if is_flushed:
            _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        told = _write_error(path, error)
        if told is None:
            raise
        raise told from error
    finally:
        if path.parent.is_dir():
            part.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, write: Callable[[BinaryIO], Any], *,
                 is_flushed: bool = True) -> None:
    """Let `write` fill a file in one go; `is_flushed` and errors are those of `whole_file`."""
    with whole_file(path, is_flushed=is_flushed) as part, part.open("wb") as stream:
        write(stream)


def write_text_atomic(path: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8, line ends as they are) in one go; errors as `whole_file`.

    Bytes of file names that are not UTF-8 are written as escapes, which JSON reads again.
    """
    write_atomic(path, lambda stream: stream.write(text.encode("utf-8", "backslashreplace")))


def part_path(path: Path) -> Path:
    """Return the temporary path of this process for a file; a leading dot hides it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def remove_parts(folder: Path, names: Collection[str] = ()) -> None:
    """Delete what killed processes left of files that they had begun to write.

    What a process that still lives has begun stays: an evaluation may be at work beside a run.

    Args:
        folder: it need not exist.
        names: of the whole files; empty: all.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        part, temporary = PART.fullmatch(path.name), TEMPORARY.fullmatch(path.name)
        if part and not _is_alive(int(part["process"])):
            name = part["stem"] + (part["suffix"] or "")
        elif temporary:
            name = temporary["name"]
        else:
            continue
        if not names or name in names:
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Return whether a process of this number runs here."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:                        # another user's
        return True
    return True


def _sync_file(path: Path) -> None:
    """Flush a written file to the disk, so that the rename cannot overtake its content."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_error(path: Path, error: Exception) -> WriteError | None:
    """Return an error of the system as one that says what to do; None for other errors.

    torch reports a failed write as a RuntimeError, with or without the system's error as context.
    """
    cause = error if isinstance(error, OSError) else error.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and _is_full(path)):
        free = shutil.disk_usage(path.parent).free // BYTES_PER_MIB
        return WriteError(f"cannot write {path}: the disk of {path.parent} is full ({free} MiB "
                          f"free); make room, or give another folder (a run's is "
                          "--logging_root). The previous file, if any, is as it was")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WriteError(f"cannot write {path}: no permission in {path.parent}; change its mode "
                          "or owner, or give another folder (a run's is --logging_root)")
    if number in (errno.EMFILE, errno.ENFILE):
        return WriteError(f"cannot write {path}: too many open files; allow more (`ulimit -n "
                          "1024`), or close other programs")
    if not isinstance(cause, OSError):
        return None
    return WriteError(f"cannot write {path}: {cause.strerror or cause}; give another folder (a "
                      "run's is --logging_root)")


def _is_full(path: Path) -> bool:
    """Return whether less than a MiB is left where `path` is to be."""
    return path.parent.is_dir() and shutil.disk_usage(path.parent).free < BYTES_PER_MIB
