"""Folders of scenes: all bad ones named at the start, memory bounded, any mix of formats."""
from __future__ import annotations

import os
import shutil
import weakref

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from support.tiny_runs import NUM_VIEWS, meta_config_of

from data_processing.scenes import pool as scene_pool
from data_processing.scenes.pool import (
    ScenePool,
    check_scenes,
    open_pool,
    read_scene,
    scene_folders,
)
from data_processing.scenes.scene import load_scene
from data_processing.scenes.splits import meta_views
from utils.errors import ConfigError, SceneError

NAMES = ["a_blobs", "b_box", "c_tori"]


def pool_of(folder, *flags, **options):
    config = meta_config_of("--experiment_name", "x", "--use_pcd", 0, "--dataset_path", folder,
                            *flags)
    return open_pool(config.data, config.meta, **options)


@pytest.fixture
def copy(tiny_scenes, tmp_path):
    """Scenes that a test may spoil."""
    return shutil.copytree(tiny_scenes, tmp_path / "scenes")


def test_scenes_of_all_formats_and_sizes_with_all_their_views(tiny_scenes):
    pool = pool_of(tiny_scenes)
    found = [pool[index] for index in range(len(pool))]
    assert [scene.name for scene in found] == NAMES
    assert [tuple(scene.views.images.shape) for scene in found] == [
        (6, 3, 24, 32), (5, 3, 20, 24), (4, 3, 24, 28)]
    whole = load_scene(tiny_scenes / "b_box")
    assert torch.equal(found[1].views.images, whole.images)
    assert torch.equal(found[1].views.cameras.view, whole.cameras.view)
    assert found[0].cloud is None and found[0].scene is None


def test_large_images_are_made_smaller(tiny_scenes):
    pool = pool_of(tiny_scenes, "--max_image_side", 24)
    sizes = [entry.outline.resolution for entry in pool.entries]
    assert sizes == [(24, 18), (24, 20), (24, 21)]
    assert [pool[i].views.cameras.resolution for i in range(3)] == sizes


def test_scenes_stay_within_the_memory_bound(tiny_scenes):
    config = meta_config_of("--experiment_name", "x", "--use_pcd", 0)
    entries = check_scenes(scene_folders(tiny_scenes), config.data, config.meta)
    read = []

    def reader(entry):
        read.append(entry.outline.path.name)
        return read_scene(entry, config.data)

    def read_since() -> list[str]:
        found = list(read)
        read.clear()
        return found

    pool = ScenePool(entries, reader, entries[0].num_bytes + entries[2].peak_bytes)
    for index in (0, 2, 0, 1, 0, 2):
        scene = pool[index]
        assert entries[index].num_bytes == sum(
            x.numel() * x.element_size() for x in (scene.views.images, scene.views.masks))
    assert read_since() == ["a_blobs", "c_tori", "b_box", "c_tori"]   # 1 drives out 2, 2 then 1
    one = ScenePool(entries, reader, 1)
    one[0], one.read_ahead(1)                             # no room beside the one in use
    assert read_since() == ["a_blobs"] and one[0].name == "a_blobs" and read_since() == []
    assert one[1].name == "b_box" and one[0].name == "a_blobs"
    assert read_since() == ["b_box", "a_blobs"]
    two = ScenePool(entries, reader, entries[0].peak_bytes + entries[1].num_bytes)
    two.read_ahead(1)
    assert two[0].name == "a_blobs" and read_since() == ["b_box", "a_blobs"]
    two.read_ahead(2)                                     # drives out 1, not 0, which is in use
    assert two[2].name == "c_tori" and two[0].name == "a_blobs" and read_since() == ["c_tori"]


class Alive:
    """Memory of the pixels of all scenes and views that are alive, and the most there ever was."""

    def __init__(self, monkeypatch):
        self.sizes, self.most = {}, 0
        for name in ("load_scene", "views_of"):
            monkeypatch.setattr(scene_pool, name, self.watching(getattr(scene_pool, name)))

    def watching(self, read):
        def reading(*args, **options):
            found = read(*args, **options)
            for pixels in (found.images, found.masks):
                self.sizes[id(pixels)] = pixels.nbytes
                weakref.finalize(pixels, self.sizes.pop, id(pixels))
            self.most = max(self.most, self.now)
            return found
        return reading

    @property
    def now(self):
        return sum(list(self.sizes.values()))


@pytest.mark.parametrize("is_scored", [False, True])
@pytest.mark.parametrize("factor", [0, 1, 1.5, 2, 10])
def test_all_that_is_alive_is_within_the_bound(tiny_scenes, monkeypatch, is_scored, factor):
    """Twice through the scenes, the next one read while one is in use; too little room for one is
    room for one."""
    alive = Alive(monkeypatch)
    pool = pool_of(tiny_scenes, is_scored=is_scored)
    largest = max(entry.peak_bytes for entry in pool.entries)
    pool.memory_bytes = int(factor * largest)
    for turn in range(6):
        images = pool[turn % 3].views.images              # as a task holds them
        pool.read_ahead((turn + 1) % 3)
        assert all(future.result() for future in pool._kept.values())
        assert images.nbytes < alive.now
        del images
    assert max(factor, 1) * largest >= alive.most
    assert alive.most >= min(factor, 1) * largest


def test_hundreds_of_scenes_are_visited_within_the_bound(tiny_scenes, tmp_path, monkeypatch):
    """200 scenes of 70 KB while read, 35 KB then: 7 MB in all, and 1 MiB is allowed."""
    for number in range(200):
        shutil.copytree(tiny_scenes / "c_tori", tmp_path / "many" / f"{number:03d}",
                        copy_function=os.link)
    alive = Alive(monkeypatch)
    pool = pool_of(tmp_path / "many", "--scene_memory_mb", 1)
    assert sum(entry.num_bytes for entry in pool.entries) > 6 * pool.memory_bytes
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    seen = set()
    for index, following in zip(order, [*order[1:], order[0]], strict=True):
        seen.add(pool[index].name)
        pool.read_ahead(following)
    assert len(seen) == 200
    assert 0.9 * 2**20 < alive.most <= 2**20


def test_all_bad_scenes_are_named_before_anything_is_read(copy):
    (copy / "d_empty").mkdir()
    (copy / ".hidden").mkdir()
    picture = next((copy / "b_box" / "image").iterdir())
    imageio.imwrite(picture, np.zeros((20, 24, 4), np.uint8))
    whole = (copy / "a_blobs" / "003_rgb.png").read_bytes()
    (copy / "a_blobs" / "003_rgb.png").write_bytes(whole[:-20])
    with pytest.raises(SceneError) as caught:
        pool_of(copy)
    told = str(caught.value)
    assert "3 of 4 scene folders" in told and "c_tori" not in told and ".hidden" not in told
    assert "003_rgb.png: unreadable or truncated" in told
    assert f"{picture}: an image with an alpha channel" in told
    assert "d_empty: no views found" in told


@pytest.mark.parametrize("flags, words", [
    (["--train_views", "0-5"], ["b_box", "c_tori", "view 5", "numbered from 0"]),
    (["--dataset_name", "nlr"], ["3 of 3", "22 views", "6 views were found"])])
def test_scenes_without_the_asked_views_are_named(tiny_scenes, flags, words):
    with pytest.raises(SceneError) as caught:
        pool_of(tiny_scenes, *flags)
    assert all(word in str(caught.value) for word in words), caught.value


def test_many_bad_scenes_are_not_all_listed(tmp_path):
    for number in range(30):
        (tmp_path / f"scene{number:02d}").mkdir()
    with pytest.raises(SceneError, match="30 of 30") as caught:
        pool_of(tmp_path)
    assert len(str(caught.value).splitlines()) == 12 and "and 20 more" in str(caught.value)


@pytest.mark.parametrize("path, words", [
    ("nowhere", "no such folder"), ("file", "a file"), ("empty", "no scene folders"),
    ("scenes/a_blobs", "a scene itself"), ("scenes/b_box", "a scene itself")])
def test_folders_without_scenes_are_errors(copy, tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SceneError, match=words):
        pool_of(tmp_path / path)


def test_no_folder_is_an_error_that_names_the_flag():
    with pytest.raises(ConfigError, match="--dataset_path is missing"):
        pool_of("None")


def test_a_single_held_out_scene_may_be_given(tiny_scenes):
    pool = pool_of("None", path=str(tiny_scenes / "a_blobs"), flag="meta_eval_path",
                   is_scored=True)
    scene, = (pool[0],)
    assert scene.split.test == (4,) and len(scene.views) == NUM_VIEWS - 1
    assert len(scene.scene) == NUM_VIEWS


def test_as_few_views_as_asked_for_are_trained_on(tiny_scenes):
    """Evenly spread; held-out views stay. A scene with fewer views is named."""
    pool = pool_of(tiny_scenes, "--num_train_views", 3)
    assert [pool[i].views.names for i in range(3)] == [
        ("000", "003", "005"), ("000", "002", "004"), ("000", "002", "003")]
    scored = pool_of(tiny_scenes, "--num_train_views", 3, is_scored=True)
    assert scored[0].split.train == (0, 2, 5) and scored[0].split.test == (4,)
    assert len(scored[0].views) == 3 and len(scored[0].scene) == NUM_VIEWS
    with pytest.raises(SceneError, match="(?s)1 of 3 .*c_tori.*num_train_views is 5, need 2 to 4"):
        pool_of(tiny_scenes, "--num_train_views", 5)


def test_views_with_empty_masks_are_left_out(copy, caplog):
    def blacken(*views):
        for view in views:
            path = copy / "c_tori" / f"{view:03d}_mask.png"
            imageio.imwrite(path, np.zeros_like(imageio.imread(path)))

    blacken(1)
    assert pool_of(copy)[2].views.names == ("000", "002", "003") and "001" in caplog.text
    blacken(0, 2)
    pool = pool_of(copy)
    with pytest.raises(SceneError, match="c_tori.*all but 1"):
        pool[2]
    shutil.copy(copy / "c_tori" / "003_mask.png", copy / "c_tori" / "002_mask.png")
    assert len(pool[2].views) == 2                        # fixed, it is read again


def test_views_of_meta_training_are_the_methods():
    assert meta_views(49, "dtu") == tuple(range(49)) and meta_views(21, "dtu") == tuple(range(21))
    assert meta_views(22, "nlr") == tuple(range(16, 22))
    assert meta_views(24, "shapenet") == tuple(range(24)) and meta_views(5) == tuple(range(5))
    assert meta_views(49, "dtu", train_views="0-3") == (0, 1, 2, 3)
    assert meta_views(49, "dtu", num_train_views=3) == (0, 24, 48)
    assert meta_views(22, "nlr", num_train_views=2) == (16, 21)
    assert meta_views(5, "nlr", train_views="all", test_views="1") == (0, 2, 3, 4)
    assert meta_views(5, test_views="1") == (0, 2, 3, 4)
    with pytest.raises(ConfigError, match="22 views"):
        meta_views(12, "nlr")
