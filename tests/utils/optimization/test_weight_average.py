"""The moving average of weights against its formula, and its copy of the model."""
import pytest
import torch
from torch import nn

from utils.optimization.weight_average import WeightAverage


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.sdf, self.net = nn.Linear(2, 1), nn.Linear(2, 1)


def moved(owner, amount):
    with torch.no_grad():
        for weight in owner.parameters():
            weight += amount


def test_average_follows_its_formula():
    owner = Owner()
    average, expected = WeightAverage(owner, ["net"], 0.5), owner.net.weight.detach().clone()
    for n in range(12):
        moved(owner, 1.0)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * owner.net.weight.detach()
    torch.testing.assert_close(average.averaged_model().net.weight, expected,
                               check_stride=False, atol=1e-5, rtol=0)


def test_without_decay_it_is_the_last_step():
    owner = Owner()
    average = WeightAverage(owner, ["net"], 0.0)
    moved(owner, 1.0)
    average.update()
    assert torch.equal(average.averaged_model().net.weight, owner.net.weight)


def test_the_copy_shares_what_is_not_averaged_and_leaves_the_model_alone():
    owner = Owner()
    average = WeightAverage(owner, ["net"], 0.9)
    moved(owner, 1.0)
    before = owner.net.weight.detach().clone()
    twin = average.averaged_model()
    assert twin.sdf is owner.sdf and twin.net is not owner.net
    assert not torch.equal(twin.net.weight, owner.net.weight)
    assert torch.equal(owner.net.weight, before)
    twin.eval()
    assert owner.training and owner.net.training


def test_state_round_trip_and_another_architecture():
    owner = Owner()
    average = WeightAverage(owner, ["net"], 0.9)
    moved(owner, 1.0)
    average.update()
    other = WeightAverage(Owner(), ["net"], 0.9)
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.averaged_model().net.weight, average.averaged_model().net.weight)
    assert other.num_updates == 1
    with pytest.raises(ValueError, match="another architecture"):
        other.load_state_dict({"weights": [torch.zeros(3)], "num_updates": 0})


@pytest.mark.parametrize("count", [[], "3", 2.0, True, -1, None])
def test_a_count_of_updates_of_another_kind_is_refused(count):
    average = WeightAverage(Owner(), ["net"], 0.9)
    with pytest.raises(ValueError, match="no count"):
        average.load_state_dict({**average.state_dict(), "num_updates": count})
