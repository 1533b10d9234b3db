"""A sign of life where a script says nothing for some seconds: what it said last, and when."""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: Nothing is silent for longer, seconds.
PATIENCE_SECONDS = 5.0


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
        """Write signs of life while the block runs; a line of progress on the screen is one."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(min(1.0, self.patience)):
                if _shows_progress():
                    self._last = time.monotonic()
                elif text := self.due(time.monotonic()):
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
    bars = sys.modules.get("tqdm")
    return bars is not None and len(getattr(bars.tqdm, "_instances", ())) > 0
