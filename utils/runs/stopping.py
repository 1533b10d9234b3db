"""Signals that stop a run: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

During training the first signal lets the step finish, a checkpoint is saved, and the run ends. A
second one ends it at once, as does the first outside of training. The exit code is 128 plus the
signal's number: 130, 143 or 129.

Schedulers and `timeout` send SIGTERM, a terminal that is closed SIGHUP. A signal that was ignored
when the process started, as SIGHUP under `nohup`, stays ignored.

A run may also be paused: by a file in its folder, which the live viewer makes, or anyone with
`touch`. The loop looks for it before each step. While it is there the run waits; whoever deletes it
lets the run go on. A pause ends with its process: a run that is started again does not wait.
"""
from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from utils.errors import WriteError
from utils.runs.lock import is_held

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")              # Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
PAUSE_NAME = "pause"
#: Between looks at whether a pause has ended.
LOOK_SECONDS = 0.2


class RunStopped(KeyboardInterrupt):
    """A signal has stopped the run.

    Args:
        number: of the signal.
        message: what was saved, and how to resume; empty if that is not known.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.message = number, message

    @property
    def exit_code(self) -> int:
        """The exit code by which shells and schedulers know the signal."""
        return 128 + self.number


class StopRequest:
    """Whether a signal has asked the training to stop.

    Attributes:
        number: of that signal, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first signal during the block; from then on signals do what they did before it."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        """Remember the signal; say what follows from it."""
        request.number = number
        handlers.restore()
        # not through sys.stderr, in the midst of whose writing the signal may have come
        os.write(2, f"\n{signal.Signals(number).name}: finishes this step, saves it, and stops; "
                    "a second signal stops at once\n".encode())

    handlers = _Handlers(note, SIGNALS)
    with handlers:
        yield request


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise RunStopped in the block, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        """Raise in place of whatever the signal interrupts."""
        raise RunStopped(number)

    with _Handlers(stop, SIGNALS[1:]):
        yield


def ignore_signals() -> None:
    """Let a worker process ignore the signals, which the terminal or torchrun send to all."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Handlers:
    """Handles signals in a block; in the main thread alone, as Python allows it nowhere else."""

    def __init__(self, handler: Callable[[int, FrameType | None], None],
                 signals: tuple[int, ...]) -> None:
        self.handler, self.signals = handler, signals
        self.earlier: dict[int, Any] = {}

    def __enter__(self) -> _Handlers:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                earlier = signal.getsignal(number)
                if earlier not in (signal.SIG_IGN, None):    # None: not set by Python
                    self.earlier[number] = earlier
                    signal.signal(number, self.handler)
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Set the handlers that there were before."""
        while self.earlier:
            number, earlier = self.earlier.popitem()
            signal.signal(number, earlier)


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
