"""What a scene's surface starts as, and the baselines that need no network."""
from __future__ import annotations

import json
import logging
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache, partial
from io import StringIO

import pytest
import torch
from support.ball_scene import ball_scene
from support.tiny_runs import call, config_of, differing, final_state, flags_of

from data_processing.scenes.opening import open_scene
from data_processing.scenes.splits import Split
from scheduler import StepPlan
from stages import baselines, scene as scene_run, shape_fitting, surface_start
from stages.baselines import HULL, STEREO
from stages.models import build_model
from stages.scene import build_scene_trainer
from stages.shape_fitting import carve_start
from stages.surface_start import (
    PICTURE_CAPTION,
    PICTURE_FILE,
    SurfaceStart,
    improve_shape,
    stored_kind,
)
from utils.checkpoints.checkpoint import Checkpoint
from utils.errors import SceneError
from utils.views.training_views import TrainingViews


def make_quick(monkeypatch):
    """Take coarse grids and short fits."""
    for module in (surface_start, baselines):
        monkeypatch.setattr(module, "carve_start", partial(carve_start, resolution=32))
    monkeypatch.setattr(shape_fitting, "NUM_HULL_STEPS", 3)


@pytest.fixture
def quick(monkeypatch):
    """Coarse grids and short fits."""
    make_quick(monkeypatch)


@cache
def few_views():
    """A textured ball that 12 cameras photographed all around."""
    return ball_scene(0.6, resolution=(48, 40), num_views=12)


#: Of runs from the best start, with a mask that is sharper where that is not the sphere.
AUTO = ("--init", "auto", "--start_mask_alpha", 200, "--start_shape_steps", 2, "--num_steps")


@pytest.fixture(scope="module")
def whole(tiny_scene, tiny_sphere, tmp_path_factory):
    """Folder and output of a run of three steps that was not stopped; it scores baselines."""
    root, said = tmp_path_factory.mktemp("whole"), StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(said):
        make_quick(monkeypatch)
        call("train_sdf_ibr", *flags_of(root, tiny_scene, *AUTO, 3, "--baseline", 1,
                                        "--test_metrics", 1, sphere=tiny_sphere))
    return root / "run", said.getvalue()


def test_a_run_starts_from_photographs(whole):
    """It draws its start, scores the baselines, and both are in the results."""
    folder, said = whole
    assert (folder / "pictures" / PICTURE_FILE).stat().st_size > 1000
    assert PICTURE_CAPTION in (folder / "report.html").read_text()
    found = json.loads((folder / "metrics.json").read_text())["baselines"]
    assert set(found) <= {HULL, STEREO} and found[HULL]["psnr"] > 5
    assert HULL in said


def test_stereo_starts_where_it_is_asked_for(tiny_scene, tmp_path, quick):
    config = config_of(*flags_of(tmp_path, tiny_scene, "--init", "stereo"))
    start = SurfaceStart(*open_scene(config.data), config)
    assert start.kind == "stereo" and start.choice.maps is not None and start.entries == {}


def ball_start(tmp_path, tiny_scene, *flags, scene=None, resumed=None):
    scene = scene or few_views()
    config = config_of(*flags_of(tmp_path, tiny_scene, *flags))
    return SurfaceStart(scene, Split((0, 1, 2, 3), (4,)), config, resumed=resumed)


def test_views_far_apart_are_refused_by_stereo_and_told_by_auto(tiny_scene, tmp_path, quick,
                                                                caplog):
    scene = ball_scene(0.6, resolution=(48, 40), num_views=4)          # 90 degrees and more
    with pytest.raises(SceneError, match="--init stereo: no two of the 4 training views are with"):
        ball_start(tmp_path, tiny_scene, "--init", "stereo", scene=scene)
    with caplog.at_level(logging.INFO):
        start = ball_start(tmp_path, tiny_scene, "--init", "auto", scene=scene)
    assert start.choice.kind in ("hull", "sphere")
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1 and "no two of the 4 training views" in told[0].message


def test_masks_that_disagree_leave_the_sphere(tiny_scene, tmp_path, quick):
    scene = few_views()
    masks = torch.zeros_like(scene.masks)
    for view in range(4):
        masks[view, :, 2 + 9 * view:6 + 9 * view, :6] = True           # different corners
    start = ball_start(tmp_path, tiny_scene, "--init", "auto", scene=replace(scene, masks=masks))
    assert start.choice.kind == "sphere" and "agree on no point" in start.choice.reason


def test_without_masks_auto_is_the_sphere(tiny_scene, tmp_path, quick):
    folder = shutil.copytree(tiny_scene, tmp_path / "scene")
    for mask in folder.glob("*_mask.png"):
        mask.unlink()
    with pytest.raises(SceneError, match="--init stereo: the scene has no masks"):
        scene_run.train_scene(config_of(*flags_of(tmp_path, folder, "--init", "stereo")))


def test_only_a_good_start_sharpens_the_soft_mask(tiny_scene, tmp_path, quick):
    plan = StepPlan(True, 50.0, 1e-3, 1e-4, 5e-4)
    sharp = ("--start_mask_alpha", 200)
    hull = ball_start(tmp_path, tiny_scene, "--init", "hull", *sharp)
    assert hull.adjust(plan).alpha == 200 and hull.adjust(replace(plan, alpha=400)).alpha == 400
    sphere = ball_start(tmp_path, tiny_scene, "--init", "sphere", *sharp)
    assert sphere.adjust(plan) is plan
    untouched = ball_start(tmp_path, tiny_scene, "--init", "hull")
    assert untouched.adjust(plan).alpha == 50


@pytest.fixture
def ball_trainer(tiny_scene, tiny_sphere, tmp_path):
    """A trainer of all views of the ball of radius 0.6, whose surface is a sphere of 0.5."""
    config = config_of(*flags_of(tmp_path, tiny_scene, sphere=tiny_sphere))
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    scene = few_views()
    views = TrainingViews(scene.images.float(), scene.masks, scene.cameras.to(torch.float32),
                          scene.view_names)
    trainer = build_scene_trainer(model, views, config, generator=torch.Generator().manual_seed(0))
    return trainer


def radius_error(trainer):
    """Mean distance of the hits of all views from the ball."""
    trainer.trace_all()
    hits = trainer.buffer.surface(torch.arange(12))
    return float(hits.points_obj.norm(dim=1)[hits.hit_mask[:, 0]].sub(0.6).abs().mean())


def test_the_shape_alone_comes_closer_to_the_object(ball_trainer):
    """Networks stay to the bit; a tiny SDF at ten times the usual rate needs a few steps."""
    before = radius_error(ball_trainer)
    networks = {name: value.clone() for name, value in ball_trainer.model.state_dict().items()
                if not name.startswith("sdf.")}
    improve_shape(ball_trainer, 12, learning_rate=1e-3)
    assert radius_error(ball_trainer) < 0.6 * before
    assert all(torch.equal(ball_trainer.model.state_dict()[name], value)
               for name, value in networks.items())
    assert not ball_trainer.optimizer.state


def test_no_steps_on_the_shape_alone_change_nothing(ball_trainer):
    """No weight, and nothing is drawn; nor where the shape is not trained."""
    before = ball_trainer.model.state_dict(), ball_trainer.generator.get_state()
    before = {name: value.clone() for name, value in before[0].items()}, before[1]
    improve_shape(ball_trainer, 0, learning_rate=1e-3)
    ball_trainer.model.sdf.requires_grad_(False)
    improve_shape(ball_trainer, 2, learning_rate=1e-3)
    assert torch.equal(ball_trainer.generator.get_state(), before[1])
    assert not differing(dict(ball_trainer.model.state_dict()), before[0])


def test_a_shape_that_is_not_finite_stays_as_it_was_fitted(ball_trainer, monkeypatch, caplog):
    before = {name: value.clone() for name, value in ball_trainer.model.state_dict().items()}
    calls = []

    def photo_consistency(views, surface, plan):
        calls.append(1)
        return surface.points_obj.mean() * (torch.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(ball_trainer, "photo_consistency", photo_consistency)
    improve_shape(ball_trainer, 5, learning_rate=1e-3)
    assert len(calls) == 3 and "step 2 on the shape alone is not finite" in caplog.text
    assert not differing(dict(ball_trainer.model.state_dict()), before)


def test_a_stopped_run_keeps_the_start_that_was_chosen(tiny_scene, tiny_sphere, tmp_path, quick,
                                                       whole, monkeypatch):
    """To the bit as one that was never stopped, though nothing is chosen or fitted again."""
    monkeypatch.setattr(scene_run, "write_results", lambda *_, **__: "")
    flags = flags_of(tmp_path, tiny_scene, *AUTO, sphere=tiny_sphere)
    call("train_sdf_ibr", *flags, 1)
    for name in ("_choice", "fit_hull"):
        monkeypatch.setattr(surface_start, name, lambda *_: pytest.fail("computed again"))
    call("train_sdf_ibr", *flags, 3)
    stopped, wanted = final_state(tmp_path / "run"), final_state(whole[0])
    assert wanted["start"] in ("hull", "stereo")                # else the mask is not sharper
    assert differing(stopped["task"], wanted["task"]) == [] and stopped["start"] == wanted["start"]


@pytest.mark.parametrize("content, init, kind", [
    ({"start": "hull", "config": {"sdf": {"init": "auto"}}}, "auto", "hull"),
    ({"start": "sphere", "config": {"sdf": {"init": "auto"}}}, "auto", "sphere"),
    ({"start": "hull", "config": {"sdf": {"init": "auto"}}}, "sphere", "hull"),
    ({"config": {"sdf": {"init": "stereo"}}}, "stereo", "stereo"),
    ({"config": {"sdf": {"init": "sphere"}}}, "auto", "sphere"),
    ({"config": {"sdf": {}}}, "hull", "hull")])
def test_a_run_that_resumes_is_of_the_kind_it_began_with(tiny_scene, tmp_path, content, init, kind,
                                                         monkeypatch):
    monkeypatch.setattr(surface_start, "_choice", lambda *_: pytest.fail("chosen again"))
    start = ball_start(tmp_path, tiny_scene, "--init", init, "--start_mask_alpha", 200,
                       scene=few_views(), resumed=Checkpoint(tmp_path, content))
    assert start.kind == kind and start.choice is None
    assert start.entries == ({} if kind == init else {"start": kind})
    plan = StepPlan(True, 50.0, 1e-3, 1e-4, 5e-4)
    assert start.adjust(plan).alpha == (50 if kind == "sphere" else 200)


@pytest.mark.parametrize("content", [{}, {"start": "cube"}, {"start": ["hull"], "config": 3},
                                     {"config": {"sdf": {"init": "auto"}}}])
def test_a_checkpoint_that_does_not_tell_is_chosen_for_again(content):
    assert stored_kind(content) is None
