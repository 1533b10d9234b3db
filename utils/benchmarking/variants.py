"""Timing variants of the same jobs: each variant in its own process, runs interleaved.

A process of its own keeps a variant's allocator settings and peak memory apart from the others'.
"""
from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

#: What a variant offers: name of a job to a function that does it once. It may return further
#: quantities that were measured; an "ms" among them replaces the time of the call.
Jobs = Mapping[str, Callable[[], dict[str, float] | None]]
MIB = 1 << 20
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Variant:
    """A process that holds one variant's jobs.

    Args:
        name: of the variant.
        make_jobs: a function of a module (so that it can be sent), called in the process.
        arguments: its arguments.
    """

    def __init__(self, name: str, make_jobs: Callable[..., Jobs], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_jobs, arguments),
                                        daemon=True)
        self._process.start()
        theirs.close()

    def measure(self, job: str) -> dict[str, float]:
        """Do a job once.

        Returns:
            "ms" and "peak_mib", and what the job itself returns.
        Raises:
            RuntimeError: the job failed, or the process ended.
        """
        self._connection.send(job)
        try:
            found = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: the process ended while measuring {job}") from None
        if isinstance(found, str):
            raise RuntimeError(f"{self.name}, {job}: {found}")
        return found

    def close(self) -> None:
        """End the variant's process, by force if it does not end by itself."""
        self._connection.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Connection, make_jobs: Callable[..., Jobs], arguments: tuple) -> None:
    """Do the jobs that are asked for over the connection until it is closed."""
    jobs = make_jobs(*arguments)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(_timed(jobs[job]))
        except (RuntimeError, MemoryError) as error:
            connection.send(f"{type(error).__name__}: {error}")


def _timed(job: Callable[[], dict[str, float] | None]) -> dict[str, float]:
    """Run a job once and time it, with the device idle before and after."""
    is_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    _forget_peak(is_cuda)
    if is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    further = job() or {}
    if is_cuda:
        torch.cuda.synchronize()
    elapsed = (time.perf_counter() - start) * 1e3
    return {"ms": elapsed, "peak_mib": _peak_mib(is_cuda), **further}


def _forget_peak(is_cuda: bool) -> None:
    """Reset the peak of memory, where the system can."""
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")                 # Linux: resets VmHWM


def _peak_mib(is_cuda: bool) -> float:
    """Return the peak since `_forget_peak`: allocated on the device, else resident, MiB."""
    if is_cuda:
        return torch.cuda.max_memory_allocated() / MIB
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def interleaved(variants: Sequence[Variant], job: str, repeats: int,
                *, warm_up: int = 1) -> dict[str, dict[str, float]]:
    """Return medians over interleaved runs of a job, by variant and quantity.

    Args:
        repeats: runs of each variant that count.
        warm_up: runs of each before them.
    """
    runs: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for _ in range(warm_up + repeats):
        for variant in variants:
            runs[variant.name].append(variant.measure(job))
    return {name: {key: statistics.median(run[key] for run in found[warm_up:])
                   for key in found[-1]} for name, found in runs.items()}


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Return the rate of the device's product of square matrices, FLOP/s; a median."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size ** 3 / median_seconds(lambda: torch.mm(a, b, out=out), device)


def median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return the median time of ten runs of `work`, seconds, after two to warm up."""
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])
