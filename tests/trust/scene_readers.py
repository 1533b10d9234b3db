"""The fuzzed readers of scenes, captures, point clouds, images and flow."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.io import savemat
from support import capture_files, scene_files, tool_captures
from trust.reading import Reader, ball, check_finite, read_all

from data_processing.captures.capture import Capture
from data_processing.captures.importing import import_capture
from data_processing.captures.pinhole_images import (
    fitting_views,
    pinhole_view,
    read_photo,
    stored_size,
)
from data_processing.captures.readers.colmap_project import read_colmap
from data_processing.captures.readers.llff_format import read_llff
from data_processing.captures.readers.metashape_format import read_metashape
from data_processing.captures.readers.middlebury_format import read_middlebury
from data_processing.captures.readers.polycam_format import read_polycam
from data_processing.captures.readers.projection_format import read_matrices
from data_processing.captures.readers.scene_folder import capture_of_scene
from data_processing.captures.readers.transforms_format import read_transforms
from data_processing.flow.files import (
    read_flo,
    read_occlusion,
    read_pfm,
    read_picture,
    write_flo,
    write_pfm,
)
from data_processing.scenes.images import check_image, image_size, read_image, read_mask
from data_processing.scenes.normalization import (
    load_ply_points,
    model_from_sphere,
    sphere_from_yaml,
)
from data_processing.scenes.opening import load_point_cloud
from data_processing.scenes.scene import load_scene, outline_scene
from data_processing.scenes.scene_clouds import read_scene_cloud
from stages.mesh_evaluation import read_mesh, read_observed_space
from utils.config.sections import DataConfig
from utils.config.tool_sections import ImportConfig


def _read_scene(order: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        outline_scene(folder, scene_normalization=order)
        scene = load_scene(folder, scene_normalization=order)
        cameras = scene.cameras
        check_finite(scene.images, cameras.view, cameras.projection, cameras.model)
        cloud = load_point_cloud(scene, DataConfig())
        if cloud is not None:
            check_finite(cloud.points_obj)
    return read


def _make_processed(folder: Path) -> None:
    scene_files.write_processed(folder)
    points = np.random.default_rng(0).normal(size=(50, 3))
    scene_files.save_dict(folder / "scene_stats.npy", {
        "pcd_radius": 1.5, "pcd_center": np.zeros(3), "camera_radius": 2.0,
        "camera_intersection": [0.0, 0.0, 5.0]})
    trimesh.PointCloud(points).export(folder / "surface_points_world.ply")


def _make_yaml(folder: Path) -> None:
    (folder / "scene.yaml").write_text("center: [2.0, -1.0, 5.0]\nradius: 1.5\nname: a\n"
                                       "more: {a: &b [1, 2020-01-02], c: 0o17}\n")


def _read_yaml(folder: Path) -> None:
    sphere = sphere_from_yaml(folder)
    check_finite(torch.from_numpy(model_from_sphere(sphere)))


def _make_ply(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i, encoding in enumerate(("ascii", "binary")):
        trimesh.PointCloud(rng.normal(size=(30, 3))).export(folder / f"cloud{i}.ply",
                                                            encoding=encoding)
        trimesh.creation.icosphere(1).export(folder / f"mesh{i}.ply", encoding=encoding,
                                             vertex_normal=bool(i))


def _read_ply(path: Path) -> None:
    check_finite(torch.from_numpy(load_ply_points(path)))


def _make_clouds(folder: Path) -> None:
    points = np.random.default_rng(0).normal(size=(12, 6))
    np.savetxt(folder / "a.xyzn", points)
    trimesh.PointCloud(points[:, :3]).export(folder / "b.ply")
    np.save(folder / "a_meta.npy", {"view": np.eye(4)}, allow_pickle=True)


def _read_clouds(folder: Path) -> None:
    check_finite(torch.from_numpy(read_scene_cloud(folder).points))


def _make_mesh(folder: Path) -> None:
    trimesh.creation.icosphere(1).export(folder / "mesh.ply", encoding="ascii")
    (folder / "mesh_origin.txt").write_text("412345.6 5412345.6 312.4\n")


def _read_mesh(folder: Path) -> None:
    vertices, faces = read_mesh(folder / "mesh.ply")
    check_finite(torch.from_numpy(vertices[faces]))


def _make_matlab(folder: Path) -> None:
    """The files of DTU that say where a scan observed, as they are and compressed."""
    content = {"ObsMask": np.ones((3, 4, 5), np.uint8), "Res": np.array([[2.0]]),
               "BB": np.array([[0.0, 0, 0], [6, 8, 10]])}
    for name, is_compressed in (("plain", False), ("small", True)):
        (folder / name).mkdir()
        savemat(folder / name / "mask.mat", content, do_compression=is_compressed)
        savemat(folder / name / "plane.mat", {"P": np.arange(4.0)[:, None]},
                do_compression=is_compressed)


def _read_matlab(folder: Path) -> None:
    def read(place: Path) -> None:
        space = read_observed_space(place / "mask.mat", place / "plane.mat")
        points = torch.from_numpy(space.corners)
        check_finite(points, torch.from_numpy(space.plane))
        space.holds(space.corners), space.is_above(space.corners)
    read_all(folder / "plain", read, lambda place: read(place.with_name("small")))


def _make_transforms(folder: Path) -> None:
    scene = ball()
    capture_files.write_transforms(scene, folder, k1=0.01, k2=0.001, p1=0.0, camera_model="OPENCV",
                                   ply_file_path="points.ply")
    trimesh.PointCloud(np.eye(3)).export(folder / "points.ply", encoding="ascii")


def _read_pixels(capture: Capture) -> None:
    """What the import does with a capture, up to the normalisation."""
    views, size, _ = fitting_views(capture.views, 32)
    for view in views:
        pinhole = pinhole_view(read_photo(view, capture.least_foreground), size)
        check_finite(torch.from_numpy(pinhole.rgb), torch.from_numpy(pinhole.intrinsics),
                     torch.from_numpy(view.view))


def _import(folder: Path) -> None:
    settings = ImportConfig(input=str(folder), output=str(folder.parent / "imported"))
    cameras = import_capture(settings).scene.cameras
    check_finite(cameras.view, cameras.projection, cameras.model)


def _make_colmap(end: str) -> Callable[[Path], object]:
    points = np.random.default_rng(0).normal(size=(8, 3))
    return lambda folder: capture_files.write_colmap(ball(), folder, end, points)


def _read_scene_folder(folder: Path) -> None:
    _read_pixels(capture_of_scene(folder))


def _make_flow(folder: Path) -> None:
    rng = np.random.default_rng(0)
    write_flo(folder / "a.flo", rng.normal(size=(6, 8, 2)).astype(np.float32))
    write_pfm(folder / "b.pfm", rng.normal(size=(6, 8)).astype(np.float32))
    write_pfm(folder / "c.pfm", rng.normal(size=(6, 8, 3)).astype(np.float32))


def _read_flow(path: Path) -> None:
    if path.suffix == ".flo":
        check_finite(torch.from_numpy(read_flo(path).flow))
    else:
        read_all(path, read_pfm, lambda path: read_pfm(path, 3), read_occlusion)


def _make_images(folder: Path) -> None:
    image = Image.fromarray(scene_files.picture(0))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    # black and white in RGB, which readers of photographs and of masks both take
    both = Image.fromarray(scene_files.mask(0)).convert("RGB")
    both.save(folder / "a.jpg", quality=90, exif=exif)
    image.convert("CMYK").save(folder / "b.jpg")
    image.save(folder / "progressive.jpg", progressive=True)
    image.save(folder / "c.ppm")
    image.save(folder / "d.png", exif=exif)
    image.quantize(8).save(folder / "e.png", transparency=1)
    image.convert("LA").save(folder / "f.png")
    imageio.imwrite(folder / "g.png", scene_files.mask(0))
    imageio.imwrite(folder / "h.png", scene_files.mask(0).astype(np.uint16) * 257)


def _read_images(path: Path) -> None:
    read_all(path, read_image, read_mask, check_image, image_size, stored_size, read_picture,
         read_occlusion)


SCENE_READERS = (
    Reader("processed", _make_processed, _read_scene("cache,yaml,pcd,camera")),
    Reader("idr", lambda folder: scene_files.write_idr(folder / "scene"),
           lambda folder: _read_scene("cache,camera")(folder / "scene")),
    Reader("npz", lambda folder: scene_files.write_idr(folder / "scene", masks=False),
           lambda folder: _read_scene("cache,camera")(folder / "scene"), "**/*.npz"),
    Reader("yaml", _make_yaml, _read_yaml),
    Reader("ply", _make_ply, _read_ply, is_single=True),
    Reader("clouds", _make_clouds, _read_clouds, "*.*"),
    Reader("mesh", _make_mesh, _read_mesh),
    Reader("matlab", _make_matlab, _read_matlab),
    Reader("flow", _make_flow, _read_flow, is_single=True),
    Reader("images", _make_images, _read_images, is_single=True))
CAPTURE_READERS = (
    Reader("transforms", _make_transforms, lambda folder: _read_pixels(read_transforms(folder)),
           "*.*"),
    Reader("import", _make_transforms, _import, "*.json"),
    Reader("scene_folder", _make_processed, _read_scene_folder, "*.[ny]*"),
    Reader("colmap_bin", _make_colmap(".bin"), lambda folder: _read_pixels(read_colmap(folder)),
           "**/*.bin"),
    Reader("colmap_text", _make_colmap(".txt"), lambda folder: _read_pixels(read_colmap(folder)),
           "**/*.txt"),
    Reader("middlebury", lambda folder: capture_files.write_middlebury(ball(), folder / "a"),
           lambda folder: _read_pixels(read_middlebury(folder / "a")), "**/*.txt"),
    Reader("polycam", lambda folder: tool_captures.write_polycam(ball(), folder / "a"),
           lambda folder: _read_pixels(read_polycam(folder / "a")), "**/*.json"),
    Reader("llff", lambda folder: tool_captures.write_llff(ball(), folder / "a"),
           lambda folder: _read_pixels(read_llff(folder / "a")), "**/*.npy"),
    Reader("metashape", lambda folder: tool_captures.write_metashape(ball(), folder / "a"),
           lambda folder: _read_pixels(read_metashape(folder / "a")), "**/*.xml"),
    Reader("matrices", lambda folder: tool_captures.write_matrices(ball(), folder / "a"),
           lambda folder: _read_pixels(read_matrices(folder / "a")), "**/*.txt"),
    Reader("mvsnet", lambda folder: tool_captures.write_mvsnet(ball(), folder / "a"),
           lambda folder: _read_pixels(read_matrices(folder / "a")), "**/*.txt"))
