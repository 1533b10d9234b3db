"""Held-out views of a run: rendered once for each state of the weights, by one renderer."""
from __future__ import annotations

import csv
import json
import shutil
from collections import Counter

import pytest
import torch
import trimesh
from support.tiny_runs import NUM_VIEWS, call, config_of, flags_of

from data_processing.scenes.opening import open_scene
from data_processing.scenes.scene_clouds import MERGED_CLOUD, SURFACE_POINTS
from stages import evaluation
from stages.evaluation import SceneEvaluation
from stages.models import model_of
from stages.scene import build_scene_trainer
from stages.view_rendering import ViewRenderer
from utils.runs.seeds import seed_everything
from utils.views.training_views import views_of

RESULTS = ["--test_rt", 1, "--test_metrics", 1, "--eval_all", "never"]

WIDER = ("psnr_all", "psnr_train")


@pytest.fixture
def made(monkeypatch):
    """What was made: "renderers", and each view by its camera's centre as often as rendered."""
    counts = Counter()

    class Counting(ViewRenderer):
        def __init__(self, *args, **options):
            counts["renderers"] += 1
            super().__init__(*args, **options)

        def __call__(self, cameras, exclude=None):
            counts[tuple(cameras.centers_obj[0].tolist())] += 1
            return super().__call__(cameras, exclude)

    monkeypatch.setattr("stages.view_rendering.ViewRenderer", Counting)
    return counts


@pytest.mark.parametrize("flags, num_views", [([], 1), (["--benchark_all_views", 1], NUM_VIEWS)])
def test_at_the_end_each_view_is_rendered_once(tiny_scene, tiny_sphere, tmp_path, made, flags,
                                               num_views):
    """For the curve, TensorBoard's image grids, metrics, views and the report together."""
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 2, "--steps_til_pictures",
                                    2, *RESULTS, *flags, sphere=tiny_sphere))
    assert made.pop("renderers") == 1
    assert len(made) == num_views and set(made.values()) == {1}


def test_all_held_out_and_training_views_are_rendered_once_for_their_psnr(
        tiny_scene, tiny_sphere, tmp_path, made):
    """All of the scene, as it has no others; curve, metrics and their means agree."""
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 1, "--test_metrics", 1,
                                    "--mesh_resolution", 24, "--train_views", "0,1,3",
                                    "--test_views", "2", "--eval_all",
                                    "always", sphere=tiny_sphere))
    assert made.pop("renderers") == 1 and len(made) == NUM_VIEWS and set(made.values()) == {1}
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["mean"]
    last = list(csv.DictReader((tmp_path / "run" / "curve.csv").open(newline="")))[-1]
    assert {name: float(last[name]) for name in WIDER} == {name: found[name] for name in WIDER}
    assert len({found[name] for name in ("psnr", *WIDER)}) == 3
    # of a mesh of 128 cells a side, and of one of 24
    assert float(last["chamfer"]) == pytest.approx(found["chamfer"], rel=0.1)
    assert float(last["chamfer"]) == pytest.approx(
        (float(last["accuracy"]) + float(last["completeness"])) / 2)
    assert 0 < float(last["normal_degrees"]) < 90
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--test_metrics", 1, "--train_views",
                                   "0,1,3", "--test_views", "2,4,5"))
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())["mean"]
    assert again["psnr"] == pytest.approx(found["psnr_all"])
    assert {name: again[name] for name in WIDER} == {name: found[name] for name in WIDER}


def test_each_scored_step_renders_anew(tiny_scene, tiny_sphere, tmp_path, made):
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 2, "--eval_steps", "0,1",
                                    *RESULTS, sphere=tiny_sphere))
    assert made.pop("renderers") == 3 and list(made.values()) == [3]


def test_an_evaluation_renders_once(tiny_scene, tiny_sphere, tmp_path, made):
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 1, sphere=tiny_sphere))
    made.clear()
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, *RESULTS))
    assert made.pop("renderers") == 1 and list(made.values()) == [1]


def test_distances_are_to_the_scenes_cloud_whether_or_not_it_supervises(tiny_scene, tiny_sphere,
                                                                        tmp_path):
    """A cloud 5 world units away is 5 and less from what is seen; without it the true points are
    near. The column is in metrics.csv, the mean and each view in curve.csv, the map beside both."""
    folder = shutil.copytree(tiny_scene, tmp_path / "scene")
    (folder / MERGED_CLOUD).parent.mkdir()
    points = trimesh.load(folder / SURFACE_POINTS).vertices
    trimesh.PointCloud(points + [5.0, 0, 0]).export(folder / MERGED_CLOUD)
    for load_pcd, low, high in ((1, 2.0, 6.0), (0, 0.0, 1.5)):
        call("train_sdf_ibr", *flags_of(tmp_path, folder, "--num_steps", 1, *RESULTS, "--load_pcd",
                                        load_pcd, "--restart", 1, sphere=tiny_sphere))
        with open(tmp_path / "run" / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(tmp_path / "run" / "curve.csv", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert [row["view"] for row in rows] == ["002", "mean"]
        assert all(low < float(row["pcd_error"]) < high for row in rows)
        assert float(last["pcd_error_002"]) == float(last["pcd_error"])
        assert (tmp_path / "run" / "views" / "002_pcd_error.png").is_file()
        assert (tmp_path / "run" / "pictures" / "cloud.png").is_file()


def test_what_was_rendered_is_let_go_as_the_weights_change(tiny_scene, tiny_sphere, monkeypatch):
    """Also when the same step comes again, after a return to an earlier state."""
    config = config_of(*flags_of("logs", tiny_scene, sphere=tiny_sphere))
    scene, split = open_scene(config.data, config.run.seed)
    held_out = SceneEvaluation(scene, split)
    generator = seed_everything(0)
    model = model_of(config, scene.images.device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, scene.images.device), config,
                                  generator=generator, evaluation=held_out)
    trainer.trace_all()
    first = held_out.trained_scene(trainer, 1)
    before = trainer.score(1)
    assert held_out.trained_scene(trainer, 1) is first and list(first._rendered) == [2]
    monkeypatch.setattr(evaluation, "trained_scene_of", None)      # nothing is made anew
    assert trainer.score(1) == before
    assert set(trainer.pictures(1)) == set(evaluation.IMAGE_GRIDS) - {"cloud"}
    monkeypatch.undo()
    trainer.train_step(0)
    assert held_out.trained_scene(trainer, 1) is not first
    assert trainer.score(1)["psnr"] != before["psnr"]


def test_dead_features_are_counted_and_told(tiny_scene, tiny_sphere, caplog):
    """A feature whose last bias is far below 0 is 0 everywhere; without an encoder none is told."""
    config = config_of(*flags_of("logs", tiny_scene, sphere=tiny_sphere))
    scene, split = open_scene(config.data, config.run.seed)
    held_out = SceneEvaluation(scene, split)
    model = model_of(config, scene.images.device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, scene.images.device), config,
                                  generator=seed_everything(0), evaluation=held_out)
    before = trainer.score(0)["dead_features"]
    with torch.no_grad():
        last = model.encoder.ups[-1][0]
        alive = [number for number in range(16)
                 if evaluation.current_renderer(trainer, 0).features[:, number].max() > 0][:3]
        last.bias[alive] = -1e3
    held_out.forget()
    trainer.average.load_state_dict(None)
    with caplog.at_level("INFO"):
        assert trainer.score(5)["dead_features"] == before + len(alive)
    assert f"after step 5: {before + len(alive):.0f} features of the encoder" in caplog.text
    plain = config_of(*flags_of("logs", tiny_scene, "--feature_type", "rgb", sphere=tiny_sphere))
    model = model_of(plain, scene.images.device)
    trainer = build_scene_trainer(model, views_of(scene, split.train, scene.images.device), plain,
                                  generator=seed_everything(0), evaluation=SceneEvaluation(
                                      scene, split))
    assert "dead_features" not in trainer.score(0)
