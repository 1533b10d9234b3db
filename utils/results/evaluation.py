"""Scores of rendered views: metrics and pictures of each, means, JSON, CSV and a printed table.

Metrics of masked images follow docs/method.md, section 8. A metric that is not available is None:
null in JSON, an empty cell in CSV, n/a in print.
"""
from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.files.atomic import write_text_atomic
from utils.files.text import csv_cell
from utils.geometry.cameras import Cameras
from utils.results.lpips import LPIPS
from utils.results.metric_table import METRICS, OF_RUN, ViewMetrics, finite, shown_metrics
from utils.results.metrics import (
    Chamfer,
    CloudDistance,
    mask_iou,
    masked,
    psnr,
    psnr_foreground,
    ssim,
    ssim_gaussian,
)
from utils.results.pictures import (
    depth_to_rgb,
    distances_to_rgb,
    error_map,
    mask_to_rgb,
    normals_to_rgb,
    on_white,
    positions_to_rgb,
    save_png,
    shaded,
    to_uint8,
)
from utils.results.text_tables import format_rows

log = logging.getLogger(__name__)

#: PSNR over more views than those that are scored: rows of the printed table, by name of metric.
WIDER_ROWS = {"psnr_all": "all held-out", "psnr_train": "training"}
MAX_NAME_BYTES = 120      # of a view's name, of the 255 that a file's name may have


@dataclass(frozen=True)
class RenderedView:
    """One view as a model shows it, on the CPU.

    Attributes:
        image: (3, H, W) RGB, not clamped.
        hit_mask: (1, H, W) bool, where the rendered surface is.
        normals_obj: (3, H, W) unit, object space, 0 where no hit.
        depth: (1, H, W) along the camera's axis, world units, 0 where no hit.
        weights: (K, H, W) blending weights of the sources, or None where nobody asks for them.
        points_obj: (3, H, W) the surface, object space, or None where it is not known.
        seconds: what rendering took, or None where it was not measured.
    """

    image: Tensor
    hit_mask: Tensor
    normals_obj: Tensor
    depth: Tensor
    weights: Tensor | None = None
    points_obj: Tensor | None = None
    seconds: float | None = None


def evaluate_views(rendered: Callable[[int], RenderedView], scene: Any, views: Iterable[int],
                   folder: str | Path | None = None, *,
                   lpips: LPIPS | None = None,
                   cloud: CloudDistance | None = None) -> dict[str, ViewMetrics]:
    """Score rendered views against their photographs, one at a time, and write pictures of them.

    Files per view: NAME_prediction and NAME_photograph (both before white), NAME_error (masked
    images, as scored), NAME_mask and NAME_mask_pred (true and rendered), NAME_normals, NAME_depth,
    where points are known NAME_shaded and NAME_position, with a cloud NAME_pcd_error, all .png.

    Args:
        rendered: index of a view to its rendering.
        scene: has images (V, 3, H, W), masks (V, 1, H, W) and view_names.
        views: indices into the scene.
        folder: where the pictures go; None writes none.
        lpips: None leaves its metrics empty.
        cloud: the distance to it is scored; None: there is none.
    Returns:
        view name to metrics, in the order of `views`.
    """
    found = {}
    for v in views:
        shown, name = rendered(v), scene.view_names[v]
        photograph, mask = scene.images[v].cpu(), scene.masks[v].cpu()
        if not torch.isfinite(shown.image).all():
            log.warning("view %s: the rendered image has values that are not finite; its metrics "
                        "are left empty where they depend on them", name)
        distances = None
        if cloud is not None and shown.points_obj is not None:
            distances = cloud(shown.points_obj, shown.hit_mask)
        found[name] = replace(
            score_view(shown.image, photograph, mask, hit_mask=shown.hit_mask, lpips=lpips),
            pcd_error=cloud_error(distances, shown.hit_mask), render_seconds=shown.seconds)
        if folder is not None:
            pictures = _pictures(shown, photograph, mask, scene.cameras[v])
            if distances is not None:
                pictures["pcd_error"] = distances_to_rgb(distances, shown.hit_mask)
            for kind, picture in pictures.items():
                save_png(Path(folder) / f"{file_name(name)}_{kind}.png", picture)
    return found


def cloud_error(distances: Tensor | None, hit_mask: Tensor) -> float | None:
    """Return the mean of distances (1, H, W) over the pixels that are hit; None without any."""
    if distances is None or not hit_mask.any():
        return None
    return float(distances[hit_mask].mean())


@torch.no_grad()
def score_view(prediction: Tensor, photograph: Tensor, mask: Tensor, *, hit_mask: Tensor,
               lpips: LPIPS | None = None) -> ViewMetrics:
    """Return the metrics of one view.

    Args:
        prediction: (3, H, W), not clamped.
        photograph: (3, H, W) RGB in [0, 1].
        mask: (1, H, W) bool, true foreground.
        hit_mask: (1, H, W) bool, where the rendered surface is.
    """
    distances, of_prediction = (None, None), None
    if lpips is not None and min(photograph.shape[-2:]) >= lpips.trunk.least_side:
        device = lpips.shift.device
        pair = [masked(image, mask)[None].to(device) for image in (prediction, photograph)]
        standard = [2 * image - 1 for image in pair]
        distances = (float(lpips(*standard)), float(lpips(*pair)))
        of_prediction = float(lpips(*(2 * masked(image, hit_mask)[None].to(device) - 1
                                      for image in (prediction, photograph))))
    images = (prediction, photograph, mask)
    found = ViewMetrics(psnr(*images), psnr_foreground(*images), ssim(*images),
                        ssim_gaussian(*images), *distances, mask_iou(hit_mask, mask),
                        psnr(prediction, photograph, hit_mask), of_prediction)
    return ViewMetrics(**{name: finite(value) for name, value in asdict(found).items()})


def file_name(view_name: str) -> str:
    """Return a view's name as a file's: letters, digits, dots and dashes stay, _ for all else.

    A long name is cut and ends with a sum of the whole: files of a view have longer names than it.
    """
    name = re.sub(r"[^\w.-]", "_", view_name).lstrip(".") or "view"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(view_name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}_{digest}"


def _pictures(shown: RenderedView, photograph: Tensor, mask: Tensor,
              camera: Cameras) -> dict[str, np.ndarray]:
    """Return what there is to see of a view by kind, (H, W, 3) uint8 each."""
    outside = ~(shown.hit_mask | mask)
    pictures = {
        "prediction": to_uint8(shown.image.clamp(0, 1).masked_fill(outside, 1.0)),
        "photograph": on_white(photograph, mask),
        "error": error_map(masked(shown.image, mask), masked(photograph, mask)),
        "mask": mask_to_rgb(mask), "mask_pred": mask_to_rgb(shown.hit_mask),
        "normals": normals_to_rgb(shown.normals_obj, shown.hit_mask),
        "depth": depth_to_rgb(shown.depth, shown.hit_mask)}
    if shown.points_obj is not None:
        pictures["shaded"] = shaded(shown.normals_obj, shown.points_obj, shown.hit_mask,
                                    camera.centers_obj[0].cpu())
        pictures["position"] = positions_to_rgb(shown.points_obj, shown.hit_mask)
    return pictures


def summarise(views: Mapping[str, ViewMetrics], *, chamfer: Chamfer | None = None,
              wider: Mapping[str, float | None] | None = None, **facts: Any) -> dict[str, Any]:
    """Return what `metrics.json` holds.

    Args:
        views: metrics by view name.
        chamfer: distances of the mesh to the true points, world units.
        wider: "psnr_all" and "psnr_train", means over more views than these; None: not known.
        facts: further top-level entries: steps, train_seconds, seed and so on. Tensors are not
            admitted; numbers that are not finite become None, at any depth.
    Returns:
        {"mean": {...}, "views": {name: {...}}, "chamfer": {...} or None, **facts}. Means run over
        the views where a metric is available.
    """
    mean: dict[str, float | None] = {}
    for field in fields(ViewMetrics):
        values = [getattr(view, field.name) for view in views.values()]
        values = [value for value in values if finite(value) is not None]
        mean[field.name] = sum(values) / len(values) if values else None
    mean |= {name: (wider or {}).get(name) for name in ("psnr_all", "psnr_train")}
    mean["chamfer"] = finite(chamfer.mean) if chamfer else None
    distances = {**asdict(chamfer), "mean": chamfer.mean} if chamfer else None
    content = {"mean": mean, "views": {name: asdict(view) for name, view in views.items()},
               "chamfer": distances, **facts}
    return _for_json(content)


def _for_json(value: Any) -> Any:
    """Return the same content with None for every number that is not finite."""
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
        writer.writerow([csv_cell(name), *("" if found.get(key) is None else found[key]
                                 for key in METRICS)])
    write_text_atomic(csv_path, table.getvalue())
    return json_path, csv_path


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*metrics["views"].items(), ("mean", metrics["mean"])]


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as lines of text: a row for each view, the means, and what the run took.

    Args:
        metrics: from `summarise`.
    """
    keys = [key for key in shown_metrics([metrics["mean"]]) if key not in WIDER_ROWS]
    rows = [["view", *(METRICS[key].title for key in keys)]]
    rows += [[name, *(_cell(found, key, name) for key in keys)] for name, found in _rows(metrics)]
    last, mean = len(rows) - 1, metrics["mean"]
    rows += [[title, METRICS[key].text(mean[key]), *[""] * (len(keys) - 1)]
             for key, title in WIDER_ROWS.items() if mean.get(key) is not None]
    rows += [[name, *(_cell(found, key, name) for key in keys)]
             for name, found in metrics.get("baselines", {}).items()]
    lines = [format_rows(rows, rules_before=(1, last))]
    steps, seconds = metrics.get("steps"), metrics.get("train_seconds")
    facts = [f"{steps} steps"] if steps is not None else []
    facts += [f"{seconds:.0f} s of training"] if seconds is not None else []
    return "\n".join(lines + [", ".join(facts)] if facts else lines)


def _cell(metrics: Mapping[str, Any], key: str, name: str) -> str:
    """Return one metric as text; some belong to the run, not to a view."""
    if key in OF_RUN and name != "mean":
        return ""
    return METRICS[key].text(metrics.get(key))
