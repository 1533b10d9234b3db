"""Image grid of matched points on the training photographs."""
from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from data_processing.matching.features import working_scale
from utils.geometry.triangulation import reprojection_errors
from utils.results.drawing import coloured
from utils.results.layout import even_rows
from utils.results.pictures import image_grid, stack_vertically, to_uint8
from utils.views.matched_points import MatchedPoints
from utils.views.training_views import TrainingViews

VIEWS_PER_ROW = 7
CELL_WIDTH = 320
#: What gets the brightest colour: pixels of 640, and object units.
ERROR_SCALE, DISTANCE_SCALE = 1.5, 0.05
COLOURS, RADIUS = "viridis", 3
#: Photographs are grey and pale behind the points.
PALE = 0.5


def matches_grid(views: TrainingViews, found: MatchedPoints, distances: Tensor,
                 title: str = "") -> np.ndarray:
    """A column for each view, in blocks of VIEWS_PER_ROW; two rows of points a block.

    Args:
        views: training views.
        found: N points in them.
        distances: (N,) from the surface, object units.
        title: a line above all.
    Returns:
        (H, W, 3) uint8.
    """
    cameras = views.cameras.to("cpu")
    found, scale = found.to("cpu"), working_scale(cameras.resolution)
    errors = reprojection_errors(cameras, found.points_obj(cameras), found.xy_ndc)       # (N, V)
    levels = (errors * scale / ERROR_SCALE,
              (distances.cpu().abs() / DISTANCE_SCALE)[:, None].expand_as(errors))
    labels = [f"reprojection error,\nviolet 0, yellow\n{ERROR_SCALE:g} pixels of 640",
              f"distance from the\nsurface at the start,\nviolet 0, yellow\n{DISTANCE_SCALE:g} "
              "and more"]
    blocks = []
    for part in even_rows(len(views), VIEWS_PER_ROW):
        shown = range(part.start, part.stop)
        cells = [[_with_points(views.images[v], found, v, level[:, v]) for v in shown]
                 for level in levels]
        names = [f"{views.names[v]}\n{int(found.seen_mask[:, v].sum())} points" for v in shown]
        blocks.append(image_grid(cells, labels, names, title if part.start == 0 else ""))
    return stack_vertically(blocks)


def _with_points(image: Tensor, found: MatchedPoints, view: int, levels: Tensor) -> np.ndarray:
    """Return the photograph (3, H, W) in pale grey with its points, coloured by levels (N,)."""
    grey = to_uint8(image.mean(0, keepdim=True).expand(3, -1, -1) * PALE + 1 - PALE)
    height, width = grey.shape[:2]
    size = (CELL_WIDTH, max(1, round(CELL_WIDTH * height / width)))
    picture = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
    seen = found.seen_mask[:, view].nonzero()[:, 0]
    order = seen[levels[seen].argsort()]                               # the worst on top
    half = torch.tensor([size[0] / 2, -size[1] / 2])
    places = (found.xy_ndc[order, view] * half + half.abs() - 0.5).round().int().tolist()
    colours = coloured(levels[order].clamp(0, 1).numpy()[None], COLOURS)[0].tolist()
    for place, colour in zip(places, colours, strict=True):
        cv2.circle(picture, place, RADIUS, colour, cv2.FILLED, cv2.LINE_AA)
    return picture
