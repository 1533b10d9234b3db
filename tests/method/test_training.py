"""Training of a tiny scene: the same to the bit after a kill, by seed, and with every loss."""
from __future__ import annotations

import ast
import inspect
import shutil
import weakref

import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import ROOT, config_of, differing, final_state, flags_of, script, start
from support.trainers import STEPS, trainer_of

from data_processing.scenes.opening import open_scene
from data_processing.scenes.scene_clouds import MERGED_CLOUD, SURFACE_POINTS
from sdf_rendering import ReferenceTracer
from stages import scene as scene_run
from training import SceneTrainer
from utils.checkpoints.storage import checkpoints_in, load_checkpoint
from utils.config.sections import TrainedPartsConfig
from utils.errors import CheckpointError, ConfigError
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.geometry.rays import Tracer
from utils.optimization.finite import check_finite
from utils.optimization.parameter_groups import trained_parts
from utils.runs.task import loop_options, steps_per_epoch
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.training_views import views_of, with_poses

#: Kills the process while it writes its second checkpoint, half of which is on the disk by then.
KILLED = """
import io, os, runpy, signal, sys
import torch

written = []
save = torch.save

def save_half(payload, stream):
    written.append(1)
    if len(written) < 2:
        return save(payload, stream)
    whole = io.BytesIO()
    save(payload, whole)
    stream.write(whole.getvalue()[:len(whole.getvalue()) // 2])
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = save_half
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def train(tiny_scene, tiny_sphere, tmp_path, monkeypatch):
    """Trains as the script does, without results; gives the run's folder."""
    module = script("train_sdf_ibr")
    monkeypatch.setattr(scene_run, "write_results", lambda *args, **kwargs: "")

    def train(name, *flags, scene=tiny_scene):
        module.main(flags_of(tmp_path, scene, *STEPS, *flags, name=name, sphere=tiny_sphere))
        return tmp_path / name
    return train


def without_times(state):
    """A checkpoint less what is of the clock and of the run's name."""
    rows = [{key: value for key, value in row.items() if key != "seconds"}
            for row in state["curve"]]
    return {key: value for key, value in state.items() if key not in ("seconds", "config")} \
        | {"curve": rows}


def test_a_run_stopped_by_an_error_ends_as_one_never_stopped(train, monkeypatch):
    whole = train("whole")
    step = SceneTrainer.train_step

    def failing(self, number):
        if number == 5:
            raise RuntimeError("pulled the plug")
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(SceneTrainer, "train_step", failing)
        with pytest.raises(RuntimeError, match="plug"):
            train("stopped")
    assert checkpoints_in(whole.parent / "stopped" / "checkpoints")[-1].name == "step_000004.pth"
    state, other = final_state(whole), final_state(train("stopped"))
    assert state["step"] == 8
    assert differing(without_times(state), without_times(other)) == []


def test_a_run_killed_while_saving_ends_as_one_never_stopped(train, tiny_scene, tiny_sphere,
                                                             tmp_path, project_root):
    """A process of its own, which takes longer than other tests: only that can be killed."""
    state = final_state(train("whole"))
    flags = flags_of(tmp_path, tiny_scene, *STEPS, name="killed", sphere=tiny_sphere)
    ended = start("-c", KILLED, project_root / "experiment_scripts" / "train_sdf_ibr.py", *flags,
                  cwd=tmp_path)
    assert ended.returncode == -9, ended.stderr[-2000:]
    left = checkpoints_in(tmp_path / "killed" / "checkpoints")
    assert [path.name for path in left] == ["step_000002.pth"]
    other = final_state(train("killed"))
    assert differing(without_times(state), without_times(other)) == []


def test_weights_follow_the_seed(train):
    one, same, other = (final_state(train(name, "--num_steps", 3, "--seed", seed))["task"]["model"]
                        for name, seed in (("a", 4), ("b", 4), ("c", 5)))
    assert differing(one, same) == []
    assert len(differing(one, other)) > 10


def test_shape_steps_alone_move_the_shape(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere)

    def state(prefix):
        return {name: value.clone() for name, value in trainer.model.state_dict().items()
                if name.startswith(prefix)}

    for step, is_shape in enumerate((True, True, False, True, False)):
        before = state("sdf"), state("decoder")
        losses = trainer.train_step(step)
        assert bool(differing(before[0], state("sdf"))) is is_shape
        assert differing(before[1], state("decoder"))
        assert ({"soft_mask", "eikonal"} <= set(losses)) is is_shape
        assert {"image", "total"} <= set(losses)
        assert not any(loss.requires_grad for loss in losses.values())


def test_the_total_is_the_weighted_sum(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--opt_sdf_eikonal_w", 3, "--rt_mask_alpha", 50)
    losses = trainer.train_step(0)
    wanted = losses["image"] + 100 / 50 * losses["soft_mask"] + 3 * losses["eikonal"]
    torch.testing.assert_close(losses["total"], wanted)
    off = trainer_of(tiny_scene, tiny_sphere, "--opt_sdf_eikonal", 0).train_step(0)
    assert set(off) == {"image", "soft_mask", "total"}


def test_the_rim_of_the_masks_counts_where_it_is_asked_for(tiny_scene, tiny_sphere):
    """More rays count, each with a term above 0."""
    plain, rim = (float(trainer_of(tiny_scene, tiny_sphere, *flags).train_step(0)["soft_mask"])
                  for flags in ((), ("--soft_mask_rim", 1)))
    assert rim > plain


def test_the_image_loss_falls(tiny_scene, tiny_sphere):
    """By 16 to 27 % at the default rate, in both precisions and for four seeds, but not in fewer
    steps; at ten times that rate it leaps to 3 and more within 24 steps for half of them."""
    trainer = trainer_of(tiny_scene, tiny_sphere, "--image_batch_size", 3)
    losses = [float(trainer.train_step(step)["image"]) for step in range(60)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize("step", [0, 2])                     # of shape, of images alone
def test_a_loss_that_is_not_finite_changes_nothing(tiny_scene, tiny_sphere, step):
    """Not even running statistics, which the forward pass writes before the loss is known."""
    trainer = trainer_of(tiny_scene, tiny_sphere)
    for number in range(step):
        trainer.train_step(number)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()
              if value.is_floating_point()}
    good = trainer.views.images.clone()
    trainer.views.images.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="image"):
        trainer.train_step(step)
    assert differing(before, {name: trainer.model.state_dict()[name] for name in before}) == []
    assert any("running_mean" in name for name in before)
    trainer.views.images.copy_(good)
    assert torch.isfinite(trainer.train_step(step + 1)["total"])


def test_distances_that_are_not_finite_are_dropped(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere)
    kept = trainer.buffer.t[1:].clone()
    trainer.buffer.t[0, 0, :2] = torch.nan
    trainer.buffer.drop_not_finite()
    assert torch.isfinite(trainer.buffer.t).all() and not trainer.buffer.hit_mask[0, 0, :2].any()
    assert torch.equal(trainer.buffer.t[1:], kept)


def test_rates_follow_the_factor(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere)
    plan = trainer.plan(0)
    trainer.rate_factor = 0.25
    trainer.train_step(0)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [plan.lr_sdf / 4,
                                                                         plan.lr / 4]


def test_a_surface_that_vanishes_is_noticed(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere)
    trainer.train_step(0)
    assert trainer.warnings() == {}
    with torch.no_grad():
        list(trainer.model.sdf.parameters())[-1].add_(5.0)             # SDF above 0 everywhere
    trainer.train_step(1)
    assert list(trainer.warnings()) == ["no_hits"]
    with torch.no_grad():
        list(trainer.model.sdf.parameters())[-1].sub_(10.0)            # below 0 everywhere
    trainer.train_step(3)
    assert "left_sphere" in trainer.warnings()


@pytest.mark.parametrize("step", [0, 2])                     # of shape, of images alone
def test_views_are_traced_when_they_first_serve(tiny_scene, tiny_sphere, step):
    trainer, traced = trainer_of(tiny_scene, tiny_sphere), trainer_of(tiny_scene, tiny_sphere)
    trainer.buffer = SurfaceBuffer(trainer.views.cameras)
    for other in (trainer, traced):
        other.generator.manual_seed(5)
    drawn = trainer.sampled.sampler.draw(torch.Generator().manual_seed(5)).sources
    losses = [other.train_step(step) for other in (trainer, traced)]
    everything = torch.arange(len(trainer.views))
    left = trainer.buffer.untraced(everything)
    assert sorted([*left.tolist(), *drawn.tolist()]) == everything.tolist()
    assert not len(traced.buffer.untraced(everything))
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name])


def test_losses_that_are_not_finite_are_named():
    losses = {"image": torch.tensor(1.0), "eikonal": torch.tensor(torch.inf)}
    with pytest.raises(FloatingPointError, match="eikonal$"):
        check_finite(sum(losses.values()), losses)
    with pytest.raises(FloatingPointError, match="their sum"):
        check_finite(torch.tensor(torch.nan), {"image": torch.tensor(1.0)})
    check_finite(torch.tensor(1.0), {"image": torch.tensor(1.0)})


def test_a_point_cloud_supervises_the_shape(tiny_scene, tiny_sphere, tmp_path):
    folder = shutil.copytree(tiny_scene, tmp_path / "scene")
    (folder / "merged").mkdir()
    points = trimesh.load(folder / SURFACE_POINTS)
    trimesh.PointCloud(points.vertices).export(folder / MERGED_CLOUD)           # without normals
    flags = ["--use_pcd", 1, "--lr_sdf", 1e-3, "--shape_warmup_steps", 99]
    trainer = trainer_of(folder, tiny_sphere, *flags, cloud=True)
    found = [trainer.train_step(step) for step in range(15)]
    assert {"on_surface", "off_surface"} <= set(found[0]) and "normal" not in found[0]
    assert float(found[-1]["on_surface"]) < 0.6 * float(found[0]["on_surface"])
    losses = trainer_of(folder, tiny_sphere, *flags, "--opt_sdf_offsurface", 0,
                        "--opt_sdf_onsurface", 0, cloud=True).train_step(0)
    assert not {"on_surface", "off_surface"} & set(losses)
    assert "on_surface" not in trainer_of(folder, tiny_sphere, cloud=True).train_step(0)
    shutil.copy(folder / SURFACE_POINTS, folder / MERGED_CLOUD)
    assert "normal" in trainer_of(folder, tiny_sphere, *flags, cloud=True).train_step(0)


@pytest.mark.parametrize("flags", [
    ["--feature_type", "rgb"], ["--feature_aggregation_method", "mean"],
    ["--feature_aggregation_method", "sum"], ["--feature_aggregation_method", "lumigraph"],
    ["--feature_aggregation_method", "lumigraph_epipolar"], ["--occlusion_method", "correlation"],
    ["--feature_aggregation_method", "learned_prior"], ["--sampling", "release"],
    ["--sampling", "release", "--target_crop", 16], ["--occlusion_method", "agreement"],
    ["--tracer", "reference"], ["--source_view_selection_mode", "nearest"],
    ["--image_encoder", "residual"], ["--color_loss", "l2", "--image_loss_region", "foreground"],
    ["--color_loss", "smooth_l1", "--loss_eikonal_metric", "l2"], ["--precision", "bf16"],
    ["--source_views_per_target", -1, "--image_batch_size", 9]])
def test_every_alternative_trains(tiny_scene, tiny_sphere, flags):
    trainer = trainer_of(tiny_scene, tiny_sphere, *flags)
    before = {name: value.clone() for name, value in trainer.model.sdf.state_dict().items()}
    losses = [trainer.train_step(step) for step in (0, 2)]     # shape and image
    assert all(torch.isfinite(value) for found in losses for value in found.values())
    assert differing(before, trainer.model.sdf.state_dict())


@pytest.mark.parametrize("tracer, num_threads", [("fast", 1), ("reference", 2)])
def test_torchs_threads_rest_between_the_passes_of_a_shape_step(tiny_scene, tiny_sphere,
                                                                monkeypatch, tracer, num_threads):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--tracer", tracer)
    draw, seen, before = trainer.eikonal_points, [], torch.get_num_threads()

    def drawn():
        seen.append(torch.get_num_threads())
        return draw()

    monkeypatch.setattr(trainer, "eikonal_points", drawn)
    torch.set_num_threads(2)
    try:
        trainer.train_step(0)
        assert seen == [num_threads] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("flag, network", [
    ("train_decoder_sdf", "sdf"), ("train_image_encoder", "encoder"),
    ("train_feature_decoder", "decoder"), ("train_feature_blending", "aggregation")])
def test_parts_that_are_not_trained_stay_to_the_bit(tiny_scene, tiny_sphere, flag, network):
    trainer = trainer_of(tiny_scene, tiny_sphere, f"--{flag}", 0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step(0)
    changed = {name.split(".")[1] for name in differing(before, trainer.model.state_dict())}
    assert changed == {"sdf", "encoder", "decoder", "aggregation"} - {network}


def test_parts_are_switched_with_their_statistics(tiny_scene, tiny_sphere):
    model = trainer_of(tiny_scene, tiny_sphere).model
    trained_parts(model, TrainedPartsConfig(train_image_encoder=0))
    assert not model.encoder.training and model.decoder.training
    trained_parts(model, TrainedPartsConfig())
    assert model.encoder.training and all(p.requires_grad for p in model.parameters())


def test_batch_statistics_that_are_not_trained_stay(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--train_batch_statistics", 0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step(0)
    changed = set(differing(before, trainer.model.state_dict()))
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert any("bn1.weight" in name for name in changed)               # scale and shift are learned
    images = torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():                                  # a photograph's features are its own
        whole, alone = (trainer.model.encoder(part)[:1] for part in (images, images[:1]))
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)     # rounding of convolutions


def test_scored_steps_are_rows_of_the_curve(train):
    curve = final_state(train("run", "--num_steps", 5, "--eval_steps", "0,1,3"))["curve"]
    assert [row["step"] for row in curve if "psnr" in row] == [0, 1, 3, 5]
    assert all(np.isfinite(row["psnr"]) for row in curve if "psnr" in row)
    assert {"loss_image", "loss_total"} <= set(curve[1])


def test_hits_are_written_once_and_read_again(train, tmp_path, monkeypatch):
    buffers = tmp_path / "buffers"
    keep = ["--precomputed_3D_point_buffers", buffers, "--load_3D_point_buffers", 1,
            "--num_steps", 3]
    plain = final_state(train("plain", "--num_steps", 3))
    train("writes", *keep, "--save_3D_point_buffers", 1)
    files = list(buffers.iterdir())
    assert len(files) == 1
    monkeypatch.setattr(SceneTrainer, "trace_all", lambda self: pytest.fail("traced again"))
    found = final_state(train("reads", *keep))
    assert differing(plain["task"], found["task"]) == []
    monkeypatch.undo()
    monkeypatch.setattr(scene_run, "write_results", lambda *a, **k: "")
    train("other", *keep, "--train_views", "0,1,3", "--save_3D_point_buffers", 1)
    assert len(list(buffers.iterdir())) == 2              # of other views: neither read nor lost


def test_cameras_of_the_checkpoint_are_taken_where_asked(train, tiny_scene):
    folder = train("run", "--num_steps", 1, "--randomize_cameras", 0.05)
    state = load_checkpoint(checkpoints_in(folder / "checkpoints")[-1])["task"]
    scene, split = open_scene(config_of(*flags_of("x", tiny_scene)).data)
    views = views_of(scene, split.train, "cpu")
    moved = with_poses(views, state)
    assert torch.equal(moved.cameras.view, state["cameras"]["view"])
    assert not torch.equal(moved.cameras.view, views.cameras.view)
    with pytest.raises(CheckpointError, match="trained on views"):
        with_poses(views_of(scene, (0, 1), "cpu"), state)
    assert with_poses(views, {}) is views


def test_num_steps_wins_over_num_epochs():
    def options(*flags, epoch=5):
        return loop_options(config_of("--experiment_name", "x", *flags).run, epoch)

    assert options("--num_epochs", 7).num_steps == 35
    assert options("--num_epochs", 7, "--num_steps", 3).num_steps == 3
    assert options("--num_epochs", 7, "--num_steps", 0).num_steps == 0
    assert options("--epochs_til_ckpt", 2).save_interval == 10
    assert options("--epochs_til_ckpt", 2, "--steps_til_ckpt", 4).save_interval == 4
    assert options("--time_limit", 2.5).time_limit == 2.5
    assert options("--eval_steps", "5,9", "--eval_interval", 4).score_steps == (5, 9)


def test_an_epoch_is_as_many_draws_as_the_flag_says():
    views = config_of("--experiment_name", "x", "--total_number_source_views", 49).views
    assert steps_per_epoch(views, 7) == 49
    assert steps_per_epoch(config_of("--experiment_name", "x").views, 7) == 7


def test_a_trainer_is_complete_when_it_is_made(tiny_scene, tiny_sphere):
    """Seven arguments at most, and no library or script assigns to what it holds."""
    assert len(inspect.signature(SceneTrainer).parameters) <= 7
    names, held = {"trainer", "task"}, set(vars(trainer_of(tiny_scene, tiny_sphere)))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("stages/*.py"), *ROOT.glob("utils/**/*.py"),
                 *ROOT.glob("experiment_scripts/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else \
                [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
            set_from_outside = [target for target in targets if isinstance(target, ast.Attribute)
                                and target.attr in held and isinstance(target.value, ast.Name)
                                and target.value.id in names]
            assert not set_from_outside, f"{path}:{node.lineno}"


def test_a_trainer_is_freed_without_garbage_collection(tiny_scene, tiny_sphere):
    """Nothing that it owns refers to it."""
    trainer = trainer_of(tiny_scene, tiny_sphere)
    gone = weakref.ref(trainer)
    del trainer
    assert gone() is None


def test_a_tracer_has_five_methods():
    """Both fast ones and the reference answer all of the protocol, and nothing else but `forget`,
    which measurements need."""
    def public(kind):
        return {name for name in dir(kind)
                if not name.startswith("_") and callable(getattr(kind, name))}

    protocol = {"trace", "hits", "minimum_sdf", "sum_of_values", "sum_of_gradients"}
    assert public(Tracer) == public(ReferenceTracer) == protocol
    assert public(FastTracer) == public(DeviceTracer) == protocol | {"forget"}


def test_correlation_refuses_crops(tiny_scene, tiny_sphere):
    with pytest.raises(ConfigError, match="correlation.*target_crop"):
        trainer_of(tiny_scene, tiny_sphere, "--occlusion_method", "correlation",
                   "--target_crop", 16)


def test_correlation_refuses_photographs_as_features(tiny_scene, tiny_sphere):
    """Its weights of 7 sources that agree are 3 / 7 each, which no decoder undoes."""
    with pytest.raises(ConfigError, match="correlation.*feature_type rgb; use agreement"):
        trainer_of(tiny_scene, tiny_sphere, "--occlusion_method", "correlation",
                   "--feature_type", "rgb")


def test_model_idr_weighs_the_eikonal_term(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--model", "idr", "--opt_sdf_eikonal_w", 3)
    assert trainer.weights(trainer.plan(0))["eikonal"] == 0.1


def test_scalars_are_those_of_the_step_that_was_taken(tiny_scene, tiny_sphere):
    trainer = trainer_of(tiny_scene, tiny_sphere, "--lr", 1e-3, "--lr_encdec_decay_steps", 1,
                         "--rt_mask_alpha", 50, "--rt_mask_alpha_period", 1)
    assert "train/psnr" not in trainer.scalars(0)
    for step in (0, 1):
        trainer.train_step(step)
        plan, found = trainer.plan(step), trainer.scalars(step + 1)
        assert (found["rates/lr"], found["rates/lr_sdf"]) == (plan.lr, plan.lr_sdf)
        assert (found["schedule/alpha"], found["schedule/occ_threshold"]) == (
            plan.alpha, plan.occ_threshold)
        assert 3 < found["train/psnr"] < 60
    assert found["schedule/alpha"] == 100 and found["rates/lr"] == 5e-4
