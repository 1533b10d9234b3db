"""Image grids of a stereo start: photograph, depth, confidence, and the surface that came of it."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.stereo.blending import trace_grid
from data_processing.stereo.consistency import DepthMaps
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface
from utils.geometry.visual_hull import Hull
from utils.results.layout import even_rows
from utils.results.pictures import (
    depth_to_rgb,
    image_grid,
    on_white,
    stack_vertically,
    to_uint8,
    with_outline,
)

VIEWS_PER_ROW = 7
#: Light of the shaded surface in camera axes: from above the viewer's left shoulder.
LIGHT_CAM = (-0.4, 0.5, 0.77)
AMBIENT = 0.15


def stereo_grid(cameras: Cameras, images: Tensor, masks: Tensor, grid: Hull, *,
                 maps: DepthMaps | None, names: Sequence[str], title: str = "") -> np.ndarray:
    """A column for each view, in blocks of VIEWS_PER_ROW.

    Args:
        cameras, images (V, 3, H, W), masks (V, 1, H, W): as stereo had them.
        grid: the surface.
        maps: its depth maps; None leaves out their rows.
        names: of the views.
        title: a line above all.
    Returns:
        (H, W, 3) uint8.
    """
    surface, _ = trace_grid(grid, cameras)
    shaded = shaded_surface(grid, surface, cameras).cpu()
    rows = [("photograph,\nmask outlined", [with_outline(image, mask) for image, mask
                                            in zip(images.cpu(), masks.cpu(), strict=True)])]
    if maps is not None:
        rows.append(("depth by stereo,\nyellow near,\nviolet far",
                     [depth_to_rgb(depth[None], mask[None]) for depth, mask
                      in zip(maps.depth, maps.mask, strict=True)]))
        rows.append(("confidence,\nblack 0, white 1",
                     [to_uint8(confidence.cpu().expand(3, -1, -1))
                      for confidence in maps.confidence]))
    rows.append(("surface, shaded", [on_white(image, mask) for image, mask
                                     in zip(shaded, surface.hit_mask.cpu(), strict=True)]))
    blocks = []
    for part in even_rows(len(names), VIEWS_PER_ROW):
        blocks.append(image_grid([cells[part] for _, cells in rows], [label for label, _ in rows],
                            list(names[part]), title if part.start == 0 else ""))
    return stack_vertically(blocks)


def shaded_surface(grid: Hull, surface: Surface, cameras: Cameras) -> Tensor:
    """(V, 3, H, W) grey images of a traced grid under a light that goes with the camera."""
    points = surface.points_obj.permute(0, 2, 3, 1).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(grid.sdf(points).sum(), points)
    rotation = F.normalize(cameras.object_to_camera[:, :3, :3], dim=-1)
    normals = torch.einsum("vij,vhwj->vhwi", rotation, F.normalize(slope, dim=-1))
    light = F.normalize(torch.tensor(LIGHT_CAM, device=points.device), dim=0)
    bright = AMBIENT + (1 - AMBIENT) * (normals @ light).clamp(min=0)  # (V, H, W)
    return bright[:, None].expand(-1, 3, -1, -1)
