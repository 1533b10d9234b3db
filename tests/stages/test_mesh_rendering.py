"""Views from a mesh of the surface are those of the traced SDF, but for the mesh's distance."""
from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.ball_views import (
    EYES,
    RADIUS,
    SIZE,
    THRESHOLD,
    Ball,
    built,
    rgb_model,
    views_of,
)
from support.tiny_runs import call, flags_of
from support.tracing_cases import cameras_at
from torch.nn import functional as F

from realtime.scene import TriangleMesh
from sdf_meshing import extract_mesh
from sdf_rendering import ReferenceTracer
from stages import mesh_rendering
from stages.mesh_rendering import MeshViewRenderer, surface_mesh
from stages.view_rendering import make_renderer
from utils.errors import ConfigError, UserError
from utils.geometry.rays import Surface
from utils.views.training_views import TrainingViews


def test_a_mesh_is_refused_where_misses_are_sampled(monkeypatch):
    model = SimpleNamespace(settings=SimpleNamespace(sampling="release"))
    monkeypatch.setattr(mesh_rendering, "current_renderer",
                        lambda trainer, step: SimpleNamespace(model=model))
    test: Any = SimpleNamespace(renderer="mesh", mesh_resolution=24)
    trainer: Any = None
    with pytest.raises(ConfigError, match="give --renderer sdf"):
        mesh_rendering.renderer_of(trainer, None, test)


def test_a_view_from_the_mesh_is_that_of_the_sdf():
    model, views = rgb_model(), views_of(cameras_at(EYES, SIZE))
    renderer = make_renderer(model, views, occ_threshold=THRESHOLD, tracer=ReferenceTracer())
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - RADIUS, resolution=96)
    from_mesh = MeshViewRenderer(renderer, TriangleMesh(mesh.vertices_obj, mesh.faces))
    expected, found = (r(views.cameras[1:3], exclude=1) for r in (renderer, from_mesh))
    both = expected.hit_mask & found.hit_mask
    assert both.sum() > 0.9 * expected.hit_mask.sum()
    # chords of a grid of 2/96 sag by 1e-4; rays at the outline are oblique
    apart = (expected.points_obj - found.points_obj).norm(dim=1, keepdim=True)[both]
    assert apart.median() < 5e-4
    assert (expected.depth - found.depth).abs()[both].median() < 5e-4
    cosine = (expected.normals_obj * found.normals_obj).sum(1, keepdim=True)[both]
    assert cosine.median() > 0.999
    assert (expected.images - found.images).abs().mean() < 5e-3
    assert found.weights[1].sum() == 0
    assert expected.coverage is None
    inside, outside = found.hit_mask & (found.coverage == 1), ~found.hit_mask
    assert inside.sum() > 0.7 * found.hit_mask.sum() and (found.coverage[outside] < 1).all()
    partly = (found.coverage > 0) & (found.coverage < 1)
    assert partly.any()


def test_full_d_is_computed_about_the_object_with_the_numbers_of_the_whole():
    model, views = built(), views_of(cameras_at(EYES, (64, 56)))
    views = TrainingViews(views.images.float(), views.masks, views.cameras.to(torch.float32))
    mesh = extract_mesh(lambda points: points.norm(dim=-1) - RADIUS, resolution=32)
    model.sdf = Ball(torch.float32)
    renderer = make_renderer(model, views, occ_threshold=THRESHOLD, tracer=ReferenceTracer())
    from_mesh = MeshViewRenderer(renderer, TriangleMesh(mesh.vertices_obj, mesh.faces))
    found = from_mesh(views.cameras[:1])
    blended = torch.randn(1, 16, 56, 64)
    surface = Surface(found.points_obj, found.hit_mask)
    with torch.no_grad():
        near = F.max_pool2d(found.hit_mask.float(), 9, 1, 4).expand(-1, 3, -1, -1) > 0
        whole, part = model.decode(blended), from_mesh.decode(blended, surface)
    assert torch.allclose(part[near], whole[near], atol=1e-4)
    assert 0.02 < near.float().mean() < 0.9


def test_an_sdf_without_surface_is_told():
    with pytest.raises(UserError, match="no surface"):
        surface_mesh(lambda points: points.norm(dim=-1) + 1, 16, torch.device("cpu"))


def test_runs_are_scored_from_the_mesh(tiny_scene, tiny_sphere, tmp_path):
    asked = ["--test_metrics", 1, "--mesh_resolution", 48]
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", 1, *asked, sphere=tiny_sphere)
    call("train_sdf_ibr", *flags)
    scores = [json.loads((tmp_path / "run" / "metrics.json").read_text())["mean"]["psnr"]]
    for renderer in ("mesh", "sdf"):
        call("test_sdf_ibr", *flags, "--renderer", renderer)
        scores.append(json.loads((tmp_path / "run" / "metrics.json").read_text())["mean"]["psnr"])
    assert scores[0] == pytest.approx(scores[2], abs=1e-3)
    assert scores[1] == pytest.approx(scores[0], abs=1.5) and scores[1] != scores[0]
