"""Fits of the SDF to known shapes."""
from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from support.ball_scene import ball_scene
from support.tiny_runs import call, config_of, differing, final_state, flags_of

from modules import SdfArchitecture
from modules_sdf import build_sdf
from stages import scene as scene_run, shape_fitting, surface_start
from stages.shape_fitting import HullTask, SphereTask, carve_start, sphere_error, surface_points
from utils.config.sections import LossConfig
from utils.errors import ConfigError, SceneError


def test_the_sphere_is_fitted_and_resumed_to_the_bit():
    def task():
        torch.manual_seed(0)
        return SphereTask(build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)), 60, 5e-3,
                          num_points=128, loss=LossConfig(),
                          generator=torch.Generator().manual_seed(0))

    whole = task()
    before = whole.score(0)
    losses = [whole.train_step(step) for step in range(60)]
    after = whole.score(60)
    # most of the volume lies far out, where few points are drawn
    assert after["mean_error"] < 0.5 * before["mean_error"]
    assert after["mean_error"] < after["max_error"]
    assert float(losses[-1]["total"]) < 0.3 * float(losses[0]["total"])
    part, again = task(), task()
    for step in range(20):
        part.train_step(step)
    again.load_state_dict(part.state_dict())
    for step in range(20, 60):
        again.train_step(step)
    assert differing(whole.state_dict()["sdf"], again.state_dict()["sdf"]) == []


def test_the_error_of_a_sphere_is_measured_at_points_uniform_in_the_ball():
    """Phi = 0 errs by | r - 0.5 |: its mean over the volume is 3 int |r - 0.5| r^2 dr = 9/32."""
    class Zero(torch.nn.Linear):
        def forward(self, points):
            return 0 * super().forward(points)[..., 0]

    found = sphere_error(Zero(3, 1))
    # standard deviation 0.15 / sqrt(100,000)
    assert found["mean_error"] == pytest.approx(9 / 32, abs=2e-3)
    assert found["max_error"] == pytest.approx(0.5, abs=1e-2)


def test_terms_of_the_sphere_follow_their_flags():
    loss = LossConfig(opt_sdf_onsurface=0, opt_sdf_offsurface=0, opt_sdf_normal=0,
                      opt_sdf_eikonal=0)
    task = SphereTask(build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)), 1, 1e-3,
                      num_points=64, loss=loss, generator=torch.Generator())
    losses = task.train_step(0)
    torch.testing.assert_close(losses["total"], 30 * losses["direct"])


@pytest.fixture(scope="module")
def ball_hull():
    """The hull of a ball of radius 0.6 seen from 12 sides, on a coarse grid."""
    scene = ball_scene(0.6, resolution=(60, 48), num_views=12)
    return carve_start(scene.cameras, scene.masks, "ball", resolution=40)


def test_points_of_a_hull_lie_on_its_surface(ball_hull):
    """A ball's hull from 12 sides holds the ball, and its corners stick out by a few hundredths."""
    points, normals = surface_points(ball_hull)
    assert len(points) > 1000
    radius = points.norm(dim=-1)
    assert radius.min() > 0.6 - ball_hull.cell and radius.max() < 0.72
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(points)))
    assert (normals * points / radius[:, None]).sum(-1).mean() > 0.95          # outwards


def test_the_hull_is_fitted_from_the_weights_that_there_are(ball_hull):
    def task():
        torch.manual_seed(0)
        return HullTask(build_sdf(SdfArchitecture(hidden_dims=32, hidden_layers=1)), ball_hull,
                        generator=torch.Generator().manual_seed(0), num_steps=80, lr=3e-3,
                        num_points=300)

    fit, same = task(), task()
    before = fit.score(0)
    for step in range(80):
        losses = fit.train_step(step)
        same.train_step(step)
    after = fit.score(80)
    assert after["mean_error"] < 0.02 and after["mean_error"] < 0.2 * before["mean_error"]
    assert after["gradient_error"] < 0.15
    points = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, -0.9, 0.0]])
    # the hull's own distance is off by a cell, the small network by as much
    torch.testing.assert_close(fit.sdf(points), torch.tensor([-0.6, 0.3, 0.3]), atol=0.1, rtol=0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert differing(fit.state_dict()["sdf"], same.state_dict()["sdf"]) == []


def test_a_hull_is_cut_to_the_ball():
    """Cameras on one side leave the far side open; nothing beyond the unit sphere is traced."""
    scene = ball_scene(0.6, resolution=(60, 48), num_views=3, arrangement="nlr")
    hull = carve_start(scene.cameras, scene.masks, "ball", resolution=40)
    assert hull.points().norm(dim=-1).max() <= 0.98


def test_masks_that_agree_on_nothing_are_told():
    scene = ball_scene(0.3, resolution=(60, 48), num_views=6)
    masks = scene.masks.clone()
    masks[1] = masks[1].roll(25, -1)
    with pytest.raises(SceneError, match="somewhere: --init hull: the masks of the 6 training"):
        carve_start(scene.cameras, masks, "somewhere", resolution=24)


def test_init_hull_starts_a_run_and_does_not_fit_again(tiny_scene, tiny_sphere, tmp_path,
                                                       monkeypatch):
    monkeypatch.setattr(scene_run, "write_results", lambda *args, **kwargs: "")
    monkeypatch.setattr(shape_fitting, "NUM_HULL_STEPS", 5)
    monkeypatch.setattr(surface_start, "carve_start", partial(carve_start, resolution=32))
    flags = flags_of(tmp_path, tiny_scene, "--init", "hull", "--steps_til_ckpt", 1,
                     sphere=tiny_sphere)
    scene_run.train_scene(config_of(*flags, "--num_steps", 4))
    whole = final_state(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step_000004.pth").unlink()
    (tmp_path / "run" / "checkpoints" / "step_000003.pth").unlink()
    monkeypatch.setattr(surface_start, "fit_hull", lambda *args: pytest.fail("fitted again"))
    monkeypatch.setattr(surface_start, "carve_start", lambda *args: pytest.fail("carved again"))
    scene_run.train_scene(config_of(*flags, "--num_steps", 4))
    assert differing(whole["task"], final_state(tmp_path / "run")["task"]) == []


def test_without_masks_no_hull_and_nothing_written(tiny_scene, tmp_path):
    folder = shutil.copytree(tiny_scene, tmp_path / "scene")
    for mask in folder.glob("*_mask.png"):
        mask.unlink()
    with pytest.raises(SceneError, match="scene has no masks"):
        scene_run.train_scene(config_of(*flags_of(tmp_path, folder, "--init", "hull")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--init", "hull"], ["--refine_cameras", 1]])
def test_meta_training_refuses_what_is_of_one_scene(tmp_path, flags):
    with pytest.raises(ConfigError, match="is of one scene"):
        call("train_sdf_ibr_meta", *flags_of(tmp_path, tmp_path, *flags))
