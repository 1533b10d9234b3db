"""Scene folders of both formats: the same scene comes out, in the space that was asked for."""
from __future__ import annotations

import builtins
import logging
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from support.scene_files import (
    CENTER_WORLD,
    FLIP,
    HEIGHT,
    NUM_VIEWS,
    RADIUS_WORLD,
    WIDTH,
    intrinsics,
    mask,
    model_matrix,
    opencv_camera,
    picture,
    save_dict,
    write_idr,
    write_processed,
)

from data_processing.scenes.normalization import Sphere, model_from_sphere, sphere_from_cameras
from data_processing.scenes.scene import load_scene
from utils.errors import ConfigError, MissingExtraError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real data absent")


@pytest.fixture(params=["processed", "idr"])
def folder(request, tmp_path):
    """The scene in one format, then in the other."""
    write = write_processed if request.param == "processed" else write_idr
    return write(tmp_path / "scene")


def test_both_formats_give_the_same_scene(tmp_path):
    a, b = load_scene(write_processed(tmp_path / "a")), load_scene(write_idr(tmp_path / "b"))
    assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks)
    assert a.cameras.resolution == b.cameras.resolution == (WIDTH, HEIGHT)
    assert a.view_names == b.view_names == tuple(f"{i:03d}" for i in range(NUM_VIEWS))
    assert a.has_masks and b.has_masks and len(a) == NUM_VIEWS
    # RQ in float64, then rounding to float32: entries are below 40, so 1e-5 is a few of their ulps.
    assert torch.allclose(a.cameras.view, b.cameras.view, atol=1e-5)
    assert torch.allclose(a.cameras.projection, b.cameras.projection, atol=1e-5)
    assert torch.allclose(a.cameras.model, b.cameras.model, atol=1e-6)


def test_values_of_pixels_and_masks(folder):
    scene = load_scene(folder)
    for i in range(NUM_VIEWS):
        expected = torch.from_numpy(picture(i)).permute(2, 0, 1) / 255
        assert torch.allclose(scene.images[i], expected, atol=1e-7)      # a float32 division
        assert torch.equal(scene.masks[i, 0], torch.from_numpy(mask(i) > 0))
    assert scene.images.dtype == torch.float32 and scene.masks.dtype == torch.bool
    assert scene.name == "scene" and scene.path == str(folder)


def test_points_land_on_the_pixels_that_the_intrinsics_name(folder):
    scene = load_scene(folder)
    points_obj = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    xy_ndc, depth = scene.cameras.project(points_obj)
    for i in range(NUM_VIEWS):
        world = RADIUS_WORLD * points_obj.double().numpy() + CENTER_WORLD
        cam = world @ opencv_camera(i)[:3, :3].T + opencv_camera(i)[:3, 3]
        pixels = cam @ intrinsics(i).T
        pixels = pixels[:, :2] / pixels[:, 2:]
        ndc = np.stack([(2 * pixels[:, 0] + 1) / WIDTH - 1,
                        1 - (2 * pixels[:, 1] + 1) / HEIGHT], -1)
        # float32 products of entries near 10: 1e-5 of the half image is 1e-4 of a pixel.
        assert np.allclose(xy_ndc[i], ndc, atol=1e-5)
        assert np.allclose(depth[i], cam[:, 2], atol=1e-5)


def test_a_scaled_and_jpeg_idr_scene_with_the_other_camera_file_reads_alike(tmp_path):
    folder = write_idr(tmp_path / "scene", cameras="cameras.npz")
    with np.load(folder / "cameras.npz") as archive:
        arrays = dict(archive)
    for i in range(NUM_VIEWS):
        arrays[f"world_mat_{i}"][:3] *= 2.5                 # the same camera, homogeneous scale
        arrays[f"world_mat_inv_{i}"] = np.eye(4)            # IDR's files carry inverses too
    np.savez(folder / "cameras.npz", **arrays)
    expected = load_scene(write_idr(tmp_path / "plain"))
    scene = load_scene(folder)
    assert torch.allclose(scene.cameras.object_to_clip, expected.cameras.object_to_clip, atol=1e-4)
    for path in (folder / "image").iterdir():
        imageio.imwrite(path.with_suffix(".jpg"), imageio.imread(path))
        path.unlink()
    assert load_scene(folder).images.shape == expected.images.shape


def test_idr_masks_go_by_number_when_names_differ(tmp_path):
    folder = write_idr(tmp_path / "scene")
    for path in (folder / "image").iterdir():
        path.rename(path.with_name(f"000{path.name}"))
    masks = load_scene(folder).masks
    assert torch.equal(masks[2, 0], torch.from_numpy(mask(2) > 0))


def test_area_average_and_half_covered_threshold(tmp_path):
    folder = write_processed(tmp_path / "scene")
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[0, 0] = 1                                         # a quarter of a block: background
    corner[0, 2:4] = 1                                       # half of one: foreground
    imageio.imwrite(folder / "000_mask.png", corner)
    scene = load_scene(folder, im_scale=0.5)
    assert scene.cameras.resolution == (WIDTH // 2, HEIGHT // 2)
    blocks = picture(1).reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3)) / 255
    assert np.allclose(scene.images[1].permute(1, 2, 0), blocks, atol=1e-6)    # float32 averages
    expected = torch.zeros(HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    expected[0, 1] = True
    assert torch.equal(scene.masks[0, 0], expected)
    full = load_scene(folder)
    assert full.masks[0].sum() == 3                          # any value over 0 at full size
    assert torch.equal(full.cameras.projection, scene.cameras.projection)


@pytest.mark.parametrize("im_scale", [0, -1, 1.5, float("nan")])
def test_scale_out_of_range_is_refused(folder, im_scale):
    with pytest.raises(ConfigError, match="--load_im_scale"):
        load_scene(folder, im_scale=im_scale)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4)])
def test_first_channel_of_a_colour_mask_counts(folder, shape):
    pixels = np.full(shape, 255, np.uint8)
    pixels[..., 0] = mask(0)
    is_idr = (folder / "mask").is_dir()
    imageio.imwrite(folder / ("mask/000.png" if is_idr else "000_mask.png"), pixels)
    assert torch.equal(load_scene(folder).masks[0, 0], torch.from_numpy(mask(0) > 0))


@pytest.mark.parametrize("write", [write_processed, write_idr])
def test_without_masks_all_is_object_and_it_is_said_once(tmp_path, caplog, write):
    with caplog.at_level(logging.WARNING):
        scene = load_scene(write(tmp_path / "scene", masks=False))
    assert not scene.has_masks and scene.masks.all() and scene.mask_files == ()
    assert sum("no masks" in record.message for record in caplog.records) == 1


def spread_stats(folder: Path) -> None:
    """Stats, yaml and point cloud whose spheres differ, so that the order shows."""
    save_dict(folder / "scene_stats.npy", {
        "pcd_center": CENTER_WORLD + 1, "pcd_radius": 2.0,
        "camera_intersection": CENTER_WORLD + 2, "camera_radius": np.float64(3.0)})
    (folder / "scene.yaml").write_text("center: [2.5, -0.5, 5.5]\nradius: 1\n")


@pytest.mark.parametrize("order, center, radius", [
    ("yaml,cache", CENTER_WORLD + 0.5, 1.0), ("pcd,camera", CENTER_WORLD + 1, 2.0),
    ("camera", CENTER_WORLD + 2, 3.0)])
def test_each_source_of_normalisation_comes_in_its_turn(tmp_path, order, center, radius):
    folder = write_processed(tmp_path / "scene")
    spread_stats(folder)
    scene = load_scene(folder, scene_normalization=order, work_radius=0.9, scene_radius_scale=1.2)
    # object = (world - centre) * work_radius / (radius * scale), the other way round
    expected = np.eye(4)
    expected[:3, :3] *= radius * 1.2 / 0.9
    expected[:3, 3] = center
    assert np.allclose(scene.cameras.model, expected, atol=1e-6)         # float32 of numbers near 5


@pytest.mark.parametrize("radius", [0, -1.0, np.float32(-1)])
def test_a_radius_of_no_point_cloud_is_skipped(tmp_path, radius):
    """So the released code writes the stats of a scene without points."""
    folder = write_processed(tmp_path / "scene")
    save_dict(folder / "scene_stats.npy", {
        "pcd_center": np.zeros(3), "pcd_radius": radius,
        "camera_intersection": CENTER_WORLD + 2, "camera_radius": 3.0})
    scene = load_scene(folder, scene_normalization="pcd,camera", work_radius=0.9)
    assert np.allclose(scene.cameras.model[:3, 3], CENTER_WORLD + 2, atol=1e-6)
    assert np.allclose(scene.cameras.model[:3, :3], np.eye(3) * 3 / 0.9, atol=1e-6)


def test_cache_comes_first_and_is_not_scaled(folder):
    spread_stats(folder)
    scene = load_scene(folder, work_radius=0.5)
    assert np.allclose(scene.cameras.model, model_matrix(), atol=1e-6)


def test_the_same_normalisation_from_yaml_in_both_formats(folder):
    (folder / "size.yaml").write_text(f"center: {CENTER_WORLD.tolist()}\nradius: 2")
    model = load_scene(folder, scene_normalization="yaml").cameras.model
    assert np.allclose(model[:3, :3], np.eye(3) * 2 / 0.99, atol=1e-6)
    assert np.allclose(model[:3, 3], CENTER_WORLD, atol=1e-6)


def test_point_cloud_fits_into_the_work_sphere(folder):
    rng = np.random.default_rng(0)
    points = CENTER_WORLD + rng.uniform(-1, 1, (50, 3)) * [1, 0.5, 0.2]
    (folder / "merged").mkdir()
    trimesh.PointCloud(points).export(folder / "merged" / "point_cloud_world.ply")
    model = load_scene(folder, scene_normalization="pcd").cameras.model.double().numpy()
    points_obj = (points - model[:3, 3]) / model[0, 0]
    # the file holds float32
    assert np.linalg.norm(points_obj, axis=1).max() == pytest.approx(0.99, abs=1e-5)
    assert np.allclose(points_obj.min(0), -points_obj.max(0), atol=1e-5)
    unused = load_scene(folder, scene_normalization="pcd", load_pcd=False)
    assert torch.equal(unused.cameras.model, torch.eye(4))


def test_nothing_found_is_identity_with_one_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        scene = load_scene(folder, scene_normalization="pcd")
    assert torch.equal(scene.cameras.model, torch.eye(4))
    assert [record.message for record in caplog.records if "no normalisation" in record.message]


def test_sphere_of_cameras_is_where_they_look(tmp_path):
    folder = write_idr(tmp_path / "scene")
    model = load_scene(folder, scene_normalization="camera").cameras.model
    # every hand-made camera looks at the centre exactly; solving 3 equations in float64
    assert np.allclose(model[:3, 3], CENTER_WORLD, atol=1e-5)
    # distance 6.12 times the sine of the angle to the furthest side, about 13 / 30 of 1
    assert float(model[0, 0]) == pytest.approx(6.12 * np.sin(np.arctan(13 / 30)) / 0.99, rel=0.05)
    parallel = np.stack([np.eye(4), np.eye(4)])
    parallel[1, 0, 3] = 1
    assert sphere_from_cameras(parallel, np.stack([FLIP, FLIP])) is None


@pytest.mark.parametrize("order, words", [("cache,pdc", "'pdc'.*nearest is 'pcd'"),
                                          ("cameras", "'cameras'.*nearest is 'camera'")])
def test_unknown_word_names_the_nearest(folder, order, words):
    with pytest.raises(ConfigError, match=words):
        load_scene(folder, scene_normalization=order)


@pytest.mark.parametrize("option", ["work_radius", "scene_radius_scale"])
def test_radii_must_be_positive(option, folder):
    (folder / "scene.yaml").write_text("{center: [0, 0, 0], radius: 1}")
    with pytest.raises(ConfigError, match=f"--{option}"):
        load_scene(folder, scene_normalization="yaml", **{option: 0.0})


def test_without_yaml_package_the_install_command_is_named(folder, monkeypatch):
    (folder / "scene.yaml").write_text("{center: [0, 0, 0], radius: 1}")
    whole_import = builtins.__import__

    def no_yaml(name, *arguments):
        if name == "yaml":
            raise ImportError("absent")
        return whole_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", no_yaml)
    with pytest.raises(MissingExtraError, match="pip install pyyaml"):
        load_scene(folder, scene_normalization="yaml")


def test_surface_points_come_along(folder):
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    trimesh.PointCloud(points).export(folder / "surface_points_world.ply")
    found = load_scene(folder).surface_points_world
    assert found.dtype == torch.float32 and np.array_equal(found, points)


def test_model_from_sphere_takes_the_sphere_to_the_work_radius():
    model = model_from_sphere(Sphere(CENTER_WORLD, 3.0), 0.99, 2.0)
    edge_world = np.array([*(CENTER_WORLD + [0, 0, 6.0]), 1])
    assert np.allclose(np.linalg.solve(model, edge_world), [0, 0, 0.99, 1])


@needs_data
@pytest.mark.parametrize("name, num_views", [("dtu_scan65", 49), ("tum_bird", 21)])
def test_real_scenes_see_their_object(name, num_views):
    scene = load_scene(DATA / "small" / name, im_scale=0.48)
    assert scene.images.shape == (num_views, 3, 72, 96) and scene.has_masks
    xy_ndc, depth = scene.cameras.project(torch.zeros(3))
    assert (xy_ndc.abs() < 1).all() and (depth > 0).all()
    assert torch.allclose(scene.cameras.centers_obj.norm(dim=-1).min(),
                          scene.cameras.centers_obj.norm(dim=-1), rtol=0.5)
    # The masks' hull: some points of the unit sphere are inside every mask, most are in none.
    grid = torch.linspace(-1, 1, 21)
    points = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    points = points[points.norm(dim=-1) < 1]
    xy_ndc, _ = scene.cameras.project(points)                             # (V, N, 2)
    inside = torch.nn.functional.grid_sample(
        scene.masks.float(), (xy_ndc * torch.tensor([1.0, -1.0]))[:, None],
        align_corners=False)[:, 0, 0]                                     # (V, N)
    fraction = (inside > 0.5).all(0).float().mean()
    assert 0.002 < fraction < 0.6
