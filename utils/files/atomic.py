"""Result files that are either whole or not there."""
from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

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
