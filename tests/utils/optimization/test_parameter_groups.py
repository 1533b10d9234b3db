"""Gradients are clipped; a stored state of Adam is taken if it is one of the same parameters."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from utils.optimization.parameter_groups import clip_gradients, load_adam, make_optimizer


@pytest.fixture
def made():
    """A layer, Adam over it, and its state after a step."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(3)).sum().backward()
    adam.step()
    return layer, adam, copy.deepcopy(adam.state_dict())


def test_a_state_comes_back(made):
    layer, _, state = made
    other = torch.optim.Adam(layer.parameters(), lr=0.2)
    load_adam(other, state)
    assert other.param_groups[0]["lr"] == 0.1
    assert all(torch.equal(other.state[weight]["exp_avg"], state["state"][i]["exp_avg"])
               for i, weight in enumerate(layer.parameters()))
    state["param_groups"][0]["lr"] = torch.tensor(0.3)     # as CUDA graphs keep it
    load_adam(other, state)
    other.step()


@pytest.mark.parametrize("change, words", [
    (lambda state: state["state"][0].update(exp_avg=torch.zeros(2)), "exp_avg is none of weights"),
    (lambda state: state["state"][0].pop("exp_avg_sq"), "exp_avg_sq is none of weights"),
    (lambda state: state["state"][0].update(step=torch.zeros(2)), "step is none of weights"),
    (lambda state: state["param_groups"][0].update(betas="ab"), "betas are of another kind"),
    (lambda state: state["param_groups"][0].update(betas=[0.9]), "betas are of another kind"),
    (lambda state: state["param_groups"][0].update(eps=None), "eps are of another kind"),
    (lambda state: state["param_groups"][0].update(amsgrad="x"), "amsgrad are of another kind")])
def test_what_is_no_state_of_these_weights_is_refused(made, change, words):
    """torch takes it, and the next step fails."""
    _, adam, state = made
    change(state)
    with pytest.raises(ValueError, match=words):
        load_adam(adam, state)


class Parts(nn.Module):
    """An SDF of one weight and a decoder of two, whose gradients are set by hand."""

    def __init__(self, sdf, decoder):
        super().__init__()
        self.sdf, self.decoder = nn.Linear(1, 1, bias=False), nn.Linear(2, 1, bias=False)
        for layer, gradient in ((self.sdf, sdf), (self.decoder, decoder)):
            layer.weight.grad = None if gradient is None else torch.tensor([gradient])

    def gradients(self):
        return [None if layer.weight.grad is None else layer.weight.grad[0].tolist()
                for layer in (self.sdf, self.decoder)]


@pytest.mark.parametrize("sdf, decoder, in_parts, norm, clipped", [
    ([12.0], [3.0, 4.0], False, 13.0, ([12 / 13], [3 / 13, 4 / 13])),
    ([12.0], [3.0, 4.0], True, 13.0, ([1.0], [0.6, 0.8])),
    ([12.0], [0.3, 0.4], True, 144.25 ** 0.5, ([1.0], [0.3, 0.4])),     # small ones stay
    ([12.0], [0.3, 0.4], False, 144.25 ** 0.5, ([0.9991], [0.02498, 0.03331])),
    (None, [3.0, 4.0], True, 5.0, (None, [0.6, 0.8])),                  # steps without the shape
    (None, None, True, 0.0, (None, None))])
def test_gradients_are_clipped_to_norm_one(sdf, decoder, in_parts, norm, clipped):
    model = Parts(sdf, decoder)
    found = clip_gradients(model, make_optimizer(model), in_parts=in_parts)
    assert float(found) == pytest.approx(norm)
    for values, expected in zip(model.gradients(), clipped, strict=True):
        assert values == (expected if expected is None else pytest.approx(expected, rel=1e-3))


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    model = Parts([float("nan")], [3.0, 4.0])
    assert not clip_gradients(model, make_optimizer(model), in_parts=True).isfinite()
