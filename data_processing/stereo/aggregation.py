"""Semi-global aggregation of a cost volume, and sub-plane depths from it (Hirschmueller 2008)."""
from __future__ import annotations

import torch
from torch import Tensor

#: Directions (rows, columns) along which costs are passed on.
PATHS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


def aggregate(costs: Tensor, *, small_penalty: float, large_penalty: float | Tensor) -> Tensor:
    """Mean over eight straight paths of the least costs of reaching a pixel at a plane.

    Along a path L(p, d) = C(p, d) + min(L(q, d), L(q, d +- 1) + small, min L(q, .) + large)
    - min L(q, .), where q is the pixel before p; a path begins anew at the border.

    Args:
        costs: (D, H, W), finite.
        small_penalty: for a step of one plane.
        large_penalty: for any other step.
    Returns:
        (D, H, W).
    """
    total = torch.zeros_like(costs)
    for path in PATHS:
        total += _along(costs, path, small_penalty, large_penalty)
    return total / len(PATHS)


def _along(costs: Tensor, path: tuple[int, int], small: float, large: float) -> Tensor:
    """The least costs (D, H, W) along one path."""
    rows, columns = path
    if rows == 0:                       # columns one after another: as rows of the transpose
        return _along(costs.transpose(1, 2), (columns, 0), small, large).transpose(1, 2)
    order = range(costs.shape[1]) if rows > 0 else range(costs.shape[1] - 1, -1, -1)
    out = torch.empty_like(costs, memory_format=torch.contiguous_format)
    before = None
    for row in order:
        current = costs[:, row]                                        # (D, W)
        if before is not None:
            current = current + _passed_on(_shifted(before, columns), small, large)
        out[:, row] = current
        before = current
    return out


def _shifted(row: Tensor, columns: int) -> Tensor:
    """A row (D, W) moved to the side; 0, as for a path that begins, where nothing comes in."""
    if columns == 0:
        return row
    out = torch.zeros_like(row)
    if columns > 0:
        out[:, 1:] = row[:, :-1]
    else:
        out[:, :-1] = row[:, 1:]
    return out


def _passed_on(before: Tensor, small: float, large: float) -> Tensor:
    """(D, W) what the pixel before adds to the costs of the next."""
    least = before.amin(0)
    best = torch.minimum(before, least + large)
    best[1:] = torch.minimum(best[1:], before[:-1] + small)
    best[:-1] = torch.minimum(best[:-1], before[1:] + small)
    return best - least


def least_planes(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Plane of least cost, and its place between the planes by a parabola.

    Args:
        costs: (D, H, W), D >= 3.
    Returns:
        index (H, W) int64, and place (H, W) float within half a plane of it.
    """
    index = costs.argmin(0)
    inner = index.clamp(1, len(costs) - 2)
    before, least, after = (costs.gather(0, (inner + step)[None])[0] for step in (-1, 0, 1))
    curvature = before - 2 * least + after
    shift = (before - after) / (2 * curvature.clamp(min=1e-6))
    is_inner = (index == inner) & (curvature > 1e-6)
    return index, index + torch.where(is_inner, shift.clamp(-0.5, 0.5), torch.zeros_like(shift))
