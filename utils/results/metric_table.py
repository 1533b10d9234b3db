"""The table of metrics: what each is called, its digits, and which direction is better.

Every table, report and plot takes its names from here: a new metric is one line of `METRICS` and,
where it is computed for each view, one field of `ViewMetrics`.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: How a table marks a metric that is not available.
NOT_AVAILABLE = "n/a"


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: short, for the columns of text tables.
        heading: long, with the unit, for reports and axes.
        digits: after the point.
        better: the direction in which a result is better.
        remark: what it is computed on, for the legend of reports.
        shown: in the printed table and the report: always, where a run has it, or never. All are
            in metrics.json and metrics.csv.
    """

    title: str
    heading: str
    digits: int
    better: Literal["higher", "lower"]
    remark: str
    shown: Literal["always", "where known", "never"] = "always"

    def text(self, value: float | None) -> str:
        """Return a value with its digits, or NOT_AVAILABLE for None and what is not finite."""
        return NOT_AVAILABLE if finite(value) is None else f"{value:.{self.digits}f}"


#: By name in metrics.json, in the order of the tables.
METRICS = {
    "psnr": Metric("PSNR", "PSNR [dB]", 2, "higher", "both images times the true mask, all pixels"),
    "psnr_foreground": Metric("PSNR fg", "PSNR, foreground [dB]", 2, "higher",
                              "mean over the mask alone"),
    "ssim": Metric("SSIM", "SSIM", 4, "higher",
                   "at most 1; on the masked images, uniform window of 7x7"),
    "ssim_gaussian": Metric("SSIM gauss", "SSIM, Gaussian window", 4, "higher",
                            "at most 1; Wang et al. 2004, sigma 1.5, 11x11"),
    "lpips": Metric("LPIPS", "LPIPS", 4, "lower", "AlexNet, inputs in [-1, 1]"),
    "lpips_release": Metric("LPIPS [0,1]", "LPIPS, as released", 4, "lower", "AlexNet fed [0, 1]"),
    "mask_iou": Metric("mask IoU", "mask IoU", 4, "higher", "at most 1"),
    "psnr_mask_pred": Metric("PSNR pred", "PSNR, rendered mask [dB]", 2, "higher",
                             "both images times the rendered mask, all pixels", "never"),
    "lpips_mask_pred": Metric("LPIPS pred", "LPIPS, rendered mask", 4, "lower",
                              "both images times the rendered mask", "never"),
    "pcd_error": Metric("cloud", "distance to the point cloud", 5, "lower",
                        "mean over the pixels that see the surface, world units", "where known"),
    "render_seconds": Metric("render", "rendering [s]", 3, "lower",
                             "tracing and image, without scores", "never"),
    "psnr_all": Metric("PSNR all", "PSNR, all held-out views [dB]", 2, "higher",
                       "mean over every view that is not trained on"),
    "psnr_train": Metric("PSNR train", "PSNR, training views [dB]", 2, "higher",
                         "each kept from feeding itself"),
    "chamfer": Metric("Chamfer", "Chamfer", 5, "lower", "distance to the true surface points",
                      "where known"),
}
#: Those of a whole run, which no single view has.
OF_RUN = ("psnr_all", "psnr_train", "chamfer")


@dataclass(frozen=True)
class ViewMetrics:
    """Metrics of one view; None where not available.

    Attributes:
        psnr: of masked images, mean over all pixels, decibels (the paper's).
        psnr_foreground: mean over foreground pixels, decibels.
        ssim: of masked images, 7x7 uniform window (the paper's).
        ssim_gaussian: the same with the Gaussian window of Wang et al. 2004.
        lpips: of masked images in [-1, 1], the standard input.
        lpips_release: the same distance fed [0, 1], as the release did; for comparison only.
        mask_iou: of the rendered silhouette with the mask.
        psnr_mask_pred, lpips_mask_pred: psnr and lpips of both images times the rendered mask.
        pcd_error: mean distance of what is seen of the surface to the point cloud, world units.
        render_seconds: what the view took to render.
    """

    psnr: float | None = None
    psnr_foreground: float | None = None
    ssim: float | None = None
    ssim_gaussian: float | None = None
    lpips: float | None = None
    lpips_release: float | None = None
    mask_iou: float | None = None
    psnr_mask_pred: float | None = None
    lpips_mask_pred: float | None = None
    pcd_error: float | None = None
    render_seconds: float | None = None


def shown_metrics(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the metrics that tables show of these rows, in the order of METRICS."""
    known = {key for row in rows for key, value in row.items() if value is not None}
    return [key for key, metric in METRICS.items()
            if metric.shown == "always" or (metric.shown == "where known" and key in known)]


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is missing, infinite or not a number."""
    return float(value) if value is not None and math.isfinite(value) else None


def baselines_in(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return mean metrics by baseline (`--baseline`) of a run's results; empty where it has none.

    Args:
        metrics: content of metrics.json. What is no number there counts as not available.
    """
    found = metrics.get("baselines")
    if not isinstance(found, Mapping):
        return {}
    return {str(name): {key: number(values.get(key)) for key in METRICS}
            for name, values in found.items() if isinstance(values, Mapping)}


def number(value: object) -> float | None:
    """Return a value of metrics.json as a finite number, or None."""
    try:
        return finite(value) if isinstance(value, (int, float)) else None
    except OverflowError:                          # digits beyond any float
        return None
