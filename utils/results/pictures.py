"""Pictures of results: colour maps, labelled image grids, PNG files.

Tensors come in channels first, as the rest of the system has them; what leaves is (H, W, 3) uint8
RGB, ready for a file, a video or a summary. Nothing here is differentiable.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor

from utils.files.atomic import write_atomic
from utils.results.drawing import coloured
from utils.results.layout import (
    BAR_HEIGHT,
    MAX_CELL,
    ColourBar,
    even_rows,
    grid_layout,
    paste,
    text_layer,
)
from utils.results.metric_table import METRICS
from utils.results.metrics import psnr

#: Absolute error (mean of the channels) that gets the brightest colour; 25 dB is an RMS of 0.056.
ERROR_SCALE = 0.2
#: Blending weight that gets the brightest colour: seven equal sources have 0.14 each.
WEIGHT_SCALE = 0.5
ERROR_COLOURS, WEIGHT_COLOURS, DEPTH_COLOURS = "inferno", "inferno", "viridis"
#: Distances to a point cloud: the release's colours, and the fraction that is below the brightest.
DISTANCE_COLOURS, DISTANCE_QUANTILE = "viridis", 0.85
#: Grey of a shaded surface that is seen edge-on.
AMBIENT = 0.25
#: Fraction of the depths left out at each end, so that a few stray hits do not take up the scale.
DEPTH_TAIL = 0.01
OUTLINE_COLOUR = (0, 230, 64)
ERROR_BAR = ColourBar(ERROR_COLOURS, "0", f"{ERROR_SCALE:g} and more")
DEPTH_BAR = ColourBar(DEPTH_COLOURS, "far", "near")
DISTANCE_BAR = ColourBar(DISTANCE_COLOURS, "0", "farthest 15 %")
#: Source views side by side in one row of a grid.
SOURCES_PER_ROW = 7


@dataclass(frozen=True)
class ViewPictures:
    """What there is to see of one evaluated view, each (H, W, 3) uint8.

    Attributes:
        captions: a text for each picture, in this order, '' for none.
    """

    prediction: np.ndarray
    photograph: np.ndarray
    error: np.ndarray
    normals: np.ndarray
    depth: np.ndarray
    captions: tuple[str, str, str, str, str] = ("", "", "", "", "")


def to_uint8(image: Tensor) -> np.ndarray:
    """Return an image as bytes.

    Args:
        image: (3, H, W) RGB in [0, 1]; what lies outside is clamped, NaN becomes black.
    Returns:
        (H, W, 3) uint8, rounded to the nearest level.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image is {tuple(image.shape)}, need (3, H, W) RGB")
    levels = image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy().copy()


def error_map(pred: Tensor, target: Tensor) -> np.ndarray:
    """Return the absolute difference of two images, mean of the channels, as colours.

    Black is 0, the brightest colour ERROR_SCALE and more.

    Args:
        pred: (3, H, W) RGB, clamped to [0, 1] as for the metrics.
        target: (3, H, W) RGB in [0, 1].
    Returns:
        (H, W, 3) uint8.
    """
    if pred.shape != target.shape:
        raise ValueError(f"pred is {tuple(pred.shape)}, target {tuple(target.shape)}; need equal")
    difference = (pred.detach().clamp(0, 1) - target.detach()).abs().mean(0)
    return _coloured(difference / ERROR_SCALE, ERROR_COLOURS)


def normals_to_rgb(normals: Tensor, mask: Tensor) -> np.ndarray:
    """Return unit normals as colours: x, y, z from -1 to 1 become red, green, blue from 0 to 1.

    Args:
        normals: (3, H, W), unit length, any space.
        mask: (1, H, W) bool, where there is a surface; the rest is white.
    Returns:
        (H, W, 3) uint8.
    """
    return on_white((normals.detach().float() + 1) / 2, mask)


def mask_to_rgb(mask: Tensor) -> np.ndarray:
    """Return a mask (1, H, W), bool or how much of a pixel is covered, white on black."""
    return to_uint8(mask.detach().float().expand(3, -1, -1))


def shaded(normals: Tensor, points: Tensor, mask: Tensor, eye: Tensor) -> np.ndarray:
    """Return the surface in grey, lit from where it is looked at: white facing, dark at the rim.

    Args:
        normals: (3, H, W), unit length, outward.
        points: (3, H, W), the same space.
        mask: (1, H, W) bool, where there is a surface; the rest is white.
        eye: (3,) the camera's centre, the same space.
    Returns:
        (H, W, 3) uint8.
    """
    to_eye = torch.nn.functional.normalize(eye[:, None, None] - points.detach(), dim=0)
    facing = (normals.detach() * to_eye).sum(0).clamp(0, 1)
    level = AMBIENT + (1 - AMBIENT) * facing
    return on_white(level.expand(3, -1, -1), mask)


def positions_to_rgb(points_obj: Tensor, mask: Tensor) -> np.ndarray:
    """Return points of object space as colours: x, y, z from -1 to 1 become red, green, blue.

    Args:
        points_obj: (3, H, W).
        mask: (1, H, W) bool, where there is a surface; the rest is white.
    Returns:
        (H, W, 3) uint8.
    """
    return normals_to_rgb(points_obj, mask)


def distances_to_rgb(distances: Tensor, mask: Tensor) -> np.ndarray:
    """Return distances as colours, from 0 (dark) to DISTANCE_QUANTILE of them and more (bright).

    Args:
        distances: (1, H, W), at least 0, any unit.
        mask: (1, H, W) bool, where there are any; the rest is white.
    Returns:
        (H, W, 3) uint8.
    """
    seen = mask.cpu() > 0
    values = distances.detach().float().cpu()
    largest = float(np.quantile(values[seen].numpy(), DISTANCE_QUANTILE)) if seen.any() else 0.0
    return _white_outside(_coloured(values[0] / max(largest, 1e-12), DISTANCE_COLOURS), seen)


def depth_to_rgb(depth: Tensor, mask: Tensor,
                 limits: tuple[float, float] | None = None) -> np.ndarray:
    """Return depth as colours, near bright and far dark.

    Args:
        depth: (1, H, W), any unit.
        mask: (1, H, W) bool, where there is a surface; the rest is white.
        limits: the depths of the brightest and the darkest colour; None: stretched over what is
            seen.
    Returns:
        (H, W, 3) uint8.
    """
    seen = mask.cpu() > 0
    depth = depth.detach().float().cpu()
    if not seen.any():
        return np.full((*depth.shape[1:], 3), 255, np.uint8)
    near, far = depth_range(depth, seen) if limits is None else limits
    nearness = (far - depth[0]) / max(far - near, 1e-6 * abs(far), 1e-12)
    return _white_outside(_coloured(nearness, DEPTH_COLOURS), seen)


def flow_to_rgb(flow: Tensor, largest: float) -> np.ndarray:
    """Return optical flow as colours: hue for the direction, saturation for the length.

    Rightward is red, downward green-yellow, leftward cyan, upward violet; no motion is white.

    Args:
        flow: (2, H, W), pixels, x to the right and y downwards; not finite: black.
        largest: the length of full saturation, pixels.
    Returns:
        (H, W, 3) uint8.
    """
    x, y = flow.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0).numpy()
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    length = np.clip(np.hypot(x, y) / max(largest, 1e-6), 0, 1)
    hsv = np.stack([360 * hue, length, np.ones_like(length)], -1).astype(np.float32)
    rgb = np.round(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)
    rgb[~torch.isfinite(flow).all(0).cpu().numpy()] = 0
    return rgb


def depth_range(depth: Tensor, mask: Tensor) -> tuple[float, float]:
    """Return the depths that get the colours at the two ends: near and far.

    Args:
        depth: (1, H, W), any unit.
        mask: (1, H, W) bool, where there is a surface, at least once.
    """
    seen = depth.detach().float().cpu()[mask.cpu() > 0]
    near, far = np.quantile(seen.numpy(), [DEPTH_TAIL, 1 - DEPTH_TAIL])
    return float(near), float(far)


def on_white(image: Tensor, mask: Tensor) -> np.ndarray:
    """Return an image before a white background.

    Args:
        image: (3, H, W) RGB in [0, 1].
        mask: (1, H, W) bool, True where the image is kept.
    Returns:
        (H, W, 3) uint8.
    """
    return _white_outside(to_uint8(image), mask.cpu() > 0)


def with_outline(image: Tensor, mask: Tensor) -> np.ndarray:
    """Return an image with the inner border of a mask drawn in green.

    Args:
        image: (3, H, W) RGB in [0, 1].
        mask: (1, H, W) bool.
    Returns:
        (H, W, 3) uint8.
    """
    picture = to_uint8(image)
    inside = (mask.cpu() > 0)[0].numpy().astype(np.uint8)
    thickness = max(1, round(inside.shape[1] / MAX_CELL))       # still a pixel wide once shrunk
    kernel = np.ones((2 * thickness + 1,) * 2, np.uint8)
    core = cv2.erode(inside, kernel, borderType=cv2.BORDER_REPLICATE)
    picture[(inside > 0) & (core == 0)] = OUTLINE_COLOUR
    return picture


def view_pictures(prediction: Tensor, photograph: Tensor, mask: Tensor, *, hit_mask: Tensor,
                  normals: Tensor, depth: Tensor) -> ViewPictures:
    """Return all pictures of one view.

    The prediction keeps its own silhouette and the photograph the true one, so that a wrong outline
    is seen; the error is of both images times the true mask (docs/method.md, section 8).

    Args:
        prediction, photograph: (3, H, W) RGB in [0, 1].
        mask: (1, H, W) bool, the true silhouette.
        hit_mask: (1, H, W) bool, where the traced rays hit.
        normals: (3, H, W), unit length, object space.
        depth: (1, H, W), world units.
    """
    inside = mask.to(photograph)
    shown = prediction.to(photograph)
    quality = psnr(shown, photograph, mask.to(photograph.device))
    depths = depth_range(depth, hit_mask) if hit_mask.any() else None
    return ViewPictures(
        prediction=on_white(prediction, hit_mask),
        photograph=on_white(photograph, mask),
        error=error_map(shown * inside, photograph * inside),
        normals=normals_to_rgb(normals, hit_mask),
        depth=depth_to_rgb(depth, hit_mask),
        captions=(f"{METRICS['psnr'].text(quality)} dB", "", "", "",
                  "{:.3g} to {:.3g}".format(*depths) if depths else "no surface"),
    )


def view_grid(views: Sequence[ViewPictures], row_labels: Sequence[str]) -> np.ndarray:
    """Return one row a view: prediction, photograph, error, normals, depth.

    Args:
        views: what `view_pictures` returned, one a view.
        row_labels: one a view, such as its name and metrics; may have several lines.
    Returns:
        (H, W, 3) uint8.
    """
    columns = ["prediction,\nPSNR", "photograph", "error", "normals\n(x, y, z as r, g, b)",
               "depth,\nworld units"]
    rows = [[v.prediction, v.photograph, v.error, v.normals, v.depth] for v in views]
    return image_grid(rows, row_labels, columns, captions=[v.captions for v in views],
                      bars={2: ERROR_BAR, 4: DEPTH_BAR})


def source_grid(images: Tensor, masks: Tensor, weights: Tensor, names: Sequence[str],
                 title: str = "source views") -> np.ndarray:
    """Return each source view with its mask's outline, and below it its blending weights.

    Args:
        images: (V, 3, H, W) RGB in [0, 1], the source views.
        masks: (V, 1, H, W) bool.
        weights: (V, 1, H', W') in [0, 1]: each source's part in the pixels of one target view.
        names: V names of the sources.
        title: a line above all.
    Returns:
        (H, W, 3) uint8.
    """
    lengths = {len(images), len(masks), len(weights), len(names)}
    if len(lengths) != 1 or not len(names):
        raise ValueError(f"{len(images)} images, {len(masks)} masks, {len(weights)} weight maps, "
                         f"{len(names)} names; need one of each a view")
    photographs = [with_outline(image, mask) for image, mask in zip(images, masks)]
    parts = [_coloured(weight[0] / WEIGHT_SCALE, WEIGHT_COLOURS) for weight in weights]
    labels = ["photograph,\nmask outlined", f"its weight in\nthe target,\nblack 0, yellow\n"
              f"{WEIGHT_SCALE:g} and more"]
    blocks = []
    for part in even_rows(len(names), SOURCES_PER_ROW):
        blocks.append(image_grid([photographs[part], parts[part]], labels, names[part],
                            title if part.start == 0 else ""))
    return stack_vertically(blocks)


def image_grid(rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str] = (),
               column_labels: Sequence[str] = (), title: str = "", *,
               captions: Sequence[Sequence[str]] = (),
               bars: Mapping[int, ColourBar] | None = None) -> np.ndarray:
    """Return a grid of pictures with labels, all fitted into cells of one size.

    Args:
        rows: pictures (H, W, 3) uint8, of any sizes; None leaves a cell empty.
        row_labels: one a row, left of it, or none at all; may have several lines.
        column_labels: one a column, above it, or none at all; columns grow to the label's width.
        title: a line above all.
        captions: a line of text below each picture, in rows as the pictures; none: no captions.
        bars: colour bars at the bottom, by the column that they explain.
    Returns:
        (H, W, 3) uint8 on white.
    Raises:
        ValueError: there is no picture, or the labels are not as many as rows and columns.
    """
    num_columns = max((len(row) for row in rows), default=0)
    if (row_labels and len(row_labels) != len(rows)) or (
            column_labels and len(column_labels) != num_columns):
        raise ValueError(f"{len(row_labels)} row and {len(column_labels)} column labels for "
                         f"{len(rows)} rows of {num_columns}; need one each")
    bars = bars or {}
    layout = grid_layout(rows, row_labels, column_labels, title=title, captions=captions, bars=bars)
    canvas = np.full((*layout.size[::-1], 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            paste(canvas, picture, layout.corner(i, j), layout.cell)
    texts = list(layout.texts(row_labels, column_labels, title, captions))
    for column, bar in bars.items():
        left, width, top = layout.corner(0, column)[0], layout.cell[0], layout.bar_top
        canvas[top:top + BAR_HEIGHT, left:left + width] = bar.strip(width)
        texts += bar.texts(left, top, width)
    width, height = layout.size
    return np.minimum(canvas, text_layer(texts, (height, width)))


def stack_vertically(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures (H, W, 3) uint8 one below the other, white to the right of narrow ones."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)),
                                  constant_values=255) for picture in pictures])


def save_png(path: Path | str, array: np.ndarray) -> None:
    """Write (H, W, 3) or (H, W) uint8 as PNG; makes the folder, never leaves half a file.

    Raises:
        WriteError: the file cannot be written.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"array is {array.shape} {array.dtype}, need (H, W, 3) or (H, W) uint8")
    content = iio.imwrite("<bytes>", array, extension=".png")
    write_atomic(path, lambda stream: stream.write(content), is_flushed=False)


def _coloured(values: Tensor, name: str) -> np.ndarray:
    """Return (H, W) values in [0, 1] (clamped, NaN as 0) through a colour map: (H, W, 3) uint8."""
    levels = values.detach().float().nan_to_num(0.0).clamp(0, 1).cpu().numpy()
    return coloured(levels, name)


def _white_outside(picture: np.ndarray, mask: Tensor) -> np.ndarray:
    """Return the picture, white where the (1, H, W) mask is False."""
    picture[~mask[0].numpy()] = 255
    return picture
