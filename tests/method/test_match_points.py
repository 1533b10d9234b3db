"""Matched points draw the surface to them: |Phi| there, in the steps that train the shape."""
from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.ball_views import Ball
from support.tiny_runs import FULL, call, differing, final_state, flags_of
from support.trainers import trainer_of

from loss_functions import MATCH_NOISE, MATCH_REACH, match_points_loss
from sdf_rendering import ReferenceTracer, make_tracer
from stages.surface_start import MATCHES_CAPTION, MATCHES_FILE
from utils.config.sections import TracingConfig
from utils.views.matched_points import MatchedPoints

WEIGHT = ("--match_points_weight", 2)
FIND = "data_processing.matching.surface_points.find_points"


def some_points(views, radius: float = 0.5) -> MatchedPoints:
    """Ninety points about a sphere; all views are said to see all."""
    dirs = torch.nn.functional.normalize(
        torch.randn(90, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    xy_ndc = views.cameras.project(radius * dirs)[0].transpose(0, 1)
    return MatchedPoints(xy_ndc, torch.ones(xy_ndc.shape[:2], dtype=torch.bool))


@pytest.fixture
def known(monkeypatch):
    """Photographs of 32x24 pixels have no features: points are given instead."""
    monkeypatch.setattr(FIND, some_points)


def test_the_loss_is_the_mean_distance_of_points_that_count():
    """0.01 inside and 0.02 outside a ball of 0.6, less half of the noise; 0.002 within the noise is
    squared; the fourth is mistaken, the fifth hidden."""
    points = torch.zeros(5, 3, dtype=torch.float64)
    points[:, 0] = torch.tensor([0.59, 0.62, 0.602, 0.9, 0.61])
    counts = torch.tensor([True, True, True, True, False])
    ball = Ball()
    loss = match_points_loss(ReferenceTracer(), ball, points, counts)
    wanted = (0.01 + 0.02 + MATCH_REACH - 1.5 * MATCH_NOISE + 0.002 ** 2 / (2 * MATCH_NOISE)) / 4
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    # a larger ball is further from the first point, nearer to the others, by how much they pull
    assert float(ball.radius.grad) == pytest.approx((1 - 1 - 0.002 / MATCH_NOISE) / 4, rel=1e-4)
    nothing = match_points_loss(ReferenceTracer(), ball, points, torch.zeros_like(counts))
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_gradients_in_float64():
    def loss(radius):
        def ball(points):
            return points.norm(dim=-1) - radius

        return match_points_loss(ReferenceTracer(), ball, points, torch.ones(20).bool())

    points = 0.6 * torch.nn.functional.normalize(torch.randn(
        20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    points = points * torch.linspace(0.9, 1.1, 20, dtype=torch.float64)[:, None]
    assert torch.autograd.gradcheck(loss, (torch.tensor(0.601, dtype=torch.float64,
                                                        requires_grad=True),))


def test_tracers_give_the_same_loss_and_gradients(tiny_scene, tiny_sphere, known):
    """To float32's rounding of sums of 90 terms in another order."""
    found = []
    for name in ("reference", "fast", "device"):
        trainer = trainer_of(tiny_scene, tiny_sphere, *WEIGHT, "--precision", "fp32", "--tracer",
                             name.replace("device", "fast"))
        if name == "device":
            trainer.tracer = make_tracer(TracingConfig(), device="meta")
        loss = trainer.match_points()
        found.append((float(loss.detach()),
                      torch.cat([grad.reshape(-1) for grad in torch.autograd.grad(
                          loss, list(trainer.model.sdf.parameters()))])))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5) and loss > 0
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-3, atol=1e-6)


def test_a_step_trains_the_surface_with_it(tiny_scene, tiny_sphere, known):
    """The loss is there in shape steps alone, moves the SDF alone, and draws no random number."""
    trainer, plain = (trainer_of(tiny_scene, tiny_sphere, *flags) for flags in (WEIGHT, ()))
    losses, others = trainer.losses(trainer.plan(0)), plain.losses(plain.plan(0))
    losses["match_points"].backward()
    assert {name.split(".")[0] for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None and bool(parameter.grad.any())} == {"sdf"}
    assert set(losses) - set(others) == {"match_points"}
    torch.testing.assert_close((losses["total"] - others["total"]).detach(),
                               2 * losses["match_points"].detach())
    assert not trainer.plan(2).train_shape
    assert "match_points" not in trainer.losses(trainer.plan(2))


def test_steps_bring_the_surface_to_the_points(tiny_scene, tiny_sphere, monkeypatch):
    """The sphere has a radius of half a unit, the points lie on one a little larger."""
    monkeypatch.setattr(FIND, lambda views: some_points(views, 0.52))
    trainer = trainer_of(tiny_scene, tiny_sphere, "--match_points_weight", 1000, "--lr_sdf", 3e-4)
    before = float(trainer.match_points().detach())
    for step in range(2):
        trainer.train_step(step)
    assert float(trainer.match_points().detach()) < 0.9 * before


def test_without_points_there_is_no_loss(tiny_scene, tiny_sphere, monkeypatch, caplog):
    monkeypatch.setattr(FIND, lambda views: MatchedPoints(*(
        part[:0] for part in (some_points(views).xy_ndc, some_points(views).seen_mask))))
    trainer = trainer_of(tiny_scene, tiny_sphere, *WEIGHT)
    for step in range(2):
        assert "match_points" not in trainer.train_step(step)
    assert caplog.text.count("no point in common") == 1


def test_refined_cameras_move_the_points(tiny_scene, tiny_sphere, known):
    trainer = trainer_of(tiny_scene, tiny_sphere, *WEIGHT, "--refine_cameras", 1)
    before = float(trainer.match_points().detach())
    with torch.no_grad():
        for parameter in trainer.refiner.poses.parameters():
            parameter += 0.02 * torch.randn(parameter.shape,
                                            generator=torch.Generator().manual_seed(0))
    assert float(trainer.match_points().detach()) != before


def test_a_stopped_run_keeps_its_points(tiny_scene, tiny_sphere, tmp_path, known, monkeypatch):
    """To the bit as one that was never stopped, and nothing is matched again."""
    whole, stopped = (flags_of(tmp_path, tiny_scene, *WEIGHT, sphere=tiny_sphere, name=name)
                      for name in ("whole", "stopped"))
    call("train_sdf_ibr", *whole, "--num_steps", 4)
    call("train_sdf_ibr", *stopped, "--num_steps", 2)
    monkeypatch.setattr(FIND, lambda _: pytest.fail("matched again"))
    call("train_sdf_ibr", *stopped, "--num_steps", 4)
    one, other = (final_state(tmp_path / name)["task"] for name in ("whole", "stopped"))
    assert differing(one, other) == [] and len(one["matches"]["xy_ndc"]) == 90


def test_the_report_shows_the_points(tiny_scene, tiny_sphere, tmp_path, known):
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, *FULL, *WEIGHT, "--num_steps", 1,
                                    sphere=tiny_sphere))
    assert (tmp_path / "run" / "pictures" / MATCHES_FILE).stat().st_size > 1000
    assert MATCHES_CAPTION in (tmp_path / "run" / "report.html").read_text()


def test_points_that_the_surface_hides_do_not_count(tiny_scene, tiny_sphere, monkeypatch):
    """Deep inside the sphere, which has a radius of half a unit, no point is seen."""
    for radius, count in ((0.5, 90), (0.01, 0)):
        monkeypatch.setattr(FIND, lambda views, radius=radius: some_points(views, radius))
        trainer = trainer_of(tiny_scene, tiny_sphere, *WEIGHT)
        seen = trainer.shape.matches.points.counts_mask(
            trainer.shape.matches.points.points_obj(trainer.views.cameras), trainer.buffer)
        assert int(seen.sum()) == count or (count and 20 < int(seen.sum()) < count)
    assert float(trainer.match_points().detach()) == 0
    trainer.shape = replace(trainer.shape, matches=SimpleNamespace(points=some_points(
        trainer.views)))
    assert float(trainer.match_points().detach()) > 0
