"""Scores of rendered views: measures and pictures per view, means, JSON, CSV and a printed table.

Masked measures follow METHOD 8. A figure that is not available is None: null in JSON, an empty cell
in CSV, n/a in print.
"""
from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files.atomic import write_text_atomic
from utils.geometry.cameras import Cameras
from utils.results.lpips import LPIPS
from utils.results.metric_table import METRICS, ViewMetrics, finite
from utils.results.metrics import Chamfer, mask_iou, masked, psnr, psnr_foreground, ssim
from utils.results.pictures import depth_to_rgb, error_map, normals_to_rgb, save_png, to_uint8
from utils.results.text_tables import format_rows

log = logging.getLogger(__name__)

#: (cameras, index of a source view to leave out or None) -> Rendering with the attributes images
#: (B, 3, H, W), hit_mask (B, 1, H, W), normals_obj (B, 3, H, W) and depth (B, 1, H, W).
Render = Callable[[Cameras, int | None], Any]
@torch.no_grad()
def evaluate_views(render: Render, scene: Any, views: Iterable[int],
                   folder: str | Path | None = None, *, lpips: LPIPS | None = None,
                   exclude_self: bool = False) -> dict[str, ViewMetrics]:
    """Render views one at a time, score them against their photographs and write pictures.

    Files per view: NAME_prediction, NAME_photograph, NAME_error (masked images, as scored),
    NAME_normals and NAME_depth, all .png.

    Args:
        render: makes one view.
        scene: has images (V, 3, H, W), masks (V, 1, H, W), cameras and view_names.
        views: indices into the scene.
        folder: where the pictures go; None writes none.
        lpips: None leaves its figures empty.
        exclude_self: keep a view out of its own sources, for scores on training views.
    Returns:
        view name to figures, in the order of `views`.
    """
    found = {}
    for v in views:
        rendering = render(scene.cameras[v], v if exclude_self else None)
        prediction = rendering.images[0].detach().cpu().float()
        hit_mask = rendering.hit_mask[0].detach().cpu()
        photograph, mask = scene.images[v].cpu(), scene.masks[v].cpu()
        name = scene.view_names[v]
        if not torch.isfinite(prediction).all():
            log.warning("view %s: the rendered image has values that are not finite; its figures "
                        "are left empty where they depend on them", name)
        found[name] = score_view(prediction, photograph, mask, hit_mask=hit_mask, lpips=lpips)
        if folder is not None:
            shown = prediction.clamp(0, 1).where(hit_mask | mask, torch.ones(()))
            _write_pictures(Path(folder) / file_name(name), {
                "prediction": to_uint8(shown),
                "photograph": to_uint8(photograph),
                "error": error_map(masked(prediction, mask), masked(photograph, mask)),
                "normals": normals_to_rgb(rendering.normals_obj[0].detach().cpu(), hit_mask),
                "depth": depth_to_rgb(rendering.depth[0].detach().cpu(), hit_mask)})
    return found


def score_view(prediction: Tensor, photograph: Tensor, mask: Tensor, *, hit_mask: Tensor,
               lpips: LPIPS | None = None) -> ViewMetrics:
    """Figures of one view.

    Args:
        prediction: (3, H, W), not clamped.
        photograph: (3, H, W) RGB in [0, 1].
        mask: (1, H, W) bool, true foreground.
        hit_mask: (1, H, W) bool, where the rendered surface is.
    """
    distances = (None, None)
    if lpips is not None and min(photograph.shape[-2:]) >= lpips.trunk.least_side:
        device = lpips.shift.device
        pair = [masked(image, mask)[None].to(device) for image in (prediction, photograph)]
        standard = [2 * image - 1 for image in pair]
        distances = (float(lpips(*standard)), float(lpips(*pair)))
    images = (prediction, photograph, mask)
    figures = ViewMetrics(psnr(*images), psnr_foreground(*images), ssim(*images), *distances,
                          mask_iou(hit_mask, mask))
    return ViewMetrics(**{name: finite(value) for name, value in asdict(figures).items()})


def file_name(view_name: str) -> str:
    """A view's name with everything but letters, digits, dot, dash and underscore replaced."""
    return re.sub(r"[^\w.-]", "_", view_name).lstrip(".") or "view"


def _write_pictures(stem: Path, pictures: Mapping[str, Any]) -> None:
    for kind, picture in pictures.items():
        save_png(stem.with_name(f"{stem.name}_{kind}.png"), picture)


def summarise(views: Mapping[str, ViewMetrics], *, chamfer: Chamfer | None = None,
              **facts: Any) -> dict[str, Any]:
    """What `metrics.json` holds.

    Args:
        views: figures by view name.
        chamfer: distances of the mesh to the true points, world units.
        facts: further top-level entries: steps, train_seconds, seed and so on. Tensors are not
            admitted; numbers that are not finite become None, at any depth.
    Returns:
        {"mean": {...}, "views": {name: {...}}, "chamfer": {...} or None, **facts}. Means run over
        the views where a figure is available.
    """
    mean: dict[str, float | None] = {}
    for field in fields(ViewMetrics):
        values = [getattr(view, field.name) for view in views.values()]
        values = [value for value in values if finite(value) is not None]
        mean[field.name] = sum(values) / len(values) if values else None
    mean["chamfer"] = finite(chamfer.mean) if chamfer else None
    distances = {**asdict(chamfer), "mean": chamfer.mean} if chamfer else None
    content = {"mean": mean, "views": {name: asdict(view) for name, view in views.items()},
               "chamfer": distances, **facts}
    return _for_json(content)


def _for_json(value: Any) -> Any:
    """The same content with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _for_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(entry) for entry in value]
    return finite(value) if isinstance(value, float) else value


def write_metrics(metrics: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write metrics.json and metrics.csv (a row for each view, then the mean).

    Args:
        metrics: from `summarise`.
        folder: the run's folder.
    Returns:
        the two paths.
    Raises:
        WriteError: a file cannot be written; what was there stays.
    """
    json_path, csv_path = Path(folder) / "metrics.json", Path(folder) / "metrics.csv"
    text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False)
    write_text_atomic(json_path, text + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["view", *METRICS])
    for name, found in _rows(metrics):
        writer.writerow([name, *("" if found.get(key) is None else found[key]
                                 for key in METRICS)])
    write_text_atomic(csv_path, table.getvalue())
    return json_path, csv_path


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*metrics["views"].items(), ("mean", metrics["mean"])]


def format_table(metrics: Mapping[str, Any]) -> str:
    """The metrics as lines of text: a row for each view, the mean, and what the run took.

    Args:
        metrics: from `summarise`.
    """
    rows = [["view", *(metric.title for metric in METRICS.values())]]
    for name, found in _rows(metrics):
        rows.append([name, *(_cell(found, key, name) for key in METRICS)])
    lines = [format_rows(rows, rules_before=(1, len(rows) - 1))]
    steps, seconds = metrics.get("steps"), metrics.get("train_seconds")
    facts = [f"{steps} steps"] if steps is not None else []
    facts += [f"{seconds:.0f} s of training"] if seconds is not None else []
    return "\n".join(lines + [", ".join(facts)] if facts else lines)


def _cell(metrics: Mapping[str, Any], key: str, name: str) -> str:
    """One metric as text; the Chamfer distance belongs to the mesh, not to a view."""
    if key == "chamfer" and name != "mean":
        return ""
    return METRICS[key].text(metrics.get(key))
