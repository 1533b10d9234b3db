"""Keyframes of a window: the path through them, its file and its video."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from support.exported_scenes import around, exported
from support.tiny_runs import call, flags_of

from realtime.writing import write_scene
from stages.viewing.recording import FPS, Recording, record
from stages.viewing.subjects import ExportedSubject, newest_checkpoint, open_subject
from stages.viewing.windows import pose_of
from utils.errors import UserError
from utils.geometry.keyframes import PathError


@pytest.fixture
def recording() -> Recording:
    found = Recording((32, 24))
    cameras = around(torch.tensor([0.0, 0.5, 0.2]), (32, 24))
    found.poses = [pose_of(cameras[i]) for i in range(3)]
    return found


def test_the_path_begins_and_ends_at_keyframes(recording):
    path = recording.path(2)
    assert len(path) == 2 * FPS
    torch.testing.assert_close(path.view[[0, -1]], recording.keyframes.view[[0, -1]], atol=1e-5,
                               rtol=0)


def test_keyframes_are_saved_and_loaded(recording, tmp_path):
    other = Recording((64, 24))
    other.load(recording.save(tmp_path))
    assert len(other.poses) == 3
    for one, two in zip(recording.poses, other.poses, strict=True):
        np.testing.assert_allclose(one.position, two.position, atol=1e-5)
        assert abs(one.fov - two.fov) < 1e-6 and abs(abs(one.wxyz @ two.wxyz) - 1) < 1e-6
    (tmp_path / "else.json").write_text("[]")
    with pytest.raises(PathError, match="not a camera path"):
        other.load(tmp_path / "else.json")


def test_a_video_has_all_frames_and_tells_how_far_it_is(recording, tmp_path):
    write_scene(exported("sphere", (32, 24), 3, mesh_resolution=16), tmp_path / "scene.zip")
    subject, shares = ExportedSubject(tmp_path / "scene.zip"), []
    record(subject, recording.path(0.2), tmp_path / "view.mp4", shares.append)
    video = cv2.VideoCapture(str(tmp_path / "view.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6 == len(shares) and shares[-1] == 1
    video.release()


def test_a_run_is_drawn_by_its_own_networks(tiny_scene, tiny_sphere, tmp_path):
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", 1, "--mesh_resolution", 16,
                     sphere=tiny_sphere)
    call("train_sdf_ibr", *flags)
    folder = tmp_path / "run"
    subject = open_subject(folder)
    assert subject.name == "run, 1 steps" and newest_checkpoint(folder).is_file()
    shown = subject.draw(subject.sources.cameras[0].resized(48, 36), is_quick=True)
    assert shown.picture.shape == (3, 36, 48) and shown.hit_mask.any()
    assert (shown.picture[:, 0, 0] == 1).all()                       # white beside the object
    depth = shown.depth[shown.hit_mask]
    assert (depth - subject.sources.cameras.centers_obj[0].norm()).abs().max() < 1.1
    assert newest_checkpoint(tmp_path) is None


def test_what_is_no_subject_is_refused(tmp_path):
    with pytest.raises(UserError, match="config.txt and no scene.json"):
        open_subject(tmp_path)
    with pytest.raises(UserError, match="no such folder or file"):
        open_subject(tmp_path / "nowhere")
