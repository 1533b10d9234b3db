"""What a run leaves behind: pictures, mesh, video, figures, report.

Works on callables (`render`, `sdf`), so that it knows no networks; marching cubes themselves are in
`utils.mesh`.
"""
from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.geometry.camera_paths import make_path
from utils.geometry.cameras import Cameras
from utils.config.parser import mesh_formats
from utils.config.sections import DataConfig
from utils.config.tool_sections import TestConfig
from utils.errors import UserError
from utils.results.evaluation import evaluate_views, format_table, summarise, write_metrics
from utils.files.atomic import whole_file
from utils.results.lpips import build_lpips
from utils.mesh import colour_vertices, extract_mesh, mesh_chamfer, write_mesh
from utils.results.metrics import Chamfer
from utils.results.pictures import save_png, source_sheet, to_uint8, view_pictures, view_sheet
from utils.results.plots import camera_plot, sdf_slices
from utils.results.report import write_report
from utils.runs.run import RunFolder
from utils.results.video import write_video

log = logging.getLogger(__name__)

MAX_SHEET_VIEWS = 6               # views of the picture sheet
SLICE_RESOLUTION = 128
#: Picture sheets by name, with their captions.
SHEETS = {"views": "Rendered views against their photographs",
          "sources": "Source views, their masks and their weight in the first view above",
          "slices": "The SDF in three planes of object space",
          "cameras": "Cameras round the unit sphere"}


@dataclass(frozen=True)
class Exhibit:
    """A model in front of its scene, all that results are made from.

    Attributes:
        scene: has images, masks, cameras, view_names, surface_points_world.
        train, scored: indices of the training views, and of those that are scored.
        render: cameras (T) and the index of a view that must not feed itself, or None, to a
            rendering with images, hit_mask, normals_obj, depth, weights.
        sdf: points (N, 3) to (N,).
        visible: points (N, 3) to (K, N) bool, which training views see them.
        device: of sdf.
    """

    scene: Any
    train: tuple[int, ...]
    scored: tuple[int, ...]
    render: Callable[[Cameras, int | None], Any]
    sdf: Callable[[Tensor], Tensor]
    visible: Callable[[Tensor], Tensor]
    device: torch.device


def mean_figures(exhibit: Exhibit) -> dict[str, float]:
    """Mean figures of the scored views, for curves; LPIPS and pictures are left out."""
    found = evaluate_views(exhibit.render, exhibit.scene, exhibit.scored, exclude_self=True)
    return {name: value for name, value in summarise(found)["mean"].items() if value is not None}


def picture_sheets(exhibit: Exhibit, names: Sequence[str] = tuple(SHEETS)) -> dict[str, np.ndarray]:
    """Sheets by name, those of SHEETS that are asked for."""
    sheets = _view_sheets(exhibit) if {"views", "sources"} & set(names) else {}
    if "slices" in names:
        sheets["slices"] = sdf_slices(exhibit.sdf, SLICE_RESOLUTION, device=exhibit.device)
    if "cameras" in names:
        sheets["cameras"] = camera_plot(exhibit.scene.cameras, exhibit.train, exhibit.scored)
    return {name: sheets[name] for name in names}


def _view_sheets(exhibit: Exhibit) -> dict[str, np.ndarray]:
    """Scored views, and the sources with their weights in the first of them."""
    scene, views = exhibit.scene, exhibit.scored[:MAX_SHEET_VIEWS]
    rows, weights = [], None
    for view in views:
        found = exhibit.render(scene.cameras[view], view)
        weights = found.weights[:, 0].cpu() if weights is None else weights
        rows.append(view_pictures(
            found.images[0].cpu().clamp(0, 1), scene.images[view], scene.masks[view],
            hit_mask=found.hit_mask[0].cpu(), normals=found.normals_obj[0].cpu(),
            depth=found.depth[0].cpu()))
    train = list(exhibit.train)
    names = [scene.view_names[view] for view in train]
    return {
        "views": view_sheet(rows, [f"view {scene.view_names[view]}" for view in views]),
        "sources": source_sheet(scene.images[train], scene.masks[train], weights[:, None], names,
                                f"source views of {scene.view_names[views[0]]}")}


def write_results(exhibit: Exhibit, folder: RunFolder, *, test: TestConfig, data: DataConfig,
                  curve: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Write everything that `test` asks for; what cannot be made is named and left out.

    Args:
        exhibit: model and scene.
        folder: of the run.
        test: which results.
        data: reference view and size of the video.
        curve: rows of figures against steps.
        facts: further entries of metrics.json: steps, train_seconds, seed, device.
    Returns:
        The table of figures and the paths of all files, as text.
    """
    notes: list[str] = []
    scored = {}
    if test.test_metrics or test.test_rt:
        lpips = build_lpips(test.lpips_weights) if test.test_metrics else None
        lpips = lpips.to(exhibit.device) if lpips else None
        scored = evaluate_views(exhibit.render, exhibit.scene, exhibit.scored,
                                folder.views if test.test_rt else None, lpips=lpips,
                                exclude_self=True)
    files, distance = _write_mesh(exhibit, folder, test, notes)
    if not set(exhibit.scored) - set(exhibit.train):
        notes.append("no view is withheld: figures are of training views, each kept from feeding "
                     "itself")
    if not exhibit.scene.has_masks:
        notes.append("the scene has no masks: all of every image counts as object, and mask IoU "
                     "says nothing")
    metrics = summarise(scored, chamfer=distance, chamfer_unit="world units", **facts)
    files += list(write_metrics(metrics, folder.path))
    files.append(write_curve(curve, folder.path / "curve.csv"))
    pictures = _write_sheets(exhibit, folder, test)
    video = _write_video(exhibit, folder, test, data) if test.test_spacetime_video else None
    report = write_report(
        folder.path, title=f"{folder.path.name}: {exhibit.scene.name}", metrics=metrics,
        curve=curve, pictures=pictures, video=video, notes=notes,
        config_text=(folder.path / "config.txt").read_text(encoding="utf-8"))
    files += [path for _, path in pictures] + ([video] if video else []) + [report]
    if test.test_rt:
        files.append(folder.views)
    lines = [format_table(metrics)] if scored else []
    lines += [*(f"note: {note}" for note in notes), "", "written:"]
    return "\n".join(lines + [f"  {path}" for path in files])


def _write_mesh(exhibit: Exhibit, folder: RunFolder, test: TestConfig,
                notes: list[str]) -> tuple[list[Path], Chamfer | None]:
    """Coloured mesh in world space, one file a format, and its distance to the true points."""
    scene, train = exhibit.scene, list(exhibit.train)
    formats = mesh_formats(test.mesh_formats)
    true_points = scene.surface_points_world if test.test_metrics else None
    if not formats and true_points is None:
        return [], None
    mesh = extract_mesh(exhibit.sdf, resolution=test.mesh_resolution, device=exhibit.device)
    distance = None if true_points is None else mesh_chamfer(
        mesh, true_points.numpy(), scene.cameras.model, visible=_visible(exhibit))
    if mesh.is_empty:
        notes.append("the SDF has no surface: no mesh was written")
    if mesh.is_empty or not formats:
        return [], distance
    colours = colour_vertices(mesh, scene.images[train], scene.masks[train],
                              cameras=scene.cameras[train], visible=_visible(exhibit))
    return write_mesh(mesh, scene.cameras.model, folder.path / "mesh", colours=colours,
                      formats=formats), distance


def _visible(exhibit: Exhibit) -> Callable[[Tensor], Tensor]:
    """`exhibit.visible` for points on the CPU."""
    return lambda points: exhibit.visible(points.to(exhibit.device)).cpu()


def write_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """curve.csv: a row a record, columns in order of appearance."""
    columns = list(dict.fromkeys(key for row in curve for key in row)) or ["step", "seconds"]
    with whole_file(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(curve)
    return path


def _write_sheets(exhibit: Exhibit, folder: RunFolder,
                  test: TestConfig) -> list[tuple[str, Path]]:
    """Picture sheets as PNG files: (caption, path)."""
    wanted = {"views": test.test_rt, "sources": test.test_rt, "slices": test.test_plot,
              "cameras": test.test_cameras}
    found = []
    for name, picture in picture_sheets(exhibit, [name for name in SHEETS if wanted[name]]).items():
        path = folder.pictures / f"{name}.png"
        save_png(path, picture)
        found.append((SHEETS[name], path))
    return found


def _write_video(exhibit: Exhibit, folder: RunFolder, test: TestConfig,
                 data: DataConfig) -> Path:
    """Novel views along the path that the flags name; an earlier video stays until it is whole."""
    cameras = video_cameras(exhibit, test, data)
    path = folder.path / "video.mp4"

    def frames() -> Iterator[np.ndarray]:
        """(H, W, 3) uint8, one a camera."""
        for index in tqdm(range(len(cameras)), desc="video", unit="frame", dynamic_ncols=True):
            frame = _frame(exhibit.render(cameras[index], None), test.image_crop)
            if test.video_save_frames:
                save_png(folder.path / "video_frames" / f"{index:04d}.png", frame)
            yield frame

    write_video(path, frames(), test.video_fps)
    return path


def video_cameras(exhibit: Exhibit, test: TestConfig, data: DataConfig) -> Cameras:
    """The video's cameras: path by video_path_type, size im_scale times that of the views."""
    cameras = exhibit.scene.cameras
    reference = len(cameras) // 2 if data.reference_view < 0 else data.reference_view
    width, height = (max(round(side * data.im_scale), 1) for side in cameras.resolution)
    model = cameras.model
    shift = torch.linalg.inv(model)[:3, :3] @ torch.tensor(test.video_pivot_offset).to(model)
    guides = cameras if test.video_path_type != "interpolate" else cameras[list(exhibit.train)]
    path = make_path(test.video_path_type, guides, test.video_num_frames, reference=reference,
                     yaw_degrees=test.video_yaw, pivot_obj=tuple(shift.tolist()))
    return path.resized(width, height)


def _frame(rendering: Any, crop: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) uint8 on white, cut to (left, top, width, height)."""
    image = rendering.images[0].cpu().clamp(0, 1)
    frame = to_uint8(torch.where(rendering.hit_mask[0].cpu(), image, torch.ones(())))
    if crop:
        left, top, width, height = crop
        frame = frame[top:top + height, left:left + width]
        if not frame.size:
            raise UserError(f"--image_crop {crop} leaves nothing of a picture of "
                            f"{rendering.images.shape[3]}x{rendering.images.shape[2]}; give left "
                            "top width height inside it")
    return frame
