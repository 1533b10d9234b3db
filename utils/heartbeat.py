"""A sign of life where a script says nothing for some seconds: what it said last, and when.

A line of progress on the screen is drawn again instead, so that its clock goes on in a long step.
"""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

#: Of silence before a sign of life, seconds; with the second between looks nothing is silent for 5.
PATIENCE_SECONDS = 4.0


class Heartbeat:
    """Remembers the last thing that was said, and repeats it while nothing else is.

    Args:
        stream: where signs of life are written.
        patience: seconds of silence before each of them.
    """

    def __init__(self, stream: TextIO, patience: float = PATIENCE_SECONDS) -> None:
        self.stream, self.patience = stream, patience
        self._said, self._since, self._last = "", 0.0, 0.0

    def hears(self, message: str) -> None:
        """Note what a script says now: its first line begins what takes long."""
        self._said = (message.splitlines() or [""])[0][:100]
        self._since = self._last = time.monotonic()

    def due(self, now: float) -> str | None:
        """Return the sign of life that is due at a time; None before anything was said."""
        if not self._said or now - self._last < self.patience:
            return None
        self._last = now
        return f"... {self._said} ({now - self._since:.0f} s)"

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Write signs of life while the block runs; a line of progress is drawn again instead."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(min(1.0, self.patience)):
                now = time.monotonic()
                if _shows_progress():
                    if now - self._last >= self.patience:
                        self._last = now
                        _draw_progress()
                elif text := self.due(now):
                    self.stream.write(text + "\n")
                    self.stream.flush()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _shows_progress() -> bool:
    """Return whether a line of progress is on the screen."""
    return bool(_lines_of_progress())


def _draw_progress() -> None:
    """Draw the lines of progress as they are now, with the time that has passed."""
    for line in _lines_of_progress():
        line.refresh()


def _lines_of_progress() -> list[Any]:
    """Return tqdm's lines that are on the screen; none before tqdm is imported."""
    bars = sys.modules.get("tqdm")
    if bars is None or not hasattr(bars, "tqdm"):
        return []
    with bars.tqdm.get_lock():                             # the main thread opens and closes them
        return [line for line in getattr(bars.tqdm, "_instances", ()) if not line.disable]
