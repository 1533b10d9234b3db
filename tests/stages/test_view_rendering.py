"""Tests of view_rendering.py on a textured ball."""
from __future__ import annotations

import math

import pytest
import torch
from support.ball_views import (
    EYES,
    RADIUS,
    SIZE,
    THRESHOLD,
    Ball,
    built,
    rendered,
    rgb_model,
    views_of,
)
from support.tracing_cases import cameras_at
from torch import nn

from sdf_rendering import ReferenceTracer
from stages import view_rendering
from stages.view_rendering import (
    evaluating,
    make_renderer,
    surface_normals,
    trace_views,
    view_depth,
)
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface
from utils.views.training_views import TrainingViews


def test_rendering_of_a_ball():
    """A world scaled by 2 and shifted. Hits are within 5e-5 of the ball, over cosines down to 0.1
    and less at the outline; depth is the distance along the axis in world units.
    """
    model_matrix = torch.diag(torch.tensor([2.0, 2, 2, 1])).double()
    model_matrix[:3, 3] = torch.tensor([0.5, -1.0, 0.3])
    cameras = cameras_at(EYES, SIZE)
    view = cameras.view @ torch.linalg.inv(model_matrix)
    view[:, :3] *= 2                                        # world units: rotation, twice as far
    cameras = Cameras(view, cameras.projection, model_matrix, SIZE)
    views = views_of(cameras)
    found = rendered(rgb_model(), views, cameras[1], exclude=1)
    hits = found.hit_mask[0, 0]
    assert found.images.shape == (1, 3, SIZE[1], SIZE[0]) and 60 < int(hits.sum()) < 320
    points = found.points_obj[0, :, hits].T
    assert (points.norm(dim=-1) - RADIUS).abs().max() < 1e-4
    torch.testing.assert_close(found.normals_obj[0, :, hits].T, points / points.norm(
        dim=-1, keepdim=True), atol=1e-9, rtol=0)
    world = points @ model_matrix[:3, :3].T + model_matrix[:3, 3]
    depth = -(world @ view[1, 2, :3] + view[1, 2, 3])
    torch.testing.assert_close(found.depth[0, 0][hits], depth, atol=1e-9, rtol=0)
    assert 2 * (3 - RADIUS) - 0.1 < depth.min() < 2 * 3
    for name in ("normals_obj", "depth", "images"):
        assert not getattr(found, name)[:, :, ~hits].any()
    assert not found.weights[1].any()


def test_excluded_source_counts_as_absent():
    """Rendering view 2 without source 2 is rendering it from a scene of the other three."""
    model, others = rgb_model("learned"), [0, 1, 3]
    views = views_of(cameras_at(EYES, SIZE))
    excluded = rendered(model, views, views.cameras[2], exclude=2)
    absent = rendered(model, TrainingViews(views.images[others], views.masks[others],
                                           views.cameras[others]), views.cameras[2])
    torch.testing.assert_close(excluded.images, absent.images, atol=1e-12, rtol=0)
    everything = rendered(model, views, views.cameras[2])
    assert everything.weights[2].any()
    assert (everything.images - excluded.images).abs().max() > 1e-6


def test_sources_that_see_a_point():
    """Cameras in front, to both sides and above: each sees its pole, two see what lies between."""
    views = views_of(cameras_at([(0.0, 0, 3), (3, 0, 0.1), (-3, 0, 0.1), (0, 3, 0.1)], (40, 32)))
    renderer = make_renderer(rgb_model(), views, occ_threshold=THRESHOLD, tracer=ReferenceTracer())
    half = math.sqrt(0.5)
    points = torch.tensor([[0.0, 0, 1], [1, 0, 0], [half, 0, half], [0, half, half], [0, 0, -1]])
    seen = renderer.visible(RADIUS * points.double())
    assert seen.T.tolist() == [[True, False, False, False], [False, True, False, False],
                               [True, True, False, False], [True, False, False, True],
                               [False, False, False, False]]


def test_tracing_in_chunks_changes_nothing(monkeypatch):
    views = views_of(cameras_at(EYES, SIZE))
    whole = trace_views(Ball(), views.cameras, ReferenceTracer())
    normals = surface_normals(Ball(), whole[0])
    monkeypatch.setattr(view_rendering, "TRACE_CHUNK", 37)
    parts = trace_views(Ball(), views.cameras, ReferenceTracer())
    assert torch.equal(parts[0].points_obj, whole[0].points_obj)
    assert torch.equal(parts[0].hit_mask, whole[0].hit_mask) and torch.equal(parts[1], whole[1])
    assert torch.equal(surface_normals(Ball(), parts[0]), normals)
    nothing = Surface(whole[0].points_obj, torch.zeros_like(whole[0].hit_mask))
    assert not surface_normals(Ball(), nothing).any()
    assert not view_depth(views.cameras, nothing).any()


def test_modes_come_back_also_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].train(False)
    model[1][1].train(True)
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise KeyError
    assert [module.training for module in model.modules()] == before
    assert set(before) == {True, False} and torch.is_grad_enabled()


def test_rendering_leaves_the_model_as_it_was():
    """The encoder's batch-norm statistics are neither used up nor moved, modes stay mixed."""
    model = built(precision="fp32")
    model.sdf = Ball(torch.float32)
    model.train()
    model.decoder.eval()
    model.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    views = views_of(cameras_at(EYES[:3], SIZE, dtype=torch.float32))
    first, again = (rendered(model, views, views.cameras[:2], exclude=1) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert first.images.shape == (2, 3, SIZE[1], SIZE[0]) and not first.images.requires_grad
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
