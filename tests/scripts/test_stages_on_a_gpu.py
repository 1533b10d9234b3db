"""Every stage as a user calls it with `--device cuda`, on a GPU that is pretended.

Nothing may mix tensors of both devices, and no training step may make the host wait.
"""
from __future__ import annotations

import json

import pytest
import torch
from support.pretended_gpu import DeviceTensor, no_waiting, pretended_gpu
from support.tiny_runs import FULL, call, final_state, flags_of

from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from stages import shape_fitting
from stages.pretraining import PairTrainer
from stages.viewing.subjects import open_subject
from training import SceneTrainer
from utils.fast.tracing import gpu_tracer

pytestmark = pytest.mark.long

#: Where crops wait: for the number of the sources' pixels that are seen, and the sources' crops.
WAITS_OF_CROPS = {"utils/views/target_crops.py:touched_pixels",
                  "utils/views/source_crops.py:source_crops"}


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """A pretended GPU; marches are short, and steps watched: where the host waited in them."""
    found: set[str] = set()
    monkeypatch.setattr(gpu_tracer, "TIERS", ((6, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 6)
    for trainer in (SceneTrainer, PairTrainer):
        def watched(self, step, inner=trainer.train_step):
            with no_waiting(found):
                return inner(self, step)

        monkeypatch.setattr(trainer, "train_step", watched)
    with pretended_gpu():
        yield found
    assert not found - WAITS_OF_CROPS


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_training_with_all_results_resumed_and_evaluated(tmp_path, tiny_scene, tiny_sphere):
    def flags(steps, *more):
        return flags_of(tmp_path, tiny_scene, "--device", "cuda", "--num_steps", steps,
                        *more, sphere=tiny_sphere)

    results = [*FULL, "--test_rt", 1, "--test_metrics", 1, "--mesh_formats", "ply"]
    call("train_sdf_ibr", *flags(2, *results))
    first = metrics_of(tmp_path / "run")
    assert first["device"] == "pretended GPU" and first["steps"] == 2
    assert 5 < first["mean"]["psnr"] < 60 and (tmp_path / "run" / "mesh.ply").stat().st_size > 500
    call("train_sdf_ibr", *flags(3))
    stored = final_state(tmp_path / "run")
    assert stored["step"] == 3
    assert not any(isinstance(value, DeviceTensor) for value in stored["task"]["model"].values())
    call("test_sdf_ibr", *flags(3, "--test_metrics", 1))
    assert metrics_of(tmp_path / "run")["steps"] == 3


@pytest.mark.parametrize("more, expected", [
    (("--target_crop", 16), WAITS_OF_CROPS),
    (("--refine_cameras", 1, "--shape_interval", 1, "--test_metrics", 1), set()),
    (("--cuda_graphs", 1, "--num_steps", 6, "--test_metrics", 1), set())])
def test_crops_refined_cameras_and_graphs(tmp_path, tiny_scene, tiny_sphere, more, expected, waits):
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--device", "cuda", "--num_steps", 3,
                                    *more, sphere=tiny_sphere))
    assert waits == expected and final_state(tmp_path / "run")["step"] >= 3


MESH = ("--renderer", "mesh", "--mesh_resolution", 24)


def test_a_mesh_is_rendered_exported_and_shown(tmp_path, tiny_scene, tiny_sphere, capsys):
    flags = flags_of(tmp_path, tiny_scene, "--device", "cuda", "--num_steps", 2, *MESH,
                     sphere=tiny_sphere)
    call("train_sdf_ibr", *flags, "--test_metrics", 1, "--test_spacetime_video", 1,
         "--video_num_frames", 2, "--video_fps", 10, "--mesh_formats", "none")
    assert 5 < metrics_of(tmp_path / "run")["mean"]["psnr"] < 60
    call("export_scene", *flags, "--virtual_views", 2, "--distill_steps", 2, "--web", 1,
         "--output", tmp_path / "scene")
    assert "\nstudent G" in capsys.readouterr().out
    frame = SceneRenderer(read_scene(tmp_path / "scene"), "cuda").render(
        read_scene(tmp_path / "scene").cameras[1])
    assert frame.picture.is_cuda and bool(frame.hit_mask.any())
    subject = open_subject(tmp_path / "run", tmp_path / "scene")
    shown = subject.draw(subject.sources.cameras[0], is_quick=False, exclude=0)
    assert not shown.picture.is_cuda and bool(shown.hit_mask.any())


@pytest.mark.parametrize("more", [
    ("--init", "auto"),
    ("--init", "stereo", "--start_shape_steps", 1, "--photo_consistency_weight", 0.5),
    ("--tracer", "reference", "--num_steps", 0),
    ("--opt_sdf_onsurface", 1, "--opt_sdf_normal", 1, "--use_pcd", 1)])
def test_other_starts_and_losses(tmp_path, tiny_scene, tiny_sphere, more, monkeypatch):
    monkeypatch.setattr(shape_fitting, "NUM_HULL_STEPS", 3)
    monkeypatch.setattr(shape_fitting, "HULL_RESOLUTION", 24)
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--device", "cuda", "--num_steps", 2,
                                    *more, sphere=tiny_sphere))
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml"])
def test_meta_training_and_a_scene_from_its_start(tmp_path, tiny_scene, tiny_scenes, tiny_sphere,
                                                  algorithm):
    call("train_sdf_ibr_meta", *flags_of(
        tmp_path, tiny_scenes, "--device", "cuda", "--num_steps", 1, "--num_meta_steps", 2,
        "--test_views", 0, "--meta_algorithm", algorithm, name="meta", sphere=tiny_sphere))
    if algorithm == "reptile":
        call("test_sdf_ibr_meta", *flags_of(
            tmp_path, tiny_scene, "--device", "cuda", "--num_steps", 1, "--eval_steps", "0",
            "--meta_initialization", tmp_path / "meta" / "meta_start.pth"))


def test_pre_training(tmp_path):
    call("pretrain_features", "--logging_root", tmp_path, "--experiment_name", "pre", "--device",
         "cuda", "--num_steps", 2, "--batch_size", 2, "--crop_size", "24x16", "--num_threads", 1,
         "--model_image_encoder_depth", 1, "--steps_til_pictures", 2)
    assert metrics_of(tmp_path / "pre")["steps"] == 2
    stored = torch.load(tmp_path / "pre" / "encdec.pth", weights_only=True)
    assert not any(isinstance(value, DeviceTensor) for value in stored["encoder"].values())
