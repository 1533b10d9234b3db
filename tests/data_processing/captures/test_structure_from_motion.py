"""Plain photographs: what is read and compared, and with pycolmap the cameras themselves."""
from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support import child_searches

from data_processing.captures import structure_from_motion
from data_processing.captures.importing import import_capture
from data_processing.captures.structure_from_motion import (
    _in_child,
    _write_copies,
    pairs_to_match,
    photo_folder,
    photographs,
)
from data_processing.scenes.scene import load_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import SceneError


def test_pairs():
    """Few photographs: all pairs. Many: each has its neighbours round the ring, and far ones."""
    assert pairs_to_match(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    pairs = set(pairs_to_match(300))
    assert len(pairs) < 300 * 299 / 2 / 5
    assert all((i, i + 1) in pairs for i in range(299)) and (0, 299) in pairs
    assert any(j - i > 100 for i, j in pairs) and all(i < j for i, j in pairs)


def test_photographs_are_found_without_their_masks(tmp_path):
    (tmp_path / "input").mkdir()
    for name in ("a.JPG", "b.png", "b_mask.png", "notes.txt"):
        (tmp_path / "input" / name).write_bytes(b"")
    assert photo_folder(tmp_path) == tmp_path / "input"
    assert [path.name for path in photographs(tmp_path / "input")] == ["a.JPG", "b.png"]
    assert photo_folder(tmp_path / "none") is None


def test_copies_are_upright_small_and_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    (copy,) = _write_copies([tmp_path / "a.jpg"], tmp_path / "work")
    with Image.open(copy) as image:
        assert image.size == (480, 800)
    written = copy.stat().st_mtime_ns
    _write_copies([tmp_path / "a.jpg"], tmp_path / "work")
    assert copy.stat().st_mtime_ns == written


def test_copies_follow_the_content(tmp_path):
    """Odd names, names alike but for capitals, and new photographs under old names."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 30, 40, 3), dtype=np.uint8)
    names = ["a.png", "a.PNG", "WhatsApp Image (1) #2 \u00dcb.png", "#3.png"]
    for name, picture in zip(names, pixels):
        Image.fromarray(picture).save(tmp_path / name)
    paths = [tmp_path / name for name in names]
    copies = _write_copies(paths, tmp_path / "work")
    assert len(set(copies)) == 4
    assert all(re.fullmatch(r"[0-9]+_[0-9a-f]+\.png", copy.name) for copy in copies)
    for copy, picture in zip(copies, pixels):
        np.testing.assert_array_equal(np.asarray(Image.open(copy)), picture)
    Image.fromarray(pixels[1]).save(paths[0])                  # another picture, the same name
    os.utime(paths[0], (1.6e9, 1.6e9))                         # older than its first copy
    assert _write_copies(paths, tmp_path / "work")[0] == copies[1]


def test_a_native_abort_is_one_line(tmp_path, monkeypatch):
    """COLMAP runs in a process of its own: its death is an error with a cure, ours goes on."""
    monkeypatch.setattr(structure_from_motion, "_search", child_searches.abort)
    with pytest.raises(SceneError, match="ended by signal SIGABRT.*import again"):
        _in_child(tmp_path, ["a.png"], 1)


def test_results_and_errors_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_from_motion, "_search", child_searches.fail)
    with pytest.raises(SceneError, match="^no two photographs$"):
        _in_child(tmp_path, ["a.png"], 2)
    monkeypatch.setattr(structure_from_motion, "_search", child_searches.find)
    assert _in_child(tmp_path, ["a.png"], 2) == tmp_path / "models_2"


def test_cameras_of_the_skull(real_scene, tmp_path):
    """Eight photographs, calibration held out: rotations between views to 2 degrees.

    The principal point is assumed in the middle of the frame, which alone makes 0.7 degrees.
    """
    pytest.importorskip("pycolmap", reason="needs the extra: pip install pycolmap")
    full = real_scene.parents[1] / "dtu_scan65"
    if not full.is_dir():
        pytest.skip(f"the real scan is not at {full}")
    (tmp_path / "capture").mkdir()
    for path in sorted((full / "image").iterdir())[:8]:
        (tmp_path / "capture" / path.name).write_bytes(path.read_bytes())
    found = import_capture(ImportConfig(input=str(tmp_path / "capture"), num_threads=1,
                                        output=str(tmp_path / "scene"))).scene
    true = load_scene(real_scene).cameras
    kept = [int(name) for name in found.view_names]
    assert len(kept) >= 6
    ours, theirs = (view[:, :3, :3] @ view[:1, :3, :3].mT
                    for view in (found.cameras.view, true.view[kept]))
    cosine = ((ours * theirs).sum((1, 2)) - 1) / 2
    assert torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).max() < 2.0
