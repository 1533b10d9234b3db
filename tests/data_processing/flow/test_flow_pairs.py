"""Folders of pairs are recognised by their names; what is missing or does not fit is named."""
from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from support.flow_cases import shared_flow, write_flyingchairs2

from data_processing.flow.files import write_flo, write_pfm
from data_processing.flow.pairs import FolderPairs, find_pairs, load_pair
from utils.errors import SceneError

NAMES = {"examples": ("{}-img0.ppm", "{}-img1.ppm", "{}-gt.flo"),
         "release": ("{}_img1.ppm", "{}_img2.ppm", "{}_flow.flo"),
         "pictures": ("{}-img0.png", "{}-img1.png", "{}-flow.flo"),
         "middlebury": ("{}/frame10.png", "{}/frame11.png", "{}/flow10.flo")}


@pytest.fixture
def chairs2(tmp_path):
    return tmp_path, write_flyingchairs2(tmp_path)


def write_forward(folder, names, pairs, *, known=None):
    """Pairs with forward flow only, by one of NAMES."""
    for index, pair in enumerate(pairs):
        paths = [folder / name.format(f"{index:05d}") for name in names]
        paths[0].parent.mkdir(exist_ok=True)
        Image.fromarray(pair.image_0).save(paths[0])
        Image.fromarray(pair.image_1).save(paths[1])
        write_flo(paths[2], pair.flow_01, known)


def refused(folder, *words):
    with pytest.raises(SceneError) as caught:
        FolderPairs(folder).pair(0)
    told = str(caught.value)
    assert all(word in told for word in ("need", *words)), told


def test_flyingchairs2_is_read_as_it_was_written(chairs2):
    folder, pairs = chairs2
    source = FolderPairs(folder)
    assert len(source) == 3 and not source.is_endless
    for index, truth in enumerate(pairs):
        found = source.pair(index)
        assert found.name == f"{index:07d}" and found.known_mask.all()
        for name, expected in (("image_0", truth.image_0), ("image_1", truth.image_1),
                               ("flow_10", truth.flow_10), ("occluded_mask", truth.occluded_10)):
            assert np.array_equal(getattr(found, name), expected), name


@pytest.mark.parametrize("naming", NAMES)
def test_forward_flow_alone_is_turned_round_and_said_so(tmp_path, caplog, naming):
    caplog.set_level(logging.INFO)
    pairs = write_flyingchairs2(tmp_path / "truth", size=(64, 48))
    write_forward(tmp_path, NAMES[naming], pairs)
    shutil.rmtree(tmp_path / "truth")
    source = FolderPairs(tmp_path)
    assert len(source) == 3 and "forward flow only" in caplog.text
    assert source.files[0].name == "00000" and source.files[0].flow_10 is None
    found = source.pair(1)
    both = ~found.occluded_mask & ~pairs[1].occluded_10
    error = np.linalg.norm(found.flow_10 - pairs[1].flow_10, axis=-1)
    assert both.mean() > 0.6 and np.median(error[both]) < 0.05


def test_a_middlebury_pair_may_lie_in_the_folder_itself(tmp_path):
    pairs = write_flyingchairs2(tmp_path / "truth", 1)
    folder = tmp_path / "Grove"
    folder.mkdir()
    known = np.ones((32, 40), bool)
    known[:, :6] = False
    write_forward(folder, [name.removeprefix("{}/") for name in NAMES["middlebury"]], pairs,
                  known=known)
    found = FolderPairs(folder).pair(0)
    assert found.name == "Grove" and not found.known_mask.all() and found.known_mask.mean() > 0.6


def test_float_map_serves_where_the_occlusion_picture_is_absent(chairs2):
    folder, pairs = chairs2
    (folder / "0000001-occ_10.png").unlink()
    files = find_pairs(folder)
    assert [path.occ_10.suffix for path in files] == [".png", ".pfm", ".png"]
    assert np.array_equal(load_pair(files[1]).occluded_mask, pairs[1].occluded_10)


@pytest.mark.parametrize("missing, words", [
    (["0000001-flow_10.flo"], ["0000001: flow_10"]),
    (["0000001-img_0.png"], ["0000001: image_0"]),
    (["0000002-img_1.png"], ["0000002: image_1"]),
    (["0000000-occ_10.png", "0000000-occ_weights_10.pfm"], ["0000000: occ_10"]),
    ([f"{i:07d}-{part}" for i in range(3) for part in ("img_0.png", "flow_10.flo")],
     ["0000000: image_0, 0000000: flow_10", "and 3 more"]),
])
def test_missing_partners_are_named(chairs2, missing, words):
    folder, _ = chairs2
    for name in missing:
        (folder / name).unlink()
    refused(folder, str(folder), "FlyingChairs2 pairs lack files", *words)


def test_forward_and_other_directions_may_be_absent(chairs2):
    """Only what pre-training reads is needed."""
    folder, _ = chairs2
    for path in {*folder.glob("*_01.*"), *folder.glob("*occ_weights*")}:
        path.unlink()
    assert len(FolderPairs(folder)) == 3


def test_folders_without_pairs_say_what_is_needed(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "nothing")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "a file")
    (tmp_path / "file").unlink()
    refused(tmp_path, "no image pairs", "img_0.png", "_flow.flo", "frame10.png")
    write_flyingchairs2(tmp_path / "train", 1)
    refused(tmp_path, f"did you mean {tmp_path / 'train'}?")


def test_files_of_different_size_are_refused(chairs2):
    folder, _ = chairs2
    write_flo(folder / "0000000-flow_10.flo", np.zeros((5, 6, 2), np.float32))
    refused(folder, "0000000-flow_10.flo", "6x5", "40x32", "0000000-img_0.png")


def test_damage_inside_a_pair_names_its_file(chairs2):
    folder, _ = chairs2
    path = folder / "0000000-flow_10.flo"
    path.write_bytes(path.read_bytes()[:100])
    refused(folder, str(path), "truncated")
    for i in range(3):
        (folder / f"{i:07d}-occ_10.png").unlink()
    write_flo(path, np.zeros((32, 40, 2), np.float32))
    write_pfm(folder / "0000000-occ_weights_10.pfm", np.zeros((32, 40, 3), np.float32))
    refused(folder, "occ_weights_10.pfm", "3 channels")


def test_the_real_pairs_are_turned_round(project_root):
    """Their first images, warped by the derived flow, look like the second where that is seen."""
    folder = shared_flow(project_root, "flyingchairs_examples")
    source = FolderPairs(folder)
    assert len(source) == 9 and source.files[0].flow_01.name == "0000000-gt.flo"
    pair = source.pair(3)
    seen = ~pair.occluded_mask
    assert pair.image_0.shape == (384, 512, 3) and 0.01 < pair.occluded_mask.mean() < 0.2
    rows, columns = np.nonzero(seen)
    at = np.rint(pair.flow_10[seen] + np.stack([columns, rows], -1)).astype(int)
    at = np.clip(at, 0, [511, 383])
    moved = pair.image_0[at[:, 1], at[:, 0]].astype(int)
    after = np.abs(moved - pair.image_1[seen]).mean()
    before = np.abs(pair.image_0[seen].astype(int) - pair.image_1[seen]).mean()
    assert after < 6 and after < before / 3               # levels; nearest pixels, not bilinear
