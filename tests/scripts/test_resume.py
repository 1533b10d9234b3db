"""What may change before a run resumes: folders may, the meaning of its weights may not.

The runs take four steps; without a change, a run that was stopped and resumed is as one that was
never stopped.
"""
from __future__ import annotations

import shutil

import pytest
import torch
from support.tiny_runs import call, call_as_user, differing, final_state, flags_of

from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene
from utils.checkpoints.storage import (
    CHECKPOINT_FORMAT,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
)
from utils.errors import CheckpointError
from utils.runs.resume import MEANING, check_changes


def train(root, scene, sphere, *flags, name="run"):
    """Train, and give the last state of the run's task."""
    call("train_sdf_ibr", *flags_of(root, scene, *flags, name=name, sphere=sphere))
    return final_state(root / name)["task"]


@pytest.fixture(scope="session")
def whole(shared_folder, tiny_scene, tiny_sphere):
    """The state after four steps without a stop."""
    folder = shared_folder.once("whole_run", lambda root: train(
        root, tiny_scene, tiny_sphere, "--num_steps", 4))
    return final_state(folder / "run")["task"]


@pytest.fixture(scope="session")
def stopped(shared_folder, tiny_scene, tiny_sphere):
    """The folder of a run that stopped after two."""
    return shared_folder.once("stopped_run", lambda root: train(
        root, tiny_scene, tiny_sphere, "--num_steps", 2)) / "run"


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy of the stopped run to work on; its folder is tmp_path/run."""
    return shutil.copytree(stopped, tmp_path / "run")


def told(capsys, script, *flags):
    """The one line that a script ends with, with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call_as_user(script, *flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert caught.value.code == 2 and len(lines) == 1
    return lines[0]


def change(run, **entries):
    """Write a run's last checkpoint again with other entries; None takes one out."""
    path = checkpoints_in(run / "checkpoints")[-1]
    stored = load_checkpoint(path) | entries
    save_checkpoint(path, {key: value for key, value in stored.items() if value is not None})


def test_a_run_whose_folder_was_renamed_resumes(copy, whole, tiny_scene, tiny_sphere, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy.rename(tmp_path / "elsewhere" / "renamed")
    state = train(tmp_path / "elsewhere", tiny_scene, tiny_sphere, "--num_steps", 4,
                  name="renamed")
    assert differing(state, whole) == []


def test_a_run_whose_scene_was_moved_resumes(whole, tiny_scene, tiny_sphere, tmp_path, caplog):
    """With surfaces kept on disk, which belong to cameras and shape, not to a path."""
    scene = shutil.copytree(tiny_scene, tmp_path / "scene")
    kept = ["--precomputed_3D_point_buffers", tmp_path / "points", "--save_3D_point_buffers", 1,
            "--load_3D_point_buffers", 1]
    train(tmp_path, scene, tiny_sphere, *kept, "--num_steps", 2)
    scene.rename(tmp_path / "moved")
    state = train(tmp_path, tmp_path / "moved", tiny_sphere, *kept, "--num_steps", 4)
    assert differing(state, whole) == []
    assert f"dataset_path {scene} -> {tmp_path / 'moved'}" in caplog.text
    again = train(tmp_path, tmp_path / "moved", tiny_sphere, *kept, "--num_steps", 4,
                  name="again")
    assert differing(again, whole) == [] and len(list((tmp_path / "points").iterdir())) == 1


def test_another_scene_at_the_same_path_is_not_taken_for_it(tiny_scene, tiny_sphere, tmp_path,
                                                           capsys):
    """Views of the same names and size, other cameras: the earlier run is not resumed.

    What it left on the disk of its surface is not used either.
    """
    scene = shutil.copytree(tiny_scene, tmp_path / "scene")
    kept = ["--precomputed_3D_point_buffers", tmp_path / "points", "--save_3D_point_buffers", 1,
            "--load_3D_point_buffers", 1]
    train(tmp_path, scene, tiny_sphere, *kept, "--num_steps", 2)
    shutil.rmtree(scene)
    write_scene(make_scene("tori", 1, num_views=6, resolution=(32, 24), supersampling=1,
                           num_points=200), scene, "processed")
    line = told(capsys, "train_sdf_ibr", *flags_of(tmp_path, scene, *kept, "--num_steps", 4,
                                                   sphere=tiny_sphere))
    assert "other photographs" in line and "--restart 1" in line
    state = train(tmp_path, scene, tiny_sphere, *kept, "--num_steps", 2, "--restart", 1)
    assert len(list((tmp_path / "points").iterdir())) == 2
    assert differing(state, train(tmp_path, scene, tiny_sphere, "--num_steps", 2,
                                  name="other")) == []


@pytest.mark.parametrize("flags, words", [
    (["--model_activation_sdf", "relu"], ["model_activation_sdf sine -> relu"]),
    (["--posenc_sdf", "nerf", "--posenc_sdf_bands", 2, "--checkpoint_sdf", ""],
     ["posenc_sdf none -> nerf", "posenc_sdf_bands 0 -> 2"]),
    (["--model_image_encoder_features", 8], ["model_image_encoder_features 16 -> 8"]),
    (["--feature_aggregation_method", "mean"], ["feature_aggregation_method learned -> mean"]),
    (["--train_views", "0,1,3"], ["000, 001, 003", "--train_views"]),
    (["--load_im_scale", 0.5], ["--load_im_scale"]),
    (["--scene_normalization", "camera"], ["object space", "--load_model_poses 1"]),
    (["--randomize_cameras", 0.05], ["other cameras", "--load_model_poses 1"])])
def test_what_changes_the_meaning_is_refused(copy, tiny_scene, tiny_sphere, tmp_path, capsys,
                                            flags, words):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    line = told(capsys, "train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 4, *flags,
                                                   sphere=tiny_sphere))
    assert all(word in line for word in (*words, "--restart 1")), line
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_cameras_of_the_checkpoint_are_taken_where_asked(copy, whole, tiny_scene, tiny_sphere,
                                                         tmp_path):
    state = train(tmp_path, tiny_scene, tiny_sphere, "--num_steps", 4, "--randomize_cameras",
                  0.05, "--load_model_poses", 1)
    assert differing(state, whole) == []


def test_what_changes_a_step_is_logged_and_resumes(copy, tiny_scene, tiny_sphere, tmp_path, caplog):
    state = train(tmp_path, tiny_scene, tiny_sphere, "--num_steps", 3, "--lr", 0.001,
                  "--image_batch_size", 1, "--seed", 5)
    assert all(torch.isfinite(value).all() for value in state["average"]["weights"])
    line, = [record.getMessage() for record in caplog.records
             if record.getMessage().startswith("resumes with other flags")]
    assert all(word in line for word in ("lr 0.0001 -> 0.001", "image_batch_size 2 -> 1",
                                         "seed 0 -> 5"))
    assert "num_steps" not in line


def test_flags_of_the_architecture_exist():
    """A name that is misspelt here would never be refused."""
    from dataclasses import fields

    from utils.config.parser import SECTION_OF
    for section, flags in MEANING.items():
        assert set(flags) <= {field.name for field in fields(SECTION_OF[section])}


def test_an_encoder_chosen_by_its_weights_is_left_to_them(tmp_path, caplog):
    check_changes({"cnn": {"image_encoder": "auto"}}, {"cnn": {"image_encoder": "plain"}}, tmp_path)
    assert "image_encoder auto -> plain" in caplog.text
    with pytest.raises(CheckpointError, match="image_encoder residual -> plain"):
        check_changes({"cnn": {"image_encoder": "residual"}}, {"cnn": {"image_encoder": "plain"}},
                      tmp_path)


@pytest.mark.parametrize("script", ["train_sdf_ibr", "test_sdf_ibr"])
@pytest.mark.parametrize("number", [CHECKPOINT_FORMAT + 1, "next"])
def test_a_checkpoint_of_a_later_version_says_to_update(copy, tiny_scene, tiny_sphere, tmp_path,
                                                        capsys, script, number):
    change(copy, format=number)
    line = told(capsys, script, *flags_of(tmp_path, tiny_scene, "--num_steps", 4,
                                          sphere=tiny_sphere))
    assert all(word in line for word in ("step_000002.pth", f"format {number}", "update"))
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["step_000002.pth"]


def test_a_checkpoint_of_the_first_version_resumes(copy, whole, tiny_scene, tiny_sphere, tmp_path):
    """Training resumes to the bit, only the average of the weights begins anew.

    Such a checkpoint has no averaged weights, view names, photographs' key, split or cameras, and
    its configuration lacks flags.
    """
    stored = final_state(copy)
    task = {name: stored["task"][name] for name in ("model", "optimizer", "surface", "generator")}
    config = {name: dict(list(section.items())[:3]) for name, section in stored["config"].items()
              if name != "rates"}
    change(copy, task=task, config=config)
    state = train(tmp_path, tiny_scene, tiny_sphere, "--num_steps", 4)
    for name in ("model", "optimizer", "surface", "generator"):
        assert differing(state[name], whole[name]) == []
    assert (state["average"]["num_updates"], whole["average"]["num_updates"]) == (2, 4)


def test_time_curve_and_random_numbers_may_be_absent(copy, whole, tiny_scene, tiny_sphere,
                                                     tmp_path):
    change(copy, seconds=None, curve=None, random=None, config=None, format=None)
    state = train(tmp_path, tiny_scene, tiny_sphere, "--num_steps", 4)
    assert differing(state, whole) == []          # all that is random here has its own generator
    assert [row["step"] for row in final_state(tmp_path / "run")["curve"]] == [3, 4]


def test_a_state_without_its_optimiser_says_what_it_lacks(copy, tiny_scene, tiny_sphere, tmp_path,
                                                          capsys):
    task = final_state(copy)["task"]
    del task["optimizer"]
    change(copy, task=task)
    line = told(capsys, "train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 4,
                                                   sphere=tiny_sphere))
    assert all(word in line for word in ("it lacks 'optimizer'", "other flags", "--restart 1"))


def test_a_meta_run_names_scenes_that_went_and_came(tiny_scenes, tiny_sphere, tmp_path, caplog):
    scenes = shutil.copytree(tiny_scenes, tmp_path / "scenes")
    flags = ["--num_meta_steps", 1, "--load_pcd", 0, "--steps_til_ckpt", 1]

    def meta(num_steps):
        call("train_sdf_ibr_meta", *flags_of(tmp_path, scenes, *flags, "--num_steps", num_steps,
                                             sphere=tiny_sphere))

    meta(1)
    (scenes / "b_box").rename(scenes / "d_box")
    meta(2)
    assert "resumes with 3 scenes, not the 3 that it began with: gone: b_box; new: d_box" \
        in caplog.text
