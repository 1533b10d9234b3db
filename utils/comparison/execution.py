"""Running the runs of a list in turn, each as a process of its own."""
from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from utils.comparison.run_lists import FAILED, ListedRun, last_lines
from utils.errors import WriteError
from utils.files.text import visible

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 15.0           # between two requests to end a process


def execute(runs: Sequence[ListedRun]) -> int:
    """Run in turn what is not finished; return how many failed, which are reported and skipped.

    An interrupt stops the present run, which resumes from its last checkpoint the next time.

    Raises:
        WriteError: the folder of the runs cannot be written.
    """
    todo = [run for run in runs if run.metrics() is None]
    num_failed = 0
    with (_terminated_as_interrupted(),
          tqdm(total=len(runs), initial=len(runs) - len(todo), unit="run", desc="runs",
               dynamic_ncols=True) as bar):
        for run in todo:
            if not run.has_other_flags():
                _run(run, bar)
            if run.metrics() is None:
                num_failed += 1
                bar.write(visible(f"{run.folder.name}: {run.gap()}"), file=sys.stderr)
            bar.update()
    return num_failed


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Handle a request to end, as schedulers send it, like an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield                              # handlers cannot be set here
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(run: ListedRun, bar: tqdm) -> None:
    """Run one to its end, with its progress on the bar and a failure's exit code in its log."""
    if run.digest:
        run.write_digest()
    try:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        output = run.log.open("wb")
    except OSError as error:
        raise WriteError(f"{run.log} cannot be written: {error.strerror}; give another "
                         "--output") from error
    with output:
        # In a session of its own, so that an interrupt reaches it once, from here.
        process = subprocess.Popen(run.command, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None:
                bar.set_postfix_str(f"{run.folder.name} {_progress(run.log)}")
                time.sleep(POLL_SECONDS)
        finally:
            _stop(process)
        if process.returncode != 0:
            output.write(f"\n{FAILED} {process.returncode}\n".encode())


def _stop(process: subprocess.Popen) -> None:
    """Ask a process to end, more firmly each time, until it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _progress(log: Path) -> str:
    """Return how far the bar at the end of a log is, as "120/400"; '' where there is none."""
    found = re.findall(r"\d+/\d+(?= \[)", " ".join(last_lines(log, 1)))
    return found[-1] if found else ""
