"""Chunks of rows worked on by several threads, each of which keeps its chunk in its own cache.

torch shares every single operation among its threads, which wait for each other after each; here
a thread takes a chunk through all operations of a network.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

LEAST = 256               # rows of a chunk: fewer are not worth another thread
#: Rows are divided into as many shares, whatever the number of threads that work on them: what is
#: summed share by share is the same for any number of threads.
NUM_SHARES = 16

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)        # threads do not live on in a child
_mine = threading.local()                               # of a thread: .number of its shares


def in_shares(work: Callable[[list[slice]], Result], count: int, most: int,
              least: int = LEAST) -> list[Result]:
    """Let torch's number of threads work on `count` rows.

    Which rows a share has depends on `count` and `most` alone, neither on the number of threads nor
    on which is ahead, and torch has one thread in each share: the results are the same bits each
    time, for any number of threads.

    Args:
        work: from slices of the rows, one after another, to a result. It runs without gradient.
        count: rows.
        most: rows of a slice.
        least: rows that are worth another thread.
    Returns:
        The result of each share; none where there are no rows.
    """
    number = num_threads()
    num_shares = min(NUM_SHARES, count // least) or 1
    rounds = -(-count // (most * num_shares))
    size = -(-count // (rounds * num_shares)) if count else 0
    slices = [slice(start, min(start + size, count)) for start in range(0, count, size or 1)]
    shares = [slices[first::num_shares] for first in range(min(num_shares, len(slices)))]
    if min(number, len(shares)) <= 1:
        with _one_thread():
            return [_without_gradient(work, share) for share in shares]
    pool = _pool(min(number, NUM_SHARES))
    futures = [pool.submit(_without_gradient, work, share) for share in shares]
    return [future.result() for future in futures]


def num_threads() -> int:
    """Return how many threads work on shares: torch's number, if `only_shares` has not taken it."""
    return getattr(_mine, "number", 0) or torch.get_num_threads()


def shares_of(rows: Tensor, work: Callable[[list[slice]], Result], most: int) -> list[Result]:
    """`in_shares` of the rows of a tensor; all of them at once on a GPU, without gradient."""
    if rows.device.type == "cpu":
        return in_shares(work, len(rows), most)
    return [_without_gradient(work, [slice(0, len(rows))])]


@contextmanager
def only_shares() -> Iterator[None]:
    """Work in which shares have torch's number of threads, and single operations one.

    torch's own threads wait for their next operation at full speed, some milliseconds long, on
    cores that the shares need.
    """
    before, whole = getattr(_mine, "number", 0), torch.get_num_threads()
    _mine.number = before or whole
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(whole)
        _mine.number = before


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread in this one."""
    whole = torch.get_num_threads()
    if whole == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(whole)


def _without_gradient(work: Callable[[list[slice]], Result], share: list[slice]) -> Result:
    with torch.no_grad():
        return work(share)


def _pool(num_threads: int) -> ThreadPoolExecutor:
    """As many threads, in each of which torch has one."""
    if num_threads not in _pools:
        whole = torch.get_num_threads()
        all_there = Barrier(num_threads)

        def _begin() -> None:
            torch.set_num_threads(1)
            torch.ones(1 << 16).sum()               # torch sets a thread up at its first operation
            torch.set_num_threads(1)
            all_there.wait()

        pool = ThreadPoolExecutor(num_threads, "chunks", initializer=_begin)
        for future in [pool.submit(int) for _ in range(num_threads)]:
            future.result()
        torch.set_num_threads(whole)                # new threads take the number set last
        _pools[num_threads] = pool
    return _pools[num_threads]
