"""A pause of a run: a file in its folder, which the live viewer makes, or anyone with `touch`.

The loop looks for it before each step. While it is there the run waits; whoever deletes it lets the
run go on. A pause ends with its process: a run that is started again does not wait.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from utils.errors import WriteError
from utils.runs.lock import is_held

PAUSE_NAME = "pause"
#: Between looks at whether the pause has ended.
LOOK_SECONDS = 0.2


def is_paused(folder: Path) -> bool:
    """Return whether the run of a folder is to wait."""
    return (folder / PAUSE_NAME).exists()


def is_training(folder: Path) -> bool:
    """Return whether a process trains into a folder; False where the system has no locks."""
    return is_held(folder)


def set_paused(folder: Path, should_wait: bool) -> None:
    """Let the run of a folder wait, or go on.

    Raises:
        WriteError: the file cannot be made or deleted.
    """
    path = folder / PAUSE_NAME
    try:
        if should_wait:
            path.touch()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: cannot be {'made' if should_wait else 'deleted'} "
                         f"({error.strerror}), need write permission in the run's folder; "
                         "fix it with chmod") from error


def wait_while_paused(folder: Path, is_stopped: Callable[[], bool]) -> None:
    """Return when the run of a folder may go on, or is to stop."""
    while is_paused(folder) and not is_stopped():
        time.sleep(LOOK_SECONDS)
