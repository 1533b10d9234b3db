"""Parts of a measurement, one after the other, each in a process of its own and within its time.

A part writes each figure to the disk as soon as it has it. What a part does to its process (an
illegal access on a GPU ends it for good) does not touch the others, and whatever is cut short
leaves what it had found. The processes are forked from one that has imported what they need, as
the import of torch takes seconds and up to half a minute where its files are not in memory.
"""
from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files.atomic import write_text_atomic

log = logging.getLogger(__name__)

LEAST_SECONDS = 3.0       # a part that has less is left out
GRACE_SECONDS = 5.0       # past its time, before a part is ended
LAST_LINES = 5            # of a traceback, in the figures
CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Part:
    """One part of a measurement.

    Attributes:
        name: of the part and of its figures.
        share: of the time, relative to the shares of the parts that are still to come.
        measure: a function of a module, called in a process of its own with the setup and the
            `Recorder` that takes its figures.
    """

    name: str
    share: float
    measure: Callable[[Any, Recorder], None]


class Recorder:
    """What a part has found so far; each figure is on the disk as soon as it is told.

    Args:
        path: JSON file of the figures.
        seconds: that the part may take from now on.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.figures = path, dict[str, Any]()
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, not below 0."""
        return max(self._end - time.monotonic(), 0.0)

    def note(self, name: str, value: Any) -> None:
        """Put a figure (numbers, texts, lists and dictionaries of them) under a name."""
        self.figures[name] = value
        write_text_atomic(self.path, json.dumps(as_json(self.figures), indent=1))

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Note what `work` returns, and return it.

        Where it fails, the error is noted under `failed` instead, and None is returned: one figure
        that cannot be had must not cost the others.
        """
        try:
            found = work()
        except Exception as error:
            traceback.print_exc()
            lines = traceback.format_exception(error)
            self.note(name, {"failed": "".join(lines[-LAST_LINES:])[-2000:]})
            return None
        self.note(name, found)
        return found


def as_json(value: Any) -> Any:
    """Return a value with what JSON lacks put into words: numbers that are not finite, paths."""
    if isinstance(value, dict):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def run_parts(parts: Sequence[Part], setup: Any, folder: Path, seconds: float, *,
              saved: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure parts in turn; what one leaves of its time goes to those after it.

    Args:
        parts: in order of worth.
        setup: what all of them are given; it is sent to their processes.
        folder: for their figures (`parts/NAME.json`) and what they print (`logs/NAME.txt`).
        seconds: of all parts together.
        saved: called after each part with the figures of all parts so far, by name.
    Returns:
        The figures of all parts by name; each has "seconds" and "ended" beside its own.
    """
    end, figures = time.monotonic() + seconds, {}
    CONTEXT.set_forkserver_preload([part.measure.__module__ for part in parts])
    for number, part in enumerate(parts):
        left = end - time.monotonic()
        budget = left * part.share / sum(later.share for later in parts[number:])
        if budget < LEAST_SECONDS:
            figures[part.name] = {"seconds": 0.0, "ended": "left out: no time was left"}
        else:
            log.info("%s: up to %.0f s", part.name, budget)
            figures[part.name] = _run(part, setup, folder, budget)
            log.info("%s: %s after %.0f s", part.name, figures[part.name]["ended"],
                     figures[part.name]["seconds"])
        saved(figures)
    return figures


def _run(part: Part, setup: Any, folder: Path, budget: float) -> dict[str, Any]:
    """Measure one part in a process of its own; return its figures."""
    path, printed = folder / "parts" / f"{part.name}.json", folder / "logs" / f"{part.name}.txt"
    printed.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_work, args=(part, setup, path, printed, budget))
    start = time.monotonic()
    process.start()
    try:
        process.join(budget + GRACE_SECONDS)
        is_cut = process.is_alive()
    finally:
        _end(process)
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ended = "cut off" if is_cut else "in time"
    if not is_cut and process.exitcode:
        ended = f"failed, exit code {process.exitcode}: {_last_line(printed)}"
    return figures | {"seconds": round(time.monotonic() - start, 1), "ended": ended}


def _end(process: Any) -> None:
    """End a process that still runs, by force if it does not end by itself."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _last_line(path: Path) -> str:
    """Return the last line of text in a file, or an empty text."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _work(part: Part, setup: Any, path: Path, printed: Path, budget: float) -> None:
    """Measure a part in the process that is its own; all that is printed goes to a file."""
    recorder = Recorder(path, budget)
    # ends this process if the one that waits for it was killed
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(budget + 3 * GRACE_SECONDS))
    with printed.open("w", encoding="utf-8") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        part.measure(setup, recorder)
