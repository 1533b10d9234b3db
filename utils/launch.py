"""Start a script in several processes of this machine that talk over its loopback interface alone.

    python -m utils.launch 4 experiment_scripts/train_sdf_ibr_meta.py ... --meta_batch_size 4

It does what `torchrun --nproc_per_node 4` does on one machine, but nothing listens where others may
reach it: torchrun's agent listens on all interfaces. The processes find each other by a file.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from utils.errors import ConfigError
from utils.runs.script import run_script

#: Names the file by which the processes find each other; `utils.runs.distributed` reads it.
STORE_VARIABLE = "METANLR_STORE"
PATIENCE_SECONDS = 60.0           # for the others to end by themselves once one has failed
POLL_SECONDS = 0.2
USAGE = "python -m utils.launch NUM_PROCESSES SCRIPT [FLAGS OF THE SCRIPT]"


def launch(num_processes: int, command: Sequence[str]) -> int:
    """Run a Python script in several processes, and wait for all of them.

    Signals that end this process are passed on; the processes save and end by themselves.

    Args:
        num_processes: of this machine.
        command: the script and its arguments.
    Returns:
        0, or the exit code of the first process that failed; of a signal, 128 and its number.
    """
    with tempfile.TemporaryDirectory(prefix="metanlr_") as folder:
        common = os.environ | {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1",
                               "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                               STORE_VARIABLE: str(Path(folder) / "store")}
        # in sessions of their own: a terminal's interrupt would reach them twice, and a second
        # signal ends a run without saving
        started = [subprocess.Popen([sys.executable, *command], start_new_session=True,
                                    env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
                   for rank in range(num_processes)]

        def pass_on(number: int, _: FrameType | None) -> None:
            for process in started:
                if process.poll() is None:
                    process.send_signal(number)

        before = {number: signal.signal(number, pass_on)
                  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            return _first_failure(started)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _first_failure(started: Sequence[subprocess.Popen]) -> int:
    """Wait for all processes; return 0 or the first exit code that is not, signals over 128."""
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in started):
        time.sleep(POLL_SECONDS)
        failed = failed or next((process.returncode for process in started
                                 if process.returncode), 0)
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + PATIENCE_SECONDS
        if time.monotonic() > deadline:
            for process in started:
                process.kill()
    failed = failed or next((process.returncode for process in started if process.returncode), 0)
    return 128 - failed if failed < 0 else failed


def main(argv: Sequence[str] | None = None) -> None:
    """Read the number and the script, run it, and exit as it did."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) < 2 or not arguments[0].isdecimal() or int(arguments[0]) < 1:
        raise ConfigError(f"found {' '.join(arguments) or 'nothing'}, needed a number of processes "
                          f"and a script: {USAGE}")
    sys.exit(launch(int(arguments[0]), arguments[1:]))


if __name__ == "__main__":
    run_script(main)
