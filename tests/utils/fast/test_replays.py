"""Work that is replayed, against the same work done again; what cannot be recorded is told."""
from __future__ import annotations

import pytest
import torch
from support.pretended_gpu import HostWaits, pretended_gpu
from torch import Tensor, nn

from utils.errors import ConfigError
from utils.fast.recorded_operations import OperationNotes, OperationRecording, RecordingError
from utils.fast.replays import NUM_BEFORE, GraphRecording, Replayed


class Work:
    """A small training step: a convolution, batch statistics, a gradient, changed memory."""

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4).to(device)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(4, 3, 3, 3, generator=generator))
            self.layer.bias.zero_()
        self.layer.to(device)
        self.count = torch.zeros(3, device=device)

    def __call__(self, images: Tensor, row: Tensor) -> list[Tensor | None]:
        """The loss, its gradient, nothing, and a view of what was counted."""
        self.layer.zero_grad(set_to_none=True)
        hidden = self.norm(self.layer(images)).relu()
        loss = hidden[row].square().mean() + hidden.expand(2, *hidden.shape).sum()
        loss.backward()
        self.count[1:].add_(1)
        return [loss.detach(), self.layer.weight.grad, None, self.count.view(1, 3)]

    def state(self) -> list[Tensor]:
        """All that it changed."""
        return [self.norm.running_mean, self.norm.running_var, self.norm.num_batches_tracked,
                self.count]


def inputs(seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Images and a row of them."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 3, 6, 5, generator=generator).to(device),
            torch.randint(2, (1,), generator=generator).to(device))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_replayed_work_has_the_bits_of_the_work(device):
    with pretended_gpu():
        plain, work = Work(device), Work(device)
        replayed = Replayed(work, device)
        for seed in range(NUM_BEFORE + 3):
            expected, found = plain(*inputs(seed, device)), replayed(*inputs(seed, device))
            assert all(one is other is None or torch.equal(one, other)
                       for one, other in zip(expected, found, strict=True))
            with torch.no_grad():                          # weights change in between
                for step in (plain, work):
                    step.layer.weight.mul_(0.9)
        assert all(map(torch.equal, plain.state(), work.state()))
        kind = OperationRecording if device == "cpu" else GraphRecording
        assert isinstance(replayed.recording, kind)


def test_numbers_of_the_host_stay_as_they_were():
    """As in a CUDA graph: the record is not blind to what it cannot know."""
    factor = [1.0]
    replayed = Replayed(lambda x: [x * factor[0]], "cpu")
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        factor[0] = value
        (found,) = replayed(torch.ones(2))
    assert found.tolist() == [3, 3]


@pytest.mark.parametrize("work", [
    lambda x: [x * float(x.sum())], lambda x: [x[x > 0]], lambda x: [(x > 0).nonzero()],
    lambda x: [x.unique()], lambda x: [x] if bool((x > 0).all()) else [-x]])
def test_values_that_are_read_are_refused(work):
    replayed = Replayed(work, "cpu")
    for _ in range(NUM_BEFORE):
        replayed(torch.ones(3))
    with pytest.raises(ConfigError, match="cannot be recorded .*; give --cuda_graphs 0"):
        replayed(torch.ones(3))
    with pytest.raises(RecordingError, match="reads values on the host"):
        OperationRecording(lambda: work(torch.ones(3)))


def test_a_gpu_refuses_them_too():
    with pretended_gpu():
        replayed = Replayed(lambda x: [x * torch.ones(3).to("cuda")], "cuda")
        for _ in range(NUM_BEFORE):
            replayed(torch.ones(3, device="cuda"))
        with pytest.raises(HostWaits, match="a copy of"):
            replayed(torch.ones(3, device="cuda"))


def test_memory_that_is_refused_stays_what_it_is():
    def work(x):
        if replayed.num_done > NUM_BEFORE:
            raise torch.OutOfMemoryError("too much")
        return [x]

    replayed = Replayed(work, "cpu")
    replayed(torch.ones(1)), replayed(torch.ones(1))
    with pytest.raises(torch.OutOfMemoryError):
        replayed(torch.ones(1))


def test_other_shapes_are_refused():
    replayed = Replayed(lambda x: [2 * x], "cpu")
    for _ in range(NUM_BEFORE + 1):
        replayed(torch.ones(3))
    for other in (torch.ones(1), torch.ones(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="recorded for inputs"):
            replayed(other)


def test_operations_are_noted_with_their_shapes():
    ones = torch.ones(2, 3)
    with OperationNotes() as notes:
        ones.sum(0).mul_(2)
    assert notes.shapes() == [("sum", ((3,),)), ("mul_", ((3,),))]


def test_views_and_unfilled_memory_are_no_launches():
    ones = torch.ones(2, 3)
    with OperationNotes() as notes:
        torch.empty(4)
        ones.view(6)[1:].add_(1)
        (ones.T * 2).sum()
    assert notes.num_computing() == 3 < len(notes.steps)
