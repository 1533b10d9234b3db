"""Warnings about a surface that training cannot reach, as sentences for the log."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.command_names import typed

NUM_SPHERE_POINTS = 2000
MIN_MASK_FRACTION = 0.01  # of a target's pixels: below it a target may well show nothing


class SurfaceWatch:
    """How many rays of each view met the surface when it last was a target that was traced.

    Counts stay on the device; they are read when `warnings` is called.

    Args:
        names: of the V training views.
        device: where the rays are traced.
    """

    def __init__(self, names: Sequence[str], device: torch.device | str) -> None:
        self.names = list(names)
        self.hits = torch.full((len(self.names),), -1.0, device=device)    # -1: not traced yet
        self.pixels = torch.zeros(len(self.names), device=device)          # of the mask
        self.mask_fraction = torch.zeros(len(self.names), device=device)           # that these are
        self.latest = torch.zeros(0, dtype=torch.long, device=device)      # the last targets

    def note(self, targets: Tensor, hit_mask: Tensor, masks: Tensor) -> None:
        """Remember what was found.

        Args:
            targets: (T,) numbers of views, on the device.
            hit_mask: (T * h * w,) bool.
            masks: (T, 1, h, w) bool, the object's pixels among the same.
        """
        self.latest = targets
        self.hits[targets] = hit_mask.reshape(len(targets), -1).sum(1).float()
        self.pixels[targets] = masks.flatten(1).sum(1).float()
        self.mask_fraction[targets] = masks.flatten(1).float().mean(1)

    def warnings(self, sdf: Callable[[Tensor], Tensor]) -> dict[str, str]:
        """Return what is wrong with the surface now: a short name and a sentence each."""
        found = self._left_sphere(sdf)
        hits, pixels, fraction = (x.tolist() for x in (self.hits, self.pixels, self.mask_fraction))
        seen = [i for i, count in enumerate(hits)
                if count >= 0 and fraction[i] >= MIN_MASK_FRACTION]
        empty = [i for i in seen if hits[i] == 0]
        latest = [i for i in self.latest.tolist() if i in seen]
        if empty and (empty == seen or len(latest) > 1 and set(latest) <= set(empty)):
            found["no_hits"] = (
                "no ray of the training views meets the surface: the image loss has no gradient "
                "for the shape, which the soft mask alone can bring back; if this stays, begin "
                "again with --init hull or a smaller --lr_sdf")
            return found
        for i in empty:
            found[f"no_hits {self.names[i]}"] = (
                f"training view {self.names[i]}: none of its rays meets the surface, though its "
                f"mask has {pixels[i]:.0f} pixels: its photograph teaches nothing; if this stays, "
                f"its camera or mask is wrong ({typed('check')} tells)")
        return found

    def _left_sphere(self, sdf: Callable[[Tensor], Tensor]) -> dict[str, str]:
        points = torch.randn(NUM_SPHERE_POINTS, 3, generator=torch.Generator().manual_seed(0))
        points = F.normalize(points, dim=-1).to(self.hits)
        with torch.no_grad():
            inside = float((sdf(points) < 0).float().mean())
        if inside == 0:
            return {}
        return {"left_sphere": (
            f"the surface leaves the unit sphere (SDF below 0 on {inside:.1%} of it): what is "
            "beyond is not traced, and the sphere itself is seen in its place; if this stays, the "
            f"object is larger than object space says ({typed('check')} tells), or "
            "--lr_sdf is too great")}
