"""Result files that are either whole or not there."""
from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import WriteError

#: Names of files that are not whole yet: those of `whole_file`, and of `utils.checkpoints.storage`.
PART = re.compile(r"\.(?P<stem>.+)\.(?P<process>\d+)\.part(?P<suffix>\.\w+)?")
TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once the block ends without an error.

    A file that was there before stays as it was until then, and for good if the block fails.

    Args:
        path: where the result goes; its folder is made if need be.
    Yields:
        a path in the same folder with the same suffix, to be written by the block.
    Raises:
        WriteError: the folder or file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise WriteError(f"{path} could not be written: {error.strerror or error}; free some space "
                         "or choose a folder that you may write to") from error
    finally:
        if path.parent.is_dir():
            part.unlink(missing_ok=True)


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
    """Whether a process of this number runs here."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:                        # another user's
        return True
    return True

BYTES_PER_MIB = 2**20


def write_text_atomic(path: str | os.PathLike, text: str) -> None:
    """Writes a text file (UTF-8) in one go; errors as `save_checkpoint`."""
    write_atomic(Path(path), lambda stream: stream.write(text.encode("utf-8")))


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp",
                                             dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _usual_mode())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        told = _write_error(path, error)
        if told is None:
            raise
        raise told from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _usual_mode() -> int:
    """The mode that a file made by `open` gets; temporary files are private otherwise."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename survives a power cut."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_error(path: Path, error: Exception) -> WriteError | None:
    """Turns an error of the system into one that says what to do; None for other errors.

    torch reports a failed write as a RuntimeError, with or without the system's error as context.
    """
    cause = error if isinstance(error, OSError) else error.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and _is_full(path)):
        free = shutil.disk_usage(path.parent).free // BYTES_PER_MIB
        return WriteError(f"cannot write {path}: the disk of {path.parent} is full ({free} MiB "
                          f"free); make room, or give another place with --logging_root. The "
                          f"previous file, if any, is as it was")
    if number is None:
        return None
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WriteError(f"cannot write {path}: no permission in {path.parent}; change its mode "
                          f"or owner, or give another place with --logging_root")
    return WriteError(f"cannot write {path}: {cause.strerror or cause}; give another place with "
                      f"--logging_root")


def _is_full(path: Path) -> bool:
    """Tells whether less than a MiB is left where `path` is to be."""
    return path.parent.is_dir() and shutil.disk_usage(path.parent).free < BYTES_PER_MIB
