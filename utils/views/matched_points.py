"""Points at which photographs match: where the views show them, and which the surface hides."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.geometry.triangulation import triangulate
from utils.views.surface_buffer import SurfaceBuffer

#: A view does not see a point that lies so far behind the surface it sees, object units. Less
#: would leave out hollows that the surface still fills, which matched points are there to find.
HIDDEN_BEHIND = 0.1
#: A point counts while so many of its views see it.
LEAST_VIEWS = 2


@dataclass(frozen=True)
class MatchedPoints:
    """N points that several views show.

    Attributes:
        xy_ndc: (N, V, 2) where each view shows each point; 0 where it does not.
        seen_mask: (N, V) bool, the view shows the point.
    """

    xy_ndc: Tensor
    seen_mask: Tensor

    def __len__(self) -> int:
        return len(self.xy_ndc)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> MatchedPoints:
        """Same points on another device, or with places of another dtype."""
        return MatchedPoints(self.xy_ndc.to(device, dtype), self.seen_mask.to(device))

    def points_obj(self, cameras: Cameras) -> Tensor:
        """(N, 3) of the dtype of `xy_ndc`, triangulated from V cameras; constants."""
        return triangulate(cameras, self.xy_ndc, self.seen_mask)

    def counts_mask(self, points_obj: Tensor, buffer: SurfaceBuffer) -> Tensor:
        """Points (N,) bool that the surface leaves visible to LEAST_VIEWS of the views they are of.

        Args:
            points_obj: (N, 3).
            buffer: what the views saw of the surface last; where it was never traced, it hides
                nothing.
        """
        with torch.no_grad():
            xy_ndc, _ = buffer.cameras.project(points_obj)             # (V, N, 2)
            grid = ndc_to_grid(xy_ndc, buffer.cameras.resolution)[:, None]
            t, hit = F.grid_sample(torch.cat([buffer.t, buffer.hit_mask.to(buffer.t)], 1), grid,
                                   mode="nearest", padding_mode="border",
                                   align_corners=True)[:, :, 0].unbind(1)        # (V, N) each
            away = (points_obj - buffer.cameras.centers_obj[:, None]).norm(dim=-1)
            hidden_mask = (hit > 0.5) & (t < away - HIDDEN_BEHIND)
            return (self.seen_mask & ~hidden_mask.T).sum(1) >= LEAST_VIEWS
