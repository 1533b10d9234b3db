"""What of a picture is shown: itself, normals, depth, weights, mesh, photograph, error."""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stages.viewing.subjects import Shown
from utils.geometry.cameras import Cameras
from utils.results.pictures import depth_to_rgb, error_map, normals_to_rgb, on_white, to_uint8

#: Names in the list of outputs, in its order.
OUTPUTS = ("picture", "photograph", "error", "normals", "depth", "weights", "mesh")


def draw_output(output: str, shown: Shown, *, photograph: Tensor | None,
                camera: Cameras) -> np.ndarray:
    """Return an output as (H, W, 3) uint8.

    Args:
        output: of OUTPUTS.
        shown: the picture and its maps.
        photograph: (3, H, W) in [0, 1] of the same camera on the same background, or None: there
            `photograph` and `error` are the picture itself.
        camera: from which it was drawn.
    """
    if output == "normals":
        return normals_to_rgb(shown.normals_obj, shown.hit_mask)
    if output == "depth":
        return depth_to_rgb(shown.depth, shown.hit_mask)
    if output == "weights":
        return on_white(weight_colours(shown.weights), shown.hit_mask)
    if output == "mesh":
        dirs_obj = camera.pixel_rays()[1][0]                             # (H, W, 3)
        facing = (shown.normals_obj * dirs_obj.permute(2, 0, 1)).sum(0).abs()
        return on_white((0.18 + 0.72 * facing).expand(3, -1, -1), shown.hit_mask)
    if output == "photograph" and photograph is not None:
        return to_uint8(photograph)
    if output == "error" and photograph is not None:
        error = torch.from_numpy(error_map(shown.picture, photograph)).permute(2, 0, 1) / 255
        return on_white(error, shown.hit_mask)
    return to_uint8(shown.picture)


def view_colours(num_views: int) -> Tensor:
    """Return a colour of its own (K, 3) in [0, 1] for each source view."""
    turns = torch.arange(num_views)[:, None] * 0.618 + torch.tensor([0.0, 0.33, 0.67])
    return 0.5 + 0.5 * torch.cos(2 * math.pi * turns)


def weight_colours(weights: Tensor) -> Tensor:
    """Return the source views' colours, blended by their weights (K, H, W); (3, H, W)."""
    return torch.einsum("khw,kc->chw", weights, view_colours(len(weights)).to(weights))
