"""What a run leaves behind: images, mesh, video, metrics, report."""
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realtime.mesh_pictures import mesh_grid
from realtime.scene import TriangleMesh
from realtime.web_page import framed_page
from sdf_meshing import Mesh, colour_vertices, extract_mesh, write_mesh
from stages.baselines import baseline_metrics
from stages.evaluation import IMAGE_GRIDS, MAX_GRID_VIEWS, TrainedScene, image_grids
from stages.results.video import reference_index, write_videos
from stages.surface_start import (
    MATCHES_CAPTION,
    MATCHES_FILE,
    PICTURE_CAPTION,
    PICTURE_FILE,
)
from utils.config.sections import DataConfig
from utils.config.stage_sections import TestConfig
from utils.config.values import mesh_formats
from utils.errors import ExportedSceneError, UserError
from utils.files.atomic import write_text_atomic
from utils.results.curve import write_curve
from utils.results.evaluation import (
    evaluate_views,
    file_name,
    format_table,
    summarise,
    write_metrics,
)
from utils.results.lpips import LPIPS, build_lpips
from utils.results.metric_table import METRICS, ViewMetrics
from utils.results.metrics import Chamfer
from utils.results.pictures import on_white, save_png
from utils.results.report import ReportPicture, write_report
from utils.runs.folder import MESH, MESH_ORIGIN, RunFolder

log = logging.getLogger(__name__)
EXPORTED = "scene.zip"            # in a run's folder, which the report shows
MAX_MESH_VIEWS = 3                # of the picture of the mesh


def write_results(trained: TrainedScene, folder: RunFolder, *, test: TestConfig, data: DataConfig,
                  curve: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Write everything that `test` asks for; what cannot be made is named and left out.

    Args:
        trained: model and scene.
        folder: of the run.
        test: which results.
        data: reference view and size of the video.
        curve: rows of metrics against steps.
        facts: further entries of metrics.json: steps, train_seconds, seed, device.
    Returns:
        The table of metrics and the paths of all files, as text.
    """
    lpips = build_lpips(test.lpips_weights) if test.test_metrics else None
    lpips = lpips and lpips.to(trained.device)
    log.info("results: scores of %d views", len(trained.scored))
    scored = _score_views(trained, folder, test, lpips)
    if test.baseline:
        facts = {**facts, "baselines": baseline_metrics(trained, lpips)}
    log.info("results: mesh")
    mesh = _extract(trained, test)
    mesh_files, mesh_pictures = _write_mesh(trained, mesh, folder, test)
    viewer, missing = _viewer(folder, test)
    notes = [*_notes(trained, mesh), *missing]
    metrics = summarise(scored, chamfer=_distance(trained, mesh, test),
                        wider=_wider_means(trained, test),
                        chamfer_unit="world units", **facts)
    tables = [*write_metrics(metrics, folder.path), write_curve(curve, folder.path / "curve.csv")]
    log.info("results: pictures, video, report")
    pictures = [*mesh_pictures, *_write_grids(trained, folder, test, metrics)]
    crop = _write_crop(trained, folder, test, data)
    videos = write_videos(trained, folder, test, data) if test.test_spacetime_video else []
    report = write_report(
        folder.path, title=_title(folder, trained.scene.name), metrics=metrics,
        curve=curve, pictures=pictures, video=videos[0] if videos else None,
        notes=[*_mesh_words(mesh, mesh_files), *notes], viewer=viewer,
        config_text=(folder.path / "config.txt").read_text(encoding="utf-8"))
    files = [*mesh_files, *tables, *(picture.path for picture in pictures),
             *videos, report, *crop, *([folder.views] if test.test_rt else [])]
    lines = [format_table(metrics)] if scored else []
    lines += [*(f"note: {note}" for note in notes), "", "written:"]
    return "\n".join(lines + [f"  {path}" for path in files])


def _score_views(trained: TrainedScene, folder: RunFolder,
                 test: TestConfig, lpips: LPIPS | None) -> dict[str, ViewMetrics]:
    """Score the views and write their pictures, as `test` asks for; empty if for neither."""
    if not (test.test_metrics or test.test_rt):
        return {}
    return evaluate_views(trained.rendered, trained.scene, trained.scored,
                          folder.views if test.test_rt else None, lpips=lpips,
                          cloud=trained.cloud)


def _wider_means(trained: TrainedScene, test: TestConfig) -> dict[str, float | None] | None:
    """Return PSNR over all held-out and over the training views, if asked for."""
    if not test.test_metrics or test.eval_all == "never":
        return None
    log.info("results: PSNR of all %d views", len(trained.scene))
    return trained.wider_means()


def _extract(trained: TrainedScene, test: TestConfig) -> Mesh | None:
    """Return the mesh, where its files are asked for or there are points to compare it with."""
    if not mesh_formats(test.mesh_formats) and not _has_truth(trained, test):
        return None
    return extract_mesh(trained.sdf, resolution=test.mesh_resolution, device=trained.device)


def _has_truth(trained: TrainedScene, test: TestConfig) -> bool:
    """Return whether the mesh is compared with true surface points."""
    return bool(test.test_metrics) and trained.scene.surface_points_world is not None


def _distance(trained: TrainedScene, mesh: Mesh | None, test: TestConfig) -> Chamfer | None:
    """Return the distance of the mesh to the scene's true surface points, where there are any."""
    if mesh is None or not _has_truth(trained, test):
        return None
    return trained.distance_of(mesh)


def _write_mesh(trained: TrainedScene, mesh: Mesh | None, folder: RunFolder,
                test: TestConfig) -> tuple[list[Path], list[ReportPicture]]:
    """Write the coloured mesh in world space, a file for each format, and a picture of it."""
    scene, train, formats = trained.scene, list(trained.train), mesh_formats(test.mesh_formats)
    if mesh is None or mesh.is_empty or not formats:
        return [], []
    colours = colour_vertices(mesh, scene.images[train], scene.masks[train],
                              cameras=scene.cameras[train], visible=trained.visible_on_cpu)
    written = write_mesh(mesh, scene.cameras.model, folder.path / MESH, colours=colours,
                         formats=formats)
    if any(scene.world_origin):
        path = folder.path / MESH_ORIGIN
        write_text_atomic(path, " ".join(map(repr, scene.world_origin)) + "\n")
        written.append(path)
    return written, _mesh_pictures(trained, mesh, colours, folder) if test.test_plot else []


def _mesh_pictures(trained: TrainedScene, mesh: Mesh, colours: np.ndarray,
                   folder: RunFolder) -> list[ReportPicture]:
    """Draw the mesh as the first scored views see it, into pictures/mesh.png."""
    views, path = list(trained.scored[:MAX_MESH_VIEWS]), folder.pictures / "mesh.png"
    names = [trained.scene.view_names[view] for view in views]
    save_png(path, mesh_grid(TriangleMesh(mesh.vertices_obj, mesh.faces, colours),
                             trained.scene.cameras[views], [f"view {name}" for name in names]))
    return [ReportPicture("The mesh: its shape, and the colours of its vertices", path,
                          f"The mesh from the places of views {', '.join(names)}: in grey, and in "
                          "colours that are blended from the photographs")]


def _title(folder: RunFolder, scene: str) -> str:
    """Return the names of run and scene, once where they are the same."""
    name = folder.path.name
    return name if name == scene else f"{name}: {scene}"


def _mesh_words(mesh: Mesh | None, files: Sequence[Path]) -> list[str]:
    """Return where the mesh is, as a sentence of the report."""
    if mesh is None or not files:
        return []
    return [f"The mesh has {len(mesh.faces):,} triangles; beside this page it is in "
            f"{', '.join(path.name for path in files)}."]


def _notes(trained: TrainedScene, mesh: Mesh | None) -> list[str]:
    """Return the notes: sentences on what the results lack or cannot say."""
    notes = []
    if mesh is not None and mesh.is_empty:
        notes.append("the SDF has no surface: no mesh was written")
    if not set(trained.scored) - set(trained.train):
        notes.append("no view is held out: metrics are of training views, each kept from feeding "
                     "itself")
    if any(trained.scene.world_origin):
        notes.append("the scene's coordinates are far from 0: the mesh is relative to "
                     f"{list(trained.scene.world_origin)}, which {MESH_ORIGIN} holds; add it to "
                     "the vertices in float64")
    if not trained.scene.has_masks:
        notes.append("the scene has no masks: all of every image counts as object, and mask IoU "
                     "says nothing")
    return notes


def _viewer(folder: RunFolder, test: TestConfig) -> tuple[tuple[str, str] | None, list[str]]:
    """Return the page that turns the object with its scripts' nonce, or a note why there is none.
    """
    scene = folder.path / EXPORTED
    if not test.report_viewer:
        return None, []
    try:
        return framed_page(scene), []
    except ExportedSceneError as error:
        return None, [f"the report does not begin with the object: {error}"]


def _write_grids(trained: TrainedScene, folder: RunFolder, test: TestConfig,
                 metrics: Mapping[str, Any]) -> list[ReportPicture]:
    """Write image grids as PNG files."""
    wanted = {"views": test.test_rt, "sources": test.test_rt, "cloud": test.test_rt,
              "slices": test.test_plot, "cameras": test.test_cameras}
    found = []
    for name, picture in image_grids(trained, [name for name in IMAGE_GRIDS
                                               if wanted[name]]).items():
        path = folder.pictures / f"{name}.png"
        save_png(path, picture)
        found.append(ReportPicture(IMAGE_GRIDS[name], path, _in_words(name, trained, metrics)))
    before = {PICTURE_FILE: PICTURE_CAPTION, MATCHES_FILE: MATCHES_CAPTION}
    return found + [ReportPicture(caption, folder.pictures / name)
                    for name, caption in before.items() if (folder.pictures / name).is_file()]


def _in_words(name: str, trained: TrainedScene, metrics: Mapping[str, Any]) -> str:
    """Return what is seen on an image grid, for those who do not see it."""
    names, first = trained.scene.view_names, trained.scored[0]
    shown = ", ".join(names[view] for view in trained.scored[:MAX_GRID_VIEWS])
    quality = METRICS["psnr"].text(metrics["mean"].get("psnr"))
    return {
        "views": f"Views {shown}, a row each: prediction, photograph, error, normals and depth. "
                 f"Mean PSNR {quality} dB",
        "sources": f"The {len(trained.train)} training photographs with the outlines of their "
                   f"masks, and how much each gives to view {names[first]}",
        "cloud": f"Views {shown}, a row each: prediction, and the distance of what is seen to the "
                 "point cloud",
        "slices": "Cuts through the SDF at x = 0, y = 0 and z = 0, with the length of its gradient "
                  "and its Laplacian: the surface is a black line, the inside is blue",
        "cameras": f"{len(names)} cameras as pyramids round the unit sphere, from the side and "
                   f"from above: {len(trained.train)} of training, {len(trained.scored)} scored",
    }[name]


def _write_crop(trained: TrainedScene, folder: RunFolder, test: TestConfig,
                data: DataConfig) -> list[Path]:
    """Write the crop of the reference view and of its photograph that `--image_crop` asks for."""
    if not (test.test_rt and test.image_crop):
        return []
    view = reference_index(data, len(trained.scene))
    photograph, mask = trained.scene.images[view].cpu(), trained.scene.masks[view].cpu()
    left, top, width, height = test.image_crop
    size = photograph.shape[1:]
    if not (width and height and left + width <= size[1] and top + height <= size[0]):
        raise UserError(f"--image_crop {' '.join(map(str, test.image_crop))} is not inside the "
                        f"reference view of {size[1]}x{size[0]}; give left top width height")
    shown, paths = trained.rendered(view), []
    pictures = {"crop": on_white(shown.image.clamp(0, 1), shown.hit_mask),
                "crop_gt": on_white(photograph, mask)}
    for kind, picture in pictures.items():
        paths.append(folder.views / f"{file_name(trained.scene.view_names[view])}_{kind}.png")
        save_png(paths[-1], picture[top:top + height, left:left + width])
    return paths
