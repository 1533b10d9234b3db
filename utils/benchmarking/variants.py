"""Timing variants of one job against each other: each in its own process, runs interleaved.

A variant's process holds what it measures, so that allocator settings and peak memory are its own.
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

#: What a variant offers: name of a measurement to a function that does the work once and returns
#: further figures of it (its own "ms" is taken instead of the time of the call), or None.
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
        """Do a job once: {"ms", "peak_mib", ...} with what the job itself returns."""
        self._connection.send(job)
        try:
            found = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: the process ended while measuring {job}") from None
        if isinstance(found, str):
            raise RuntimeError(f"{self.name}, {job}: {found}")
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Connection, make_jobs: Callable[..., Jobs], arguments: tuple) -> None:
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
    """One run of a job, the device idle before and after."""
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
    """Let the peak of memory begin anew, where the system can."""
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")                 # Linux: resets VmHWM


def _peak_mib(is_cuda: bool) -> float:
    """Peak since `_forget_peak`: allocated on the device, else resident in the process."""
    if is_cuda:
        return torch.cuda.max_memory_allocated() / MIB
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def interleaved(variants: Sequence[Variant], job: str, repeats: int,
                *, warm_up: int = 1) -> dict[str, dict[str, float]]:
    """Medians over `repeats` runs of a job, the variants by turns, after `warm_up` runs of each."""
    runs: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for _ in range(warm_up + repeats):
        for variant in variants:
            runs[variant.name].append(variant.measure(job))
    return {name: {key: statistics.median(run[key] for run in found[warm_up:])
                   for key in found[-1]} for name, found in runs.items()}


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """The machine's matrix product, FLOP/s: median of several products of square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size ** 3 / median_seconds(lambda: torch.mm(a, b, out=out), device)


def median_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Median time of ten runs of a piece of work, after two to warm up."""
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])
