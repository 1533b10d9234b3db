"""The readers of files that may come from strangers, each with sound files to damage.

A reader is called with a folder. It may give anything back or raise a `UserError`; every other
exception is a failure.
"""
from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from PIL import Image
from support import capture_files, scene_files, tool_captures
from support.ball_scene import ball_scene
from support.exported_scenes import exported

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
from modules import SdfArchitecture
from modules_sdf import build_sdf
from realtime.glb import read_glb
from realtime.maps import decode
from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from realtime.writing import write_scene
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.manifest import (
    Entry,
    describe,
    find_entry,
    obtain,
    read_manifest,
    sha256_of,
)
from utils.checkpoints.storage import load_checkpoint, load_state, save_checkpoint
from utils.comparison.run_lists import ListedRun
from utils.comparison.side_by_side import compare, comparison_grid, read_run
from utils.comparison.tables import as_csv, as_json, gather
from utils.config.parser import TRAIN_SECTIONS, parse_config
from utils.config.saving import config_to_dict, save_config
from utils.config.sections import DataConfig
from utils.config.tool_sections import ImportConfig, RunTableConfig
from utils.errors import UserError
from utils.files.pickles import load_pickled_npy, load_restricted_pickle
from utils.results.lpips import build_lpips


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Attributes:
        name: for the command line and the table.
        make: writes sound files into a new folder.
        read: reads the folder or, with `is_single`, the damaged file.
        files: pattern of the files that are damaged.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: str = "**/*"
    is_single: bool = False


class Unsound(Exception):
    """A reader gave back what should not be: numbers that are not finite."""


def check_finite(*tensors: torch.Tensor) -> None:
    """Raise Unsound where a number is NaN or infinite."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise Unsound("a tensor of the result is not finite")


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


def _all(path: Path, *reads: Callable[[Path], object]) -> None:
    """Call every reader on a file; a UserError is raised once all were called."""
    problem = None
    for read in reads:
        try:
            read(path)
        except UserError as error:
            problem = error
    if problem is not None:
        raise problem


def _ball():
    return ball_scene(0.6, num_views=3, resolution=(16, 12))


def _make_transforms(folder: Path) -> None:
    scene = _ball()
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
    return lambda folder: capture_files.write_colmap(_ball(), folder, end, points)


def _make_flow(folder: Path) -> None:
    rng = np.random.default_rng(0)
    write_flo(folder / "a.flo", rng.normal(size=(6, 8, 2)).astype(np.float32))
    write_pfm(folder / "b.pfm", rng.normal(size=(6, 8)).astype(np.float32))
    write_pfm(folder / "c.pfm", rng.normal(size=(6, 8, 3)).astype(np.float32))


def _read_flow(path: Path) -> None:
    if path.suffix == ".flo":
        check_finite(torch.from_numpy(read_flo(path).flow))
    else:
        _all(path, read_pfm, lambda path: read_pfm(path, 3), read_occlusion)


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
    _all(path, read_image, read_mask, check_image, image_size, stored_size, read_picture,
         read_occlusion)


def _sdf() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_sdf(SdfArchitecture(hidden_dims=4, hidden_layers=1))


def _make_checkpoints(folder: Path) -> None:
    state = _sdf().state_dict()
    save_checkpoint(folder / "run.pth", {
        "format": 1, "task": {"model": {f"sdf.{k}": v for k, v in state.items()}}, "step": 3,
        "random": (1, "x", [1, 2, 3]), "seconds": 1.5, "curve": [{"step": 1, "loss": 0.5}],
        "config": {"run": {"seed": 0, "experiment_name": "x"}}})
    save_checkpoint(folder / "net.pth", {"sdf": state, "error": {"mean_error": 0.1}})
    torch.save({f"decoder_sdf.net.net.{i}.0.weight": torch.ones(2, 2) for i in range(3)},
               folder / "release.pth")
    torch.save(dict(state), folder / "old.pth", _use_new_zipfile_serialization=False)


def _read_checkpoint(path: Path) -> None:
    load_checkpoint(path)
    stored = open_checkpoint(path).networks
    _ = stored.encoder_kind, stored.convolution_of("encoder")
    for network, state in stored.tensors.items():
        load_state(_sdf(), state, network, strict=False)


def _make_pickles(folder: Path) -> None:
    content = {**scene_files.meta(0), "name": "scene", "pair": (1, 2.5), "raw": b"\0\xff",
               "scalar": np.float64(2.5), "deep": {"a": [1, {"b": np.arange(3)}]}}
    for protocol in (0, 2, 4, 5):
        (folder / f"p{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
    scene_files.save_dict(folder / "dict.npy", content)
    with open(folder / "plain.bin", "wb") as file:
        np.save(file, np.arange(12.0).reshape(3, 4))


def _read_pickle(path: Path) -> None:
    if path.suffix == ".pkl":
        load_restricted_pickle(path)
    load_pickled_npy(path)                         # takes bare pickles too


def _make_lpips(folder: Path) -> None:
    channels, sides = [3, 2, 3, 2, 3, 2], (11, 5, 3, 3, 3)
    rng = np.random.default_rng(0)
    trunk = {f"Conv_{i}": {
        "kernel": rng.normal(size=(side, side, channels[i], channels[i + 1])).astype(np.float32),
        "bias": np.zeros(channels[i + 1], np.float32)} for i, side in enumerate(sides)}
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones((1, 1, channels[i + 1], 1))}}
             for i in range(5)}
    (folder / "a.ckpt").write_bytes(pickle.dumps({"AlexNet_0": trunk, **heads}))
    state = {f"net.slice{i + 1}.{i}.{name}": torch.from_numpy(np.ascontiguousarray(
        layer["kernel"].transpose(3, 2, 0, 1) if name == "weight" else layer["bias"]))
        for i, layer in enumerate(trunk.values()) for name in ("weight", "bias")}
    state |= {f"lin{i}.model.1.weight": torch.ones(1, channels[i + 1], 1, 1) for i in range(5)}
    torch.save(state, folder / "b.pth")


def _make_config(folder: Path) -> None:
    save_config(parse_config(TRAIN_SECTIONS, ["--experiment_name", "x"]), folder / "run.txt")
    (folder / "flags.txt").write_text(
        "--experiment_name\nx\n--train_views\n1,2\n--lr\n1e-4\n--occ_threshold\n1e-3,1e-4\n"
        "--occ_threshold_steps\n50\n--load_im_scale=0.5\n--model_hidden_dims_sdf\n16\n")


def _read_config(path: Path) -> None:
    if path.name == "flags.txt":
        argv = path.read_text(encoding="utf-8", errors="replace").strip("\n").split("\n")
    else:
        argv = ["--experiment_name", "x", "--config_filepath", str(path)]
    config_to_dict(parse_config(TRAIN_SECTIONS, argv))


def _make_manifest(folder: Path) -> None:
    inner = folder / "checkpoints"
    inner.mkdir()
    (inner / "source.bin").write_bytes(b"weights" * 9)
    entries = [Entry(f"w{i}.pth", "a test", sha256_of(inner / "source.bin"), 63, address, "none",
                     "MIT") for i, address in enumerate(("", "source.bin"))]
    (inner / "manifest.json").write_text(json.dumps({"files": [vars(e) for e in entries]}))


def _read_manifest(folder: Path) -> None:
    path = folder / "checkpoints" / "manifest.json"
    entries = read_manifest(path)
    describe(entries, path)
    for name, entry in entries.items():
        find_entry(entries, name)
        if "://" not in entry.address:             # nothing is asked of the network here
            try:
                obtain(replace(entry, name=name), output=folder / "fetched", manifest=path)
            except UserError:
                pass
    shutil.rmtree(folder / "fetched", ignore_errors=True)


def _make_tables(folder: Path) -> None:
    (folder / "views").mkdir()
    (folder / "metrics.json").write_text(json.dumps({
        "mean": {"psnr": 25.0, "ssim": 0.9, "lpips": None}, "views": {"004": {"psnr": 25.0}},
        "steps": 30, "train_seconds": 12.4, "device": "cpu"}))
    (folder / "curve.csv").write_text("step,seconds,loss_total,psnr\n0,0.0,,10.5\n5,1.0,0.3,\n"
                                      "10,2.0,0.3,14.0\n30,6.0,0.2,25.0\n")
    for kind in ("photograph", "prediction", "error"):
        imageio.imwrite(folder / "views" / f"004_{kind}.png", np.full((12, 16, 3), 40, np.uint8))


def _read_tables(folder: Path) -> None:
    table = RunTableConfig(at_steps=(10,), at_seconds=(3.0,))
    run = ListedRun("a", "b", 0, folder, (), 30, 0.0, "")
    found = gather([run], table)
    as_csv(found), as_json(found)
    runs = [read_run(folder), read_run(folder)]
    compare(runs)
    comparison_grid(runs)


def _make_exported(folder: Path) -> None:
    scene = exported("sphere", (16, 12), 2, mesh_resolution=8)
    write_scene(scene, folder / "scene")


def _read_part(path: Path) -> None:
    """Read a mesh or an image without the sums that scene.json has of them."""
    data = path.read_bytes()
    if path.suffix == ".glb":
        check_finite(torch.from_numpy(read_glb(data, path.name).vertices_obj))
    else:
        decode(data, path.name, is_lossless=path.stem != "poster")


def _make_zipped(folder: Path) -> None:
    write_scene(exported("sphere", (16, 12), 2, mesh_resolution=8), folder / "scene.zip")


def _check_exported(path: Path) -> None:
    """Read a scene; what it holds must be finite, and can be rendered."""
    scene = read_scene(path)
    check_finite(scene.features.values(), scene.cameras.object_to_clip,
                 torch.from_numpy(scene.mesh.vertices_obj), *scene.decoder.parameters())
    SceneRenderer(scene).render(scene.cameras[0])


READERS = {reader.name: reader for reader in (
    Reader("processed", _make_processed, _read_scene("cache,yaml,pcd,camera")),
    Reader("idr", lambda folder: scene_files.write_idr(folder / "scene"),
           lambda folder: _read_scene("cache,camera")(folder / "scene")),
    Reader("npz", lambda folder: scene_files.write_idr(folder / "scene", masks=False),
           lambda folder: _read_scene("cache,camera")(folder / "scene"), "**/*.npz"),
    Reader("yaml", _make_yaml, _read_yaml),
    Reader("ply", _make_ply, _read_ply, is_single=True),
    Reader("clouds", _make_clouds, _read_clouds, "*.*"),
    Reader("transforms", _make_transforms, lambda folder: _read_pixels(read_transforms(folder)),
           "*.*"),
    Reader("import", _make_transforms, _import, "*.json"),
    Reader("colmap_bin", _make_colmap(".bin"), lambda folder: _read_pixels(read_colmap(folder)),
           "**/*.bin"),
    Reader("colmap_text", _make_colmap(".txt"), lambda folder: _read_pixels(read_colmap(folder)),
           "**/*.txt"),
    Reader("middlebury", lambda folder: capture_files.write_middlebury(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_middlebury(folder / "a")), "**/*.txt"),
    Reader("polycam", lambda folder: tool_captures.write_polycam(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_polycam(folder / "a")), "**/*.json"),
    Reader("llff", lambda folder: tool_captures.write_llff(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_llff(folder / "a")), "**/*.npy"),
    Reader("metashape", lambda folder: tool_captures.write_metashape(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_metashape(folder / "a")), "**/*.xml"),
    Reader("matrices", lambda folder: tool_captures.write_matrices(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_matrices(folder / "a")), "**/*.txt"),
    Reader("mvsnet", lambda folder: tool_captures.write_mvsnet(_ball(), folder / "a"),
           lambda folder: _read_pixels(read_matrices(folder / "a")), "**/*.txt"),
    Reader("flow", _make_flow, _read_flow, is_single=True),
    Reader("images", _make_images, _read_images, is_single=True),
    Reader("checkpoint", _make_checkpoints, _read_checkpoint, is_single=True),
    Reader("pickle", _make_pickles, _read_pickle, is_single=True),
    Reader("lpips", _make_lpips, lambda path: build_lpips(str(path)), is_single=True),
    Reader("config", _make_config, _read_config, is_single=True),
    Reader("exported", _make_exported, lambda folder: _check_exported(folder / "scene"),
           "**/*.json"),
    Reader("scene_parts", _make_exported, _read_part, "**/*.[gw]*", is_single=True),
    Reader("zipped", _make_zipped, _check_exported, is_single=True),
    Reader("manifest", _make_manifest, _read_manifest),
    Reader("tables", _make_tables, _read_tables))}
