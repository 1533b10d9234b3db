"""Joint training: what a step draws, what it changes, resume to the bit, surfaces that are kept."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_runs import (
    call,
    call_as_user,
    differing,
    final_state,
    flags_of,
    meta_config_of,
)
from torch import nn

from data_processing.scenes.pool import open_pool
from scheduler import plan_step
from stages import shape_fitting
from stages.joint.rendering import render, start_psnr
from stages.joint.run import StartedScenes
from stages.joint.surfaces import StartSurfaces, started_scene
from stages.joint.training import (
    JointDraw,
    JointTrainer,
    put_in_training,
    recoloured,
)
from stages.models import model_of
from utils.checkpoints.storage import load_checkpoint
from utils.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")
JOINT = ["--num_meta_steps", 0, "--init", "hull", "--feature_aggregation_method",
         "lumigraph_epipolar", "--average_decay", 0, "--load_pcd", 0, "--test_views", "2"]
DRAW = JointDraw(num_scenes=1, num_sources=3, num_targets=2, seed=0)


def config(scenes, sphere, *flags):
    return meta_config_of(*flags_of(Path("unused"), scenes, *JOINT, *flags, sphere=sphere))


def ball(scene, surface):
    """All views see a ball of radius 0.6."""
    along = (surface.origins * surface.dirs).sum(1, keepdim=True)
    inside = along.square() - surface.origins.square().sum(1, keepdim=True) + 0.6 ** 2
    surface.t.copy_(-along - inside.clamp(min=0).sqrt())
    surface.hit_mask.copy_(inside > 0)


@pytest.fixture
def scenes(tiny_scenes, tiny_sphere):
    """Started scenes whose surfaces cost nothing."""
    found = config(tiny_scenes, tiny_sphere)
    pool = open_pool(found.data, found.meta, is_scored=True)
    return [started_scene(pool[number], ball, CPU) for number in range(len(pool))]


def trainer_of(scenes, tiny_sphere, draw=DRAW, *flags):
    found = config("unused", tiny_sphere, "--lr", 1e-3, *flags)
    torch.manual_seed(0)

    def plan(step):
        return plan_step(step, found.rates, found.tracing, dataset_name="", steps_per_epoch=1)

    return JointTrainer(model_of(found, CPU), scenes, draw, plan=plan, loss=found.loss)


def test_sources_are_training_views_and_targets_are_any(scenes):
    scene = scenes[0]
    assert set(scene.sources) | set(scene.scored) == set(range(len(scene.views)))
    drawn = [DRAW.views(scene, torch.Generator().manual_seed(seed)) for seed in range(40)]
    sources, targets = (torch.cat(part) for part in zip(*drawn))
    assert set(sources.tolist()) == set(scene.sources)
    assert set(targets.tolist()) == set(range(len(scene.views)))
    assert all(len(source) == 3 and len(target) == 2 for source, target in drawn)


def test_some_batches_have_two_sources_fewer(scenes):
    scene = replace(scenes[0], sources=tuple(range(6)))
    counts = [len(replace(DRAW, num_sources=0).views(scene, torch.Generator().manual_seed(seed))[0])
              for seed in range(60)]
    assert set(counts) == {4, 6} and 5 < counts.count(4) < 35          # 18 are expected


def test_a_view_never_feeds_itself(scenes, tiny_sphere):
    """With the target as the one source nothing is blended, whatever its photograph shows."""
    trainer, scene = trainer_of(scenes, tiny_sphere), scenes[0]
    view = torch.tensor([scene.sources[0]])
    with torch.no_grad():
        images = [render(trainer.model.eval(), scene, view, view, occ_threshold=1e-2,
                         change=change) for change in (None, torch.zeros_like)]
    assert torch.equal(*images)


def test_colours_change_alike_in_all_photographs_and_stay_in_range():
    images = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    change = recoloured(torch.Generator().manual_seed(0))
    found = change(images)
    assert torch.equal(found[2:3], change(images[2:3])) and not torch.equal(found, images)
    assert found.min() >= 0 and found.max() <= 1


def test_steps_lower_the_loss_and_leave_surface_and_statistics(scenes, tiny_sphere):
    trainer = trainer_of(scenes, tiny_sphere, DRAW, "--lr", 3e-3)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    losses = [float(trainer.shared_step(0)["total"]) for _ in range(10)]   # the same draw
    assert losses[-1] < 0.95 * losses[0]
    changed = {name for name, value in trainer.model.state_dict().items()
               if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"encoder", "decoder"}
    assert not any("running" in name or "num_batches" in name for name in changed)


def test_a_step_is_the_mean_over_its_scenes(scenes, tiny_sphere):
    """The gradient of two scenes is the mean of theirs, and depends on the step alone."""
    def gradient(draw, step, position=None):
        trainer = trainer_of(scenes, tiny_sphere, draw, "--precision", "fp32")
        positions = range(draw.num_scenes) if position is None else [position]
        for place in positions:
            trainer._backward(step, place, trainer.plan(step), len(positions))
        return torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])

    two = replace(DRAW, num_scenes=2)
    parts = [gradient(two, 3, place) for place in range(2)]
    assert not torch.allclose(parts[0], parts[1])
    torch.testing.assert_close(gradient(two, 3), (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)


def test_a_resumed_training_goes_on_to_the_bit(scenes, tiny_sphere):
    whole, first = (trainer_of(scenes, tiny_sphere) for _ in range(2))
    for step in range(4):
        whole.shared_step(step)
    for step in range(2):
        first.shared_step(step)
    second = trainer_of(scenes, tiny_sphere)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        second.shared_step(step)
    assert differing(whole.state_dict(), second.state_dict()) == []


def test_a_score_is_of_held_out_views_with_averaged_weights(scenes, tiny_sphere):
    trainer = trainer_of(scenes, tiny_sphere, DRAW, "--average_decay", 0.9)
    assert trainer.score(0) == {}
    trainer.trials = scenes[:2]
    for step in range(3):
        trainer.shared_step(step)
    model = trainer.average.averaged_model().eval()
    expected = sum(start_psnr(model, scene, 1e-3) for scene in scenes[:2]) / 2
    found = trainer_of(scenes, tiny_sphere, DRAW, "--occ_threshold", 1e-3).plan(0).occ_threshold
    assert found == 1e-3
    trainer.plan = trainer_of(scenes, tiny_sphere, DRAW, "--occ_threshold", 1e-3).plan
    assert trainer.score(3)["psnr"] == pytest.approx(expected, abs=1e-6)


def test_batch_statistics_rest_while_all_else_trains():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    put_in_training(model)
    assert [module.training for module in model] == [True, False, True]


def test_a_surface_is_computed_once_and_kept(tiny_scenes, tiny_sphere, tmp_path, monkeypatch):
    monkeypatch.setattr(shape_fitting, "NUM_HULL_STEPS", 3)
    found = config(tiny_scenes, tiny_sphere)
    pool = open_pool(found.data, found.meta, is_scored=True)
    first = started_scene(pool[0], StartSurfaces(found, CPU, tmp_path), CPU)
    assert first.surface.hit_mask.any() and len(list(tmp_path.glob("a_blobs_*.pth"))) == 1
    surfaces = StartSurfaces(found, CPU, tmp_path)
    monkeypatch.setattr(surfaces, "_compute", None)
    again = started_scene(pool[0], surfaces, CPU)
    assert differing(first.surface.state_dict(), again.surface.state_dict()) == []
    next(tmp_path.glob("a_blobs_*.pth")).write_bytes(b"no surface")
    with pytest.raises(CheckpointError):
        started_scene(pool[0], surfaces, CPU)


@pytest.mark.parametrize("flags", [
    ("--image_batch_size", 1), ("--source_views_per_target", 2), ("--batch_size", 77),
    ("--opt_sdf_eikonal_w", 0.5), ("--start_shape_steps", 3), ("--lr", 0.5)])
def test_a_surface_of_other_flags_is_another(tiny_scenes, tiny_sphere, tmp_path, flags):
    """Of all that its steps on the shape read, with the views that they draw."""
    found = config(tiny_scenes, tiny_sphere)
    scene = open_pool(found.data, found.meta, is_scored=True)[0]
    first, same, other = (
        StartSurfaces(config(tiny_scenes, tiny_sphere, *more), CPU, tmp_path)._key(
            scene, scene.scene.cameras) for more in ((), (), flags))
    assert first == same != other


def test_scenes_leave_memory_at_its_bound(tiny_scenes, tiny_sphere):
    found = config(tiny_scenes, tiny_sphere)
    pool = open_pool(found.data, found.meta, is_scored=True)
    kept = StartedScenes(pool, ball, CPU, memory_bytes=1)
    assert kept[1].name != kept[2].name and list(kept._kept) == [2] and len(kept) == 3
    roomy = StartedScenes(pool, ball, CPU, memory_bytes=2**30)
    assert roomy[1] is roomy[1]


@pytest.mark.parametrize("flags, words", [
    (["--init", "sphere"], "surfaces that are known"),
    (["--feature_type", "rgb"], "no image networks"),
    (["--target_crop", "8"], "whole targets"),
    (["--occlusion_method", "agreement"], "agreement: joint training has traced"),
    (["--refine_cameras", 1], "leave it out"), (["--cuda_graphs", 1], "--cuda_graphs 0"),
    (["--meta_batch_size", 3, "--feature_aggregation_method", "nothing"], "nothing"),
])
def test_flags_that_do_not_fit_are_named(flags, words, tiny_scenes, tiny_sphere, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_as_user("train_sdf_ibr_meta",
                     *flags_of(tmp_path, tiny_scenes, *JOINT, *flags, sphere=tiny_sphere))
    assert words in capsys.readouterr().err


def test_as_many_scenes_for_each_process(scenes, tiny_sphere):
    from utils.runs.distributed import Ranks
    trainer = trainer_of(scenes, tiny_sphere)
    with pytest.raises(ConfigError, match="multiple"):
        JointTrainer(trainer.model, scenes, replace(DRAW, num_scenes=3), plan=trainer.plan,
                     loss=trainer.loss, ranks=Ranks(0, 2))


def test_the_command_writes_networks_that_a_run_starts_from(tiny_scenes, tiny_sphere, tmp_path,
                                                            monkeypatch):
    monkeypatch.setattr(StartSurfaces, "__call__", lambda self, *parts: ball(*parts))
    call("train_sdf_ibr_meta", *flags_of(tmp_path, tiny_scenes, *JOINT, "--num_steps", 2,
                                         "--meta_eval_path", tiny_scenes / "a_blobs",
                                         "--eval_steps", "0,2", sphere=tiny_sphere))
    stored = load_checkpoint(tmp_path / "run" / "joint_start.pth")
    state = final_state(tmp_path / "run")["task"]["model"]
    assert torch.equal(stored["decoder"]["out.weight"], state["decoder.out.weight"])
    assert set(stored) >= {"encoder", "decoder"} and "sdf" not in stored
    assert "psnr" in (tmp_path / "run" / "curve.csv").read_text()
