"""Rows dealt to threads: each row once, the same share each time, torch's threads as they were."""
from __future__ import annotations

import os
import select
import signal
import threading

import pytest
import torch

from utils.fast.threads import LEAST, NUM_SHARES, in_shares


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """torch's number of threads, set back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, LEAST - 1, LEAST, 3 * LEAST, 5000, 5003])
def test_each_row_once_in_slices_that_are_short_enough(threads, count):
    shares = in_shares(list, count, 600)
    slices = sorted((part.start, part.stop) for share in shares for part in share)
    rows = [row for start, stop in slices for row in range(start, stop)]
    assert rows == list(range(count))
    assert all(stop - start <= 600 for start, stop in slices)
    assert len(shares) == min(NUM_SHARES, max(count // LEAST, 1), count)
    assert shares == in_shares(list, count, 600)


def test_sums_of_shares_are_the_same_bits_for_any_number_of_threads():
    """Products and sums of rows, as gradients of weights are: within a share torch has one thread,
    and which rows it has does not depend on the number of threads."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, generator=generator) for size in ((40_003, 24), (24, 24)))
    before, found = torch.get_num_threads(), []
    for count in (300, 5003, 40_003):
        def work(share):
            return sum((rows[part] @ weight).T @ rows[part] + rows[part].square().sum()
                       for part in share)

        sums = []
        for number in (1, 2, 3, 4, 20):
            torch.set_num_threads(number)
            sums.append(torch.stack(in_shares(work, count, 4096)).sum(0))
            assert torch.get_num_threads() == number
        found += [torch.equal(sums[0], other) for other in sums[1:]]
    torch.set_num_threads(before)
    assert all(found)


def test_shares_run_beside_each_other_with_one_thread_of_torch_each(threads):
    """A barrier that all of them must reach at once."""
    barrier = threading.Barrier(threads)

    def look(share):
        barrier.wait(timeout=60)
        return torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    found = in_shares(look, threads * LEAST, LEAST)
    assert [(number, has_grad) for number, has_grad, _ in found] == [(1, False)] * threads
    assert len({ident for _, _, ident in found}) == threads
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()


def test_errors_reach_the_caller(threads):
    def fail(share):
        raise FloatingPointError("of a share")

    with pytest.raises(FloatingPointError, match="of a share"):
        in_shares(fail, threads * LEAST, LEAST)


def test_a_forked_process_has_threads_of_its_own():
    """The parent's are not alive in it: a child that waited for them would never end."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = in_shares(lambda share: sum(part.stop for part in share), 2000, 300)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            torch.set_num_threads(2)
            found = in_shares(lambda share: sum(part.stop for part in share), 2000, 300)
            os.write(writer, repr(found).encode())
            os._exit(0)
        os.close(writer)
        ready, _, _ = select.select([reader], [], [], 60)
        found = os.read(reader, 1000).decode() if ready else "no answer"
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert found == repr(expected)
    finally:
        torch.set_num_threads(before)
