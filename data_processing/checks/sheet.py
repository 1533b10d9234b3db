"""The check of a scene as an image grid and as text: cameras, masks, hull, findings."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_processing.checks.findings import CheckResult
from data_processing.checks.hypotheses import small_masks
from data_processing.scenes.scene import Scene
from utils.files.text import visible_message
from utils.results.layout import even_rows
from utils.results.pictures import image_grid, stack_vertically, with_outline
from utils.results.plots import camera_plot

#: Views in the grid, and in one of its rows.
MAX_VIEWS, PER_ROW = 14, 7
#: What mask and hull both show, the mask alone, the hull alone.
BOTH_COLOUR, MASK_COLOUR, HULL_COLOUR = (255, 255, 255), (220, 60, 40), (50, 110, 230)
CELL_WIDTH = 200


def check_text(result: CheckResult, notes: tuple[str, ...] = ()) -> str:
    """Return facts and findings, a line each."""
    findings = [str(finding) for finding in result.findings] or ["no findings"]
    return "\n".join(map(visible_message, [*notes, *result.facts, *findings])) + "\n"


def check_sheet(scene: Scene, result: CheckResult) -> np.ndarray:
    """Return an image grid: cameras, photographs with the mask's outline, masks against the hull.

    The views are spread evenly, and the worst are among them.

    Returns:
        (H, W, 3) uint8.
    """
    shown = _shown_views(result, len(scene))
    worst = result.findings[0] if result.findings else None
    title = f"{scene.name}: {worst.severity}: {worst.code}" if worst else \
        f"{scene.name}: no findings"
    parts = [camera_plot(scene.cameras.to(torch.float32), shown, [], title,
                         names=("other views", "views shown below", ""))]
    for part in even_rows(len(shown), PER_ROW):
        parts.append(_block(scene, result, shown[part]))
    return stack_vertically(parts)


def _shown_views(result: CheckResult, num_views: int) -> list[int]:
    """Return evenly spread views, a few of them replaced by the worst of either measure."""
    if num_views <= MAX_VIEWS:
        return list(range(num_views))
    worst = [int(np.nanargmax(values)) for values in (result.epipolar, -result.agreement)
             if np.isfinite(values).any()]
    even = np.linspace(0, num_views - 1, MAX_VIEWS - len(set(worst))).round().astype(int)
    return sorted({*even.tolist(), *worst})


def _block(scene: Scene, result: CheckResult, views: list[int]) -> np.ndarray:
    """Return a row of photographs and, with masks, one of masks against the hull."""
    images = functional.interpolate(scene.images[views], size=_cell(scene), mode="area")
    masks = functional.interpolate(scene.masks[views].float(), size=_cell(scene), mode="area")
    photographs = [with_outline(image, mask >= 0.5) if scene.has_masks else
                   with_outline(image, torch.zeros_like(mask, dtype=torch.bool))
                   for image, mask in zip(images, masks)]
    rows, labels = [photographs], ["photograph,\nmask outlined" if scene.has_masks
                                   else "photograph\n(no masks)"]
    if result.outlines is not None:
        small = small_masks(scene.masks[views], result.outlines.shape[3])
        rows.append([_comparison(mask, result.outlines[view])
                     for mask, view in zip(small, views)])
        labels.append("white: mask\nand hull,\nred: mask\nalone, blue:\nhull alone")
    return image_grid(rows, labels, [_label(scene, result, view) for view in views])


def _cell(scene: Scene) -> tuple[int, int]:
    """Return the (height, width) of a picture in the grid."""
    width, height = scene.cameras.resolution
    scale = min(1.0, CELL_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _label(scene: Scene, result: CheckResult, view: int) -> str:
    """Return a view's name and what was measured of it."""
    lines = [f"{view}: {scene.view_names[view]}"]
    if np.isfinite(result.agreement[view]):
        lines.append(f"agreement {result.agreement[view]:.2f}")
    if np.isfinite(result.epipolar[view]):
        lines.append(f"epipolar {result.epipolar[view]:.2f} px")
    return "\n".join(lines)


def _comparison(mask: Tensor, outline: Tensor) -> np.ndarray:
    """Return two (1, H, W) bool masks as one picture (H, W, 3) uint8."""
    in_mask, in_hull = mask[0].numpy(), outline[0].numpy()
    picture = np.zeros((*in_mask.shape, 3), np.uint8)
    for where, colour in ((in_mask & in_hull, BOTH_COLOUR), (in_mask & ~in_hull, MASK_COLOUR),
                          (in_hull & ~in_mask, HULL_COLOUR)):
        picture[where] = colour
    return picture
