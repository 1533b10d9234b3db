"""A stored state of Adam is taken if it is one of the same parameters."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from utils.optimization.parameter_groups import load_adam


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
