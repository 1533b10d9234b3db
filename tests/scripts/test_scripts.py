"""Each script: two steps on a synthetic scene, from another folder; what it says of bad input."""
from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import re
import shutil

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import (
    BARE,
    FULL,
    HEIGHT,
    NUM_VIEWS,
    SCRIPTS,
    SMALL,
    WIDTH,
    call,
    call_as_user,
    config_of,
    differing,
    final_state,
    flags_of,
    script,
    start,
)

from data_processing.scenes.scene import load_scene
from stages.evaluation import IMAGE_GRIDS
from utils.checkpoints import storage as checkpoints, weights
from utils.checkpoints.storage import checkpoints_in, load_checkpoint, save_checkpoint
from utils.config.parser import TRAIN_SECTIONS, parse_config
from utils.runs.folder import RUN_FILES
from utils.runs.lock import LOCK_NAME
from utils.runs.stopping import PAUSE_NAME

#: What the tiny runs leave out, back again.
ALL_RESULTS = ["--test_rt", 1, "--test_plot", 1, "--test_cameras", 1, "--test_metrics", 1,
               "--test_spacetime_video", 1, "--mesh_formats", "ply,obj,glb",
               "--steps_til_pictures", 1, *FULL]


#: Frames are written where asked for only, a start by meta-training, encdec.pth by pre-training.
NOT_WRITTEN = {"mesh_origin.txt", "video_frames", "meta_start.pth", "encdec.pth",
               "joint_start.pth", "surfaces",
               *(f"video_{stream}.mp4" for stream in ("normals", "shaded", "depth", "mask"))}


class RunsCode:
    """Its unpickling would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="session")
def finished(shared_folder, tiny_scene, tiny_sphere):
    """A run of two steps with all results, from a folder that is not the project's."""
    def train(root):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            scene = os.path.relpath(tiny_scene, root)
            call("train_sdf_ibr", *flags_of("logs", scene, "--num_steps", 2, *ALL_RESULTS,
                                            sphere=tiny_sphere))
    return shared_folder.once("elsewhere", train) / "logs" / "run"


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run to work on; its folder is tmp_path/run."""
    return shutil.copytree(finished, tmp_path / "run")


def fails(capsys, *flags):
    """The one line that train_sdf_ibr.py fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call_as_user("train_sdf_ibr", *flags)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    assert caught.value.code == 2 and len(told) == 1 and "Traceback" not in "".join(lines)
    return told[0]


def test_a_run_leaves_all_its_files_and_no_others(finished):
    while_it_trains = {LOCK_NAME, PAUSE_NAME}
    assert {path.name for path in finished.iterdir()} == \
        set(RUN_FILES) - NOT_WRITTEN - while_it_trains


def test_pictures_open_with_their_size(finished):
    views = sorted(path.name for path in (finished / "views").iterdir())
    assert views == [f"002_{kind}.png" for kind in
                     ("depth", "error", "mask", "mask_pred", "normals", "pcd_error",
                      "photograph", "position", "prediction", "shaded")]
    for name in views:
        assert imageio.imread(finished / "views" / name).shape == (HEIGHT, WIDTH, 3)
    assert {path.stem for path in (finished / "pictures").iterdir()} == {*IMAGE_GRIDS, "mesh"}
    for path in (finished / "pictures").iterdir():
        picture = imageio.imread(path)
        assert min(picture.shape[:2]) > 100 and picture.std() > 5


def test_the_video_has_the_asked_frames(finished):
    video = cv2.VideoCapture(str(finished / "video.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) \
        == (WIDTH, HEIGHT)
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 3


def test_meshes_lie_round_the_object_in_world_space(finished, tiny_scene):
    """After two steps the shape is about the sphere it began as, of radius 0.5 of object space."""
    scene = load_scene(tiny_scene)
    model = scene.cameras.model.double().numpy()
    scale = np.linalg.det(model[:3, :3]) ** (1 / 3)
    for kind in ("ply", "obj", "glb"):
        mesh = trimesh.load(finished / f"mesh.{kind}", force="mesh")
        radii = np.linalg.norm(mesh.vertices - model[:3, 3], axis=-1) / scale
        assert len(mesh.faces) > 100
        assert 0.3 < np.median(radii) < 0.7
    true_points = scene.surface_points_world[:200]
    nearest = torch.cdist(true_points, torch.from_numpy(mesh.vertices).float()).amin(1)
    assert nearest.median() < 0.5 * scale


def test_metrics_are_json_without_nan(finished):
    metrics = json.loads((finished / "metrics.json").read_text(),
                         parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert list(metrics["views"]) == ["002"]
    names = {"psnr", "psnr_foreground", "ssim", "lpips", "mask_iou"}
    assert names | {"chamfer"} <= set(metrics["mean"]) and names <= set(metrics["views"]["002"])
    assert metrics["mean"]["lpips"] is None              # 32x24 pixels are too few for AlexNet
    assert all(metrics["mean"][name] is not None for name in names - {"lpips"} | {"chamfer"})
    assert metrics["steps"] == 2 and metrics["train_seconds"] > 0 and metrics["seed"] == 0
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["view"] for row in rows] == ["002", "mean"]
    assert float(rows[1]["psnr"]) == pytest.approx(metrics["mean"]["psnr"])


def test_the_curve_ends_with_the_metrics(finished):
    with open(finished / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((finished / "metrics.json").read_text())
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["psnr"]) == pytest.approx(metrics["mean"]["psnr"])
    assert float(rows[-1]["mask_iou"]) == pytest.approx(metrics["mean"]["mask_iou"])


def test_the_report_is_self_contained(finished):
    text = (finished / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,30})""", text)
    assert links and all(link.startswith(("data:", "#")) for link in links)


def test_the_configuration_loads_again(finished, tiny_sphere):
    config = parse_config(TRAIN_SECTIONS, ["--config_filepath", str(finished / "config.txt")])
    assert config.run.num_steps == 2 and config.run.checkpoint_sdf == str(tiny_sphere)
    assert config.test.mesh_resolution == 24
    stored = final_state(finished)["config"]
    assert stored["run"]["num_steps"] == 2


def test_the_printed_table_ends_with_paths_that_exist(copy, tiny_scene, capsys, monkeypatch):
    monkeypatch.chdir(copy.parent)
    call("test_sdf_ibr", *flags_of(".", tiny_scene, "--test_rt", 1, "--test_metrics", 1))
    table, written = capsys.readouterr().out.split("written:")
    assert table.splitlines()[0].split()[:2] == ["view", "PSNR"] and "2 steps" in table
    assert max(map(len, table.splitlines())) <= 100
    assert len(written.split()) > 4
    assert all((copy.parent / path).exists() for path in written.split())


def without_times(metrics):
    """The metrics of a run, but those that are times."""
    rows = {"mean": metrics["mean"], **{f"view {name}": row
                                        for name, row in metrics["views"].items()}}
    found = {title: {name: value for name, value in row.items() if name != "render_seconds"}
             for title, row in rows.items()}
    return {"mean": found.pop("mean"), "views": found}


def test_an_evaluation_gives_the_metrics_that_training_ended_with(copy, tiny_scene, tmp_path):
    before = json.loads((copy / "metrics.json").read_text())
    config = (copy / "config.txt").read_text()
    (copy / "metrics.json").unlink()
    flags = ["--test_metrics", 1, "--mesh_resolution", 24]
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, *flags))
    after = json.loads((copy / "metrics.json").read_text())
    assert without_times(after) == without_times(before)
    assert (after["steps"], after["train_seconds"]) == (2, before["train_seconds"])
    assert (copy / "config.txt").read_text() == config
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, *flags, "--checkpoint_path_test",
                                   checkpoints_in(copy / "checkpoints")[-1], name="other",
                                   sphere=tmp_path / "not there"))
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert without_times(other)["views"] == without_times(before)["views"]


def test_all_views_are_scored_where_asked(copy, tiny_scene, tmp_path):
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--test_metrics", 1,
                                   "--benchark_all_views", 1))
    metrics = json.loads((copy / "metrics.json").read_text())
    assert len(metrics["views"]) == NUM_VIEWS


def test_a_finished_run_goes_on_with_more_steps(copy, tiny_scene, tiny_sphere, tmp_path):
    (copy / "mine.txt").write_text("mine")
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 3, sphere=tiny_sphere))
    assert final_state(copy)["step"] == 3 and (copy / "video.mp4").exists()
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 1, "--restart", 1,
                                    sphere=tiny_sphere))
    assert final_state(copy)["step"] == 1 and not (copy / "video.mp4").exists()
    assert (copy / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("flags, words", [
    (["--num_stebs", 3], ["num_stebs", "num_steps"]),
    (["--train_views", "0-6"], ["--train_views", "view 6", "0 to 5"]),
    (["--train_views", "0-3", "--test_views", "3"], ["share", "3"]),
    (["--train_views", "1", "--test_views", "2"], ["1 training view", "at least 2"]),
    (["--dataset_path", "nowhere"], ["nowhere", "--dataset_path"]),
    (["--checkpoint_path", "nowhere.pth"], ["nowhere.pth", "found nothing"]),
    (["--model_hidden_dims_sdf", 20], ["16", "20", "architecture"]),
    (["--resume", 0], ["--restart 1", "--resume 1"]),
    (["--restart", 1, "--checkpoint_path", "nowhere.pth"], ["nowhere.pth"]),
    (["--train_views", "0,1,3"], ["000, 001, 003", "--restart 1"]),
    (["--logging_root", "FILE"], ["FILE", "--logging_root"]),
    (["--experiment_name", "a/b"], ["experiment_name", "a/b"]),
    (["--init_sphere", 1, "--checkpoint_sdf", "", "--restart", 1], ["fit_sphere.txt"]),
])
def test_bad_input_is_one_line_and_touches_nothing(copy, tiny_scene, tiny_sphere, tmp_path,
                                                   capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    told = fails(capsys, *flags_of(tmp_path, tiny_scene, "--num_steps", 4, *flags,
                                   sphere=tiny_sphere))
    assert all(word in told for word in words), told
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before
    assert (tmp_path / "FILE").read_text() == "a file"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind, words", [
    ("truncated", ["truncated or damaged"]), ("code", ["holds code", "mkdir"]),
    ("empty", ["the file is empty"]), ("text", ["not a checkpoint"]),
    ("architecture", ["tensors fit", "architecture"]), ("foreign", ["foreign.pth", "sdf"])])
def test_bad_checkpoints_are_one_line(tiny_scene, tmp_path, finished, capsys, kind, words):
    path, made = tmp_path / f"{kind}.pth", tmp_path / "made_by_code"
    if kind == "truncated":
        whole = checkpoints_in(finished / "checkpoints")[-1].read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
    elif kind == "code":
        path.write_bytes(pickle.dumps({"sdf": RunsCode(made)}))
    elif kind == "architecture":
        save_checkpoint(path, {"sdf": {"layers.0.weight": torch.ones(3, 3)}})
    elif kind == "foreign":
        save_checkpoint(path, {"generator": {"weight": torch.ones(3, 3)}})
    else:
        path.write_text("" if kind == "empty" else "a text")
    told = fails(capsys, *flags_of(tmp_path, tiny_scene, "--checkpoint_sdf", path))
    assert all(word in told for word in [str(path), *words]), told
    assert not made.exists() and not (tmp_path / "run").exists()


def test_a_full_disk_names_the_disk_and_keeps_the_run(copy, tiny_scene, tiny_sphere, tmp_path,
                                                      capsys, monkeypatch):
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", 4, sphere=tiny_sphere)
    fsync = os.fsync
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here: the file that is written cannot be told")

    def full(handle):
        if ".pth" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        told = fails(capsys, *flags)
    assert f"the disk of {copy / 'checkpoints'} is full" in told and "make room" in told
    assert final_state(copy)["step"] == 2
    call("train_sdf_ibr", *flags)
    assert final_state(copy)["step"] == 4


def test_scenes_without_held_out_views_or_masks_say_so(tiny_scene, tiny_sphere, tmp_path, capsys,
                                                       caplog):
    scene = shutil.copytree(tiny_scene, tmp_path / "scene")
    for path in scene.glob("*_mask.png"):
        path.unlink()
    call("train_sdf_ibr", *flags_of(tmp_path, scene, "--num_steps", 1, "--test_metrics", 1,
                                    "--train_views", "all", "--test_views", "",
                                    sphere=tiny_sphere))
    text = capsys.readouterr().out
    assert "no view is held out" in text and "no masks" in text
    assert sum("no masks found" in record.getMessage() for record in caplog.records) == 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["views"]) == NUM_VIEWS


def test_the_sphere_is_fitted_into_the_assets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    call("train_sdf_ibr", "--config_filepath", "configs/fit_sphere.txt", "--num_steps", 2,
         "--batch_size", 64, "--model_hidden_dims_sdf", 16, "--logging_root", tmp_path)
    config = config_of("--experiment_name", "x", "--model_hidden_dims_sdf", 16)
    stored = load_checkpoint(weights.sphere_asset(config.sdf))
    assert differing(stored["sdf"], final_state(tmp_path / "fit_sphere")["task"]["sdf"]) == []
    assert "max_error" in capsys.readouterr().out


def test_scenes_are_made_in_both_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--num_views", 3, "--resolution", "16x12", "--supersampling", 1]
    call("make_scene", "--output", "one", "--kind", "blobs", *flags)
    call("make_scene", "--output", "two", "--kind", "blobs", "--scene_format", "idr", *flags)
    one, two = load_scene(tmp_path / "one"), load_scene(tmp_path / "two")
    assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks)
    with pytest.raises(SystemExit) as caught:
        call_as_user("make_scene", "--output", "one", "--kind", "blobs", *flags)
    assert caught.value.code == 2


@pytest.mark.long
def test_scripts_run_as_processes_from_any_folder(tmp_path):
    """All three in turn; each takes longer than other tests, as it imports torch."""
    ran = [
        ("make_scene", "--output scene --kind blobs --num_views 4 --resolution 16x12 "
                       "--supersampling 1".split()),
        ("train_sdf_ibr", ["--experiment_name", "run", "--dataset_path", "scene", *SMALL, *BARE,
                           "--num_steps", 2]),
        ("test_sdf_ibr", ["--experiment_name", "run", "--dataset_path", "scene", *SMALL, *BARE])]
    for name, flags in ran:
        ended = start(SCRIPTS / f"{name}.py", *flags, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr[-2000:]
    assert "report.html" in ended.stdout and (tmp_path / "logs" / "run" / "report.html").is_file()
    ended = start(SCRIPTS / "test_sdf_ibr.py", "--experiment_name", "never", "--dataset_path",
                  "scene", *SMALL, cwd=tmp_path)
    assert ended.returncode == 2 and not (tmp_path / "logs" / "never").exists()
    assert ended.stderr.splitlines()[-1].startswith("error: no checkpoint is in ./logs/never")


@pytest.mark.parametrize("name", ["train_sdf_ibr", "test_sdf_ibr", "make_scene", "run_table"])
def test_help_lists_the_flags(name, capsys):
    with pytest.raises(SystemExit) as caught:
        script(name).main(["--help"])
    assert caught.value.code == 0 and "default:" in capsys.readouterr().out
