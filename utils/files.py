"""Result files that are either whole or not there."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import WriteError


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
