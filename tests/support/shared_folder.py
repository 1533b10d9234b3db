"""Files that are made once for all processes which run the tests beside each other."""
from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class SharedFolder:
    """A folder whose parts are each written by the first process that asks for them.

    Args:
        path: the folder, the same in all processes; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, write: Callable[[Path], None]) -> Path:
        """Return the part of this name; whoever asks while it is written waits for it.

        Args:
            name: of the part.
            write: fills an empty folder with it. An error leaves nothing behind: the next process
                that asks tries again.
        """
        part, draft = self.path / name, self.path / f".{name}"
        with open(self.path / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)             # released at the end of the block
            if not part.exists():
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                write(draft)
                draft.rename(part)
        return part
