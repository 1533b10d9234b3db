"""What a run leaves behind: images, mesh, video, metrics, report."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sdf_meshing import colour_vertices, extract_mesh, mesh_chamfer, write_mesh
from stages.evaluation import SHEETS, Exhibit, picture_sheets
from utils.config.sections import DataConfig
from utils.config.stage_sections import TestConfig
from utils.config.values import mesh_formats
from utils.errors import UserError
from utils.geometry.camera_paths import make_path
from utils.geometry.cameras import Cameras
from utils.results.curve import write_curve
from utils.results.evaluation import evaluate_views, format_table, summarise, write_metrics
from utils.results.lpips import build_lpips
from utils.results.metrics import Chamfer
from utils.results.pictures import save_png, to_uint8
from utils.results.report import write_report
from utils.results.video import write_video
from utils.runs.folder import RunFolder

log = logging.getLogger(__name__)


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
