"""Fits of the SDF to known shapes."""
from __future__ import annotations

import torch
from tiny_runs import differing

from modules import SdfArchitecture, build_sdf
from shape_fitting import SphereTask
from utils.config_stages import LossConfig


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
    assert after["mean_error"] < 0.3 * before["mean_error"]
    assert after["mean_error"] < after["max_error"]
    assert float(losses[-1]["total"]) < 0.3 * float(losses[0]["total"])
    part, again = task(), task()
    for step in range(20):
        part.train_step(step)
    again.load_state_dict(part.state_dict())
    for step in range(20, 60):
        again.train_step(step)
    assert differing(whole.state_dict()["sdf"], again.state_dict()["sdf"]) == []


def test_terms_of_the_sphere_follow_their_flags():
    loss = LossConfig(opt_sdf_onsurface=0, opt_sdf_offsurface=0, opt_sdf_normal=0,
                      opt_sdf_eikonal=0)
    task = SphereTask(build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)), 1, 1e-3,
                      num_points=64, loss=loss, generator=torch.Generator())
    losses = task.train_step(0)
    torch.testing.assert_close(losses["total"], 60 * losses["direct"])
