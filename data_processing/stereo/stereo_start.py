"""What a scene's surface starts as: stereo, the visual hull or the sphere, by a test of their own.

The test leaves one training view out after the other, renders it from the others on the surface in
question by source colours alone (`blending`), and compares; no network and no held-out view of the
scene takes part.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from data_processing.stereo.blending import held_out_psnr
from data_processing.stereo.consistency import DepthMaps
from data_processing.stereo.depth_maps import SWEEP, SweepSettings, find_depths, sources_of
from data_processing.stereo.distances import redistanced
from data_processing.stereo.fusion import FUSION, FusionSettings, fuse
from data_processing.stereo.silhouettes import cover_masks
from utils.geometry.cameras import Cameras
from utils.geometry.visual_hull import Hull

#: Balls that are given back where rays through a mask missed, cells.
COVER_CELLS = 1.0
#: Stereo needs confident depths on this fraction of the masks; fewer are accidents.
MIN_CONFIDENT = 0.05
#: A worse kind of surface is taken only where its test is better by more than this, decibels.
MIN_GAIN = 0.05


@dataclass(frozen=True)
class StereoSurface:
    """A surface found by stereo.

    Attributes:
        grid: signed distances, inside the hull.
        maps: the depths that it was fused from.
    """

    grid: Hull
    maps: DepthMaps


@dataclass(frozen=True)
class SurfaceChoice:
    """What the surface starts as.

    Attributes:
        kind: stereo, hull or sphere.
        grid: its distances; of the sphere too.
        psnr: mean PSNR of the training views, each rendered from the others, by kind, for kinds
            that were tested.
        reason: why a better kind was not taken; empty for stereo.
        maps: the depths of stereo, where it was tried.
    """

    kind: str
    grid: Hull
    psnr: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    maps: DepthMaps | None = None


def stereo_surface(cameras: Cameras, images: Tensor, masks: Tensor, hull: Hull, *,
                   sweep: SweepSettings = SWEEP,
                   fusion: FusionSettings = FUSION) -> StereoSurface:
    """The surface of the photographs, inside the hull and covering the masks.

    Args:
        cameras: V cameras; everything is computed where they are.
        images: (V, 3, H, W) RGB in [0, 1].
        masks: (V, 1, H, W) bool, object.
        hull: grid of the visual hull, not empty.
        sweep, fusion: see the classes.
    """
    maps = find_depths(cameras, images, masks, hull, sweep)
    fused = fuse(hull, maps, cameras, fusion)
    covered = cover_masks(fused, hull, cameras, masks, radius=COVER_CELLS * hull.cell)
    return StereoSurface(redistanced(covered), maps)


def why_no_stereo(cameras: Cameras, hull: Hull,
                  settings: SweepSettings = SWEEP) -> str:
    """What keeps stereo from being tried at all; empty where nothing does."""
    if not any(sources_of(cameras, hull, settings)):
        return (f"no two of the {len(cameras)} training views are within "
                f"{settings.max_degrees:.0f} degrees of each other")
    return ""


def choose_surface(cameras: Cameras, images: Tensor, masks: Tensor, hull: Hull | None, *,
                   sphere: Hull, reason: str = "",
                   settings: SweepSettings = SWEEP) -> SurfaceChoice:
    """The best of stereo, hull and sphere by the test of this module.

    Args:
        cameras, images, masks: as in `stereo_surface`.
        hull: None where there is none; `reason` says why.
        sphere: grid of the sphere that scenes start from.
        reason: see hull.
        settings: of the sweep.
    """
    if hull is None:
        return SurfaceChoice("sphere", sphere, reason=reason)
    grids: dict[str, Hull] = {"hull": hull, "sphere": sphere}
    maps, reason = None, why_no_stereo(cameras, hull, settings)
    if not reason:
        found = stereo_surface(cameras, images, masks, hull, sweep=settings)
        maps, confident = found.maps, confident_fraction(found.maps, masks)
        if confident < MIN_CONFIDENT or not bool((found.grid.distance <= 0).any()):
            reason = (f"other views confirm the depth of {confident:.1%} of the object's pixels, "
                      f"need {MIN_CONFIDENT:.0%}")
        else:
            grids = {"stereo": found.grid, **grids}
    psnr = {kind: float(held_out_psnr(grid, cameras, images, masks).mean())
            for kind, grid in grids.items()}
    kind = _best_of(psnr)
    if kind != "stereo" and "stereo" in psnr:
        reason = (f"each training view rendered from the others has {psnr[kind]:.1f} dB on it, "
                  f"and {psnr['stereo']:.1f} dB on the surface by stereo")
    return SurfaceChoice(kind, grids[kind], psnr, "" if kind == "stereo" else reason, maps)


def _best_of(psnr: dict[str, float]) -> str:
    """The kind with the best figure; an earlier one stays unless the gain is MIN_GAIN."""
    best, *others = psnr
    for kind in others:
        if psnr[kind] > psnr[best] + MIN_GAIN:
            best = kind
    return best


def confident_fraction(maps: DepthMaps, masks: Tensor) -> float:
    """Fraction of the masks' pixels whose depth has any confidence."""
    num_pixels = int(masks.sum())
    return float((maps.confidence > 0).sum()) / num_pixels if num_pixels else 0.0
