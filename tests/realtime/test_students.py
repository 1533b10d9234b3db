"""The small networks that stand in for G and D."""
from __future__ import annotations

import torch
from support.exported_scenes import around

from realtime.students import (
    StudentAggregation,
    StudentDecoder,
    blend_samples,
    direction_prior,
)
from sdf_rendering import lumigraph_weights


def test_priors_are_the_lumigraph_weights():
    cameras = around(torch.tensor([0.0, 0.3, 1.0, 2.0]), (8, 6))
    points, dirs = (torch.nn.functional.normalize(torch.randn(2, 50, 3), dim=-1)
                    * torch.tensor([0.5, 1.0])[:, None, None])
    counts = torch.rand(4, 50) > 0.3
    maps = points.T[None, :, None], dirs.T[None, :, None]
    for kind in ("angle", "cosine"):
        expected = lumigraph_weights(*maps, cameras, counts[:, None, None],
                                     epipolar=kind == "angle")[:, 0, 0]
        found = direction_prior(kind, points, dirs, cameras.centers_obj, counts_mask=counts)
        assert torch.allclose(found * counts, expected, atol=2e-6)       # 1e-6 instead of 0


def test_the_parts_of_an_aggregation_are_one_linear_layer():
    network = StudentAggregation(5, 7)
    features, dirs = torch.randn(4, 9, 5), torch.randn(9, 3)
    whole = torch.cat([features, dirs.expand(4, 9, 3)], -1)
    expected = network.out(network.hidden(whole).relu())[..., 0].sigmoid()
    assert torch.allclose(network(features, dirs), expected, atol=1e-6)


def test_a_logit_cannot_take_a_view_away():
    network = StudentAggregation(2)
    torch.nn.init.constant_(network.out.bias, -1000.0)
    assert (network(torch.randn(3, 2), torch.randn(3, 3)) > 1e-7).all()


def test_a_decoder_of_zeros_shows_the_blended_colours():
    network = StudentDecoder(3)
    for parameter in network.out.parameters():
        torch.nn.init.zeros_(parameter)
    blended = torch.randn(1, 7, 5, 6)
    assert torch.equal(network(blended), blended[:, 3:6])


def test_weights_sum_to_one_where_a_view_counts():
    counts = torch.tensor([[True, False, False], [True, True, False]])
    features, colours, weights = torch.rand(2, 4, 3), torch.rand(2, 3, 3), torch.rand(2, 3)
    blended, found = blend_samples(features, colours, weights, counts)
    assert torch.allclose(found.sum(0), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(blended[-1], torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(blended[:4, 1], features[1, :, 1])
    assert (blended[:, 2] == 0).all()
