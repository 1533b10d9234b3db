"""How torch's threads wait for each other, and what other programs leave of the processors.

Imports no torch, so that it can speak before that is loaded.
"""
from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

#: How often a thread of torch's (GNU OpenMP) looks for work before it sleeps, and the variables
#: that say it. Measured in docs/reliability.md.
NUM_SPINS, SPINS, WAITING = "10000", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
#: Seconds of all processors since the machine started, Linux alone.
STAT = Path("/proc/stat")
#: Shorter times tell nothing: the kernel counts in steps of 0.01 s.
SHORTEST_SECONDS = 0.3


def limit_spinning() -> None:
    """Let torch's threads sleep soon when they wait for each other, on every machine.

    Threads that spin longer take the processor from whatever else runs, the program's own Python
    threads included. It has to be said before torch is loaded, and what the user has set stays;
    numbers are the same.
    """
    if not {WAITING, SPINS} & os.environ.keys() and "torch" not in sys.modules:
        os.environ[SPINS] = NUM_SPINS


def waiting() -> str:
    """Return how threads wait, for the log: the variables that are set."""
    return "".join(f", {name} {os.environ[name]}" for name in (SPINS, WAITING)
                   if name in os.environ)


@dataclass(frozen=True)
class Usage:
    """What was used at a moment, in seconds: the clock, all processors, this process."""

    clock: float
    machine: float
    process: float

    @classmethod
    def now(cls) -> Usage | None:
        """Read the counters; None where the system has no /proc/stat."""
        try:
            fields = STAT.read_text().split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, *interrupts = map(float, fields)
        except (OSError, ValueError):
            return None
        busy = user + nice + system + sum(interrupts[:3])              # guests are in user already
        return cls(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time())

    def others(self, later: Usage) -> float | None:
        """Return how many processors other programs used until a later moment, in the mean; None
        where it is too near.
        """
        seconds = later.clock - self.clock
        if seconds < SHORTEST_SECONDS:
            return None
        return max(0.0, later.machine - self.machine - later.process + self.process) / seconds


#: When the program began: scripts import this module first of all.
BEGIN = Usage.now()


def advice_when_busy(threads: int, *, begin: Usage | None = BEGIN, now: Usage | None = None,
                     processors: int | None = None) -> str | None:
    """Return what to tell where other programs leave fewer processors than this has threads.

    Threads share the work evenly and wait for the slowest, which shares its processor: fewer
    threads are faster then. How many there are is the user's choice, as it changes the last bits.

    Args:
        threads: of torch's.
        begin, now: between which it is measured; `now` None: at this moment.
        processors: of the machine; None: as the system tells.
    Returns:
        A line; None where there is nothing to tell, or nothing is known.
    """
    now, processors = now or Usage.now(), processors or os.cpu_count() or 1
    used = begin.others(now) if begin and now else None
    if used is None or threads < 2:
        return None
    free = max(1, round(processors - used))
    if free >= threads:
        return None
    return (f"other programs use {used:.1f} of {processors} processors: {threads} threads would "
            f"wait for each other, `--num_threads {free}` is faster beside them")
