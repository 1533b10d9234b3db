"""The table of metrics: their names, digits, and which way is better."""
from __future__ import annotations

import math
from dataclasses import dataclass

#: Column titles and decimals of the printed table.
COLUMNS = {"psnr": ("PSNR", 2), "psnr_foreground": ("PSNR fg", 2), "ssim": ("SSIM", 4),
           "lpips": ("LPIPS", 4), "lpips_release": ("LPIPS [0,1]", 4), "mask_iou": ("mask IoU", 4),
           "chamfer": ("Chamfer", 5)}
#: How the table marks a figure that is not available.
NOT_AVAILABLE = "n/a"


@dataclass(frozen=True)
class ViewMetrics:
    """Figures of one view; None where not available.

    Attributes:
        psnr: of masked images, mean over all pixels, decibels (the paper's).
        psnr_foreground: mean over foreground pixels, decibels.
        ssim: of masked images.
        lpips: of masked images in [-1, 1], the standard input.
        lpips_release: the same distance fed [0, 1], as the release did; for comparison only.
        mask_iou: of the rendered silhouette with the mask.
    """

    psnr: float | None = None
    psnr_foreground: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    lpips_release: float | None = None
    mask_iou: float | None = None


def finite(value: float | None) -> float | None:
    """The value, or None where it is missing, infinite or not a number."""
    return float(value) if value is not None and math.isfinite(value) else None
