"""The memory of a step, computed from the tensors that are held at once."""
from __future__ import annotations

import torch

from stages.gpu_figures.memory import LiveMemory, step_memory
from stages.gpu_figures.setup import MeasureSetup
from utils.fast.tracing import gpu_tracer


def test_what_is_held_is_counted_while_it_is():
    with LiveMemory() as memory:
        one = torch.zeros(1000, device="meta")
        view = one[:10].reshape(2, 5)                      # of the same memory
        assert (memory.held, memory.peak) == (4000, 4000)
        other = one.double()
        assert memory.held == 12_000
        del other
        assert (memory.held, memory.peak) == (4000, 12_000)
        one += 1
        del one
        assert memory.held == 4000, "the view still holds it"
        del view
        assert (memory.held, memory.peak) == (0, 12_000)


def test_what_a_backward_pass_needs_is_held_until_then():
    with LiveMemory() as memory:
        weight = torch.ones(50, 100, device="meta", requires_grad=True)
        loss = (torch.ones(30, 100, device="meta") @ weight.T).relu().sum()
        # inputs 30 x 100, the ReLU's result 30 x 50, the weights and the sum
        assert memory.held == 4 * (50 * 100 + 30 * 100 + 30 * 50 + 1)
        loss.backward()
        assert memory.held == 4 * (2 * 50 * 100 + 1)       # weights, their gradient, the sum


def test_a_step_takes_more_with_more_views(tiny_scene, tmp_path, monkeypatch):
    # each step of a march is like the others
    monkeypatch.setattr(gpu_tracer, "TIERS", ((2, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 2)
    setup = MeasureSetup(tmp_path, str(tiny_scene), 6, 1.0, "cpu")
    few, many = (step_memory(setup, views, (64, 48)) for views in (2, 4))
    assert few["fits"] == [24, 48, 80] and few["resolution"] == "64x48"
    # two targets more, and two sources more: at most four times as many samples
    assert 1.2 < many["image_step_gb"] / few["image_step_gb"] < 4
    assert all(found["held_gb"] < found["shape_step_gb"] for found in (few, many))
