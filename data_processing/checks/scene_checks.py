"""Can a scene be trained on? What is measured of it, and the findings that follow."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_processing.checks.camera_findings import HULL_HALF, OUTLINE_WIDTH, camera_findings
from data_processing.checks.epipolar import (
    Geometry,
    PairMatches,
    epipolar_distances,
    exposures,
    match_pairs,
    pairs_to_compare,
)
from data_processing.checks.findings import (
    ERROR,
    MAX_NAMED_VIEWS,
    MIN_MASK,
    NOTE,
    WARNING,
    CheckResult,
    Finding,
    names_of,
)
from data_processing.checks.hypotheses import Evidence, small_masks
from data_processing.scenes.idr_format import is_idr_folder
from data_processing.scenes.scene import Scene
from utils.geometry.cameras import intrinsics_from_projection
from utils.geometry.visual_hull import Hull, carve, hull_masks, outline_agreement, touches_border

#: Nodes of the hull along an edge of its cube.
HULL_GRID = 96
#: Views whose brightness differs from the others' by this factor (1.3 stops) or more are named; the
#: fixed lights of the DTU scans make 0.52 to 1.3.
EXPOSURE_LIMIT = 2.5
#: Images are the same if small copies differ by less than this, mean of levels in [0, 1].
SAME_IMAGE = 0.002
THUMBNAIL = (48, 64)
#: Cameras are the same within this fraction of their distance and this many degrees.
SAME_PLACE, SAME_DEGREES = 1e-3, 0.1
FEW_VIEWS = 6


def check_scene(scene: Scene) -> CheckResult:
    """Check a scene in every way, without writing anything."""
    size = scene.cameras.resolution
    k = intrinsics_from_projection(scene.cameras.projection.double(), size).numpy()
    geometry = Geometry(scene.cameras.view.double().numpy(), k, size)
    masks = scene.masks if scene.has_masks else None
    matches = _matches(scene, masks, geometry)
    distances = epipolar_distances(geometry, matches)
    hull, outlines, agreement = _hull(scene)
    is_opencv = bool(scene.path) and is_idr_folder(Path(scene.path))
    evidence = Evidence(geometry, matches, masks, is_opencv)
    findings = camera_findings(scene, evidence, distances, agreement, hull=hull)
    findings += [*([] if masks is None else _mask_findings(scene)), *_duplicates(scene),
                 *_exposure_findings(scene, matches), *_notes(scene)]
    order = (ERROR, WARNING, NOTE)
    epipolar = _of_views(len(scene), matches, distances)
    return CheckResult(tuple(sorted(findings, key=lambda f: order.index(f.severity))),
                       _facts(scene, matches, epipolar, agreement, hull=hull), epipolar, agreement,
                       hull, outlines)


def _matches(scene: Scene, masks: Tensor | None, geometry: Geometry) -> list[PairMatches]:
    """Return matches on the object, or anywhere where the masks leave too few."""
    pairs = pairs_to_compare(geometry.view)
    found = match_pairs(scene.images, masks, pairs) if masks is not None else []
    return found if len(found) >= len(pairs) / 4 else match_pairs(scene.images, None, pairs)


def _of_views(num_views: int, matches: list[PairMatches], distances: np.ndarray) -> np.ndarray:
    """Return the median distance (V,) of the pairs that each view is in; NaN for none."""
    out = np.full(num_views, np.nan)
    for view in range(num_views):
        mine = [d for pair, d in zip(matches, distances)
                if view in (pair.first, pair.second) and np.isfinite(d)]
        out[view] = np.median(mine) if mine else np.nan
    return out


def _hull(scene: Scene) -> tuple[Hull | None, Tensor | None, np.ndarray]:
    """Return the hull, its outlines (V, 1, h, w) and their agreement (V,) with the masks."""
    if not scene.has_masks:
        return None, None, np.full(len(scene), np.nan)
    hull = carve(scene.cameras, scene.masks, resolution=HULL_GRID, half=HULL_HALF)
    masks = small_masks(scene.masks, OUTLINE_WIDTH)
    outlines = hull_masks(hull, scene.cameras.resized(masks.shape[3], masks.shape[2]))
    return hull, outlines, outline_agreement(outlines, masks).numpy()


def _mask_findings(scene: Scene) -> list[Finding]:
    """Return findings on masks that are empty or cover everything."""
    covered = scene.masks.float().mean((1, 2, 3)).numpy()
    out = []
    empty = [i for i, fraction in enumerate(covered) if fraction < MIN_MASK]
    if empty:
        out.append(Finding("masks_empty", ERROR, f"{names_of(scene, empty)}: the mask is empty",
                           "fix these masks or take the views out"))
    full = [i for i, fraction in enumerate(covered) if fraction > 0.995]
    if full:
        out.append(Finding("masks_full", WARNING, f"{names_of(scene, full)}: the mask covers the "
                           "whole image", "fix these masks, or remove all to train without"))
    return out


def _duplicates(scene: Scene) -> list[Finding]:
    """Return a finding on views with the same image.

    With the same camera that is harmless but useless; with different cameras one of them is wrong.
    """
    size = (min(THUMBNAIL[0], scene.images.shape[2]), min(THUMBNAIL[1], scene.images.shape[3]))
    small = torch.nn.functional.interpolate(scene.images, size=size, mode="area").flatten(1)
    difference = torch.cdist(small, small, p=1) / small.shape[1]
    same = [(i, j) for i in range(len(scene)) for j in range(i)
            if difference[i, j] < SAME_IMAGE and small[i].std() > 1e-3]
    if not same:
        return []
    eyes, forward = scene.cameras.centers_obj, scene.cameras.forward_obj
    is_moved = [bool((eyes[i] - eyes[j]).norm() > SAME_PLACE * eyes.norm(dim=-1).median()
                     or (forward[i] - forward[j]).norm() > np.radians(SAME_DEGREES))
                for i, j in same]
    named = ", ".join(f"{scene.view_names[j]} = {scene.view_names[i]}"
                      for i, j in same[:MAX_NAMED_VIEWS])
    if any(is_moved):
        return [Finding("duplicates", ERROR, f"the same photograph with different cameras: {named}",
                        "take the wrong one of each pair out")]
    return [Finding("duplicates", WARNING, f"the same photograph twice: {named}",
                    "take one of each pair out, or a held-out view may be a training view")]


def _exposure_findings(scene: Scene, matches: list[PairMatches]) -> list[Finding]:
    """Return a finding on views that show the same points much brighter or darker than others.

    Without matches the brightness of the object is compared.
    """
    factors = exposures(len(scene), matches)
    inside = scene.masks.float()
    level = ((scene.images.mean(1, keepdim=True) * inside).sum((1, 2, 3))
             / inside.sum((1, 2, 3)).clamp_min(1)).numpy()
    factors = np.where(np.isfinite(factors), factors, level / max(float(np.median(level)), 1e-6))
    odd = [i for i, value in enumerate(factors)
           if value > EXPOSURE_LIMIT or value < 1 / EXPOSURE_LIMIT]
    if not odd:
        return []
    values = ", ".join(f"{factors[i]:.2f}" for i in odd[:MAX_NAMED_VIEWS])
    return [Finding("exposure", WARNING, f"{names_of(scene, odd)}: {values} times as bright as "
                    "the others", "photograph with fixed exposure and white "
                    "balance, or take these views out")]


def _notes(scene: Scene) -> list[Finding]:
    """Return notes on what is missing but not wrong."""
    out = []
    if not scene.has_masks:
        out.append(Finding("no_masks", NOTE, "there are no masks: the background is modelled too, "
                           "outlines do not help the shape, and the hull cannot be checked",
                           "put masks into masks/NAME.png and import again"))
    if len(scene) < FEW_VIEWS:
        out.append(Finding("few_views", NOTE, f"{len(scene)} views", "more views, 10 degrees "
                           "apart, give a better shape"))
    return out


def _facts(scene: Scene, matches: list[PairMatches], epipolar: np.ndarray, agreement: np.ndarray,
           *, hull: Hull | None) -> tuple[str, ...]:
    """Return the lines of measured values."""
    width, height = scene.cameras.resolution
    lines = [f"{scene.name}: {len(scene)} views of {width}x{height}"]
    if np.isfinite(epipolar).any():
        lines.append(f"epipolar: {sum(len(pair.a) for pair in matches)} matches of {len(matches)} "
                     f"pairs miss by {np.nanmedian(epipolar):.2f} pixels of 640 (median view), "
                     f"{np.nanmax(epipolar):.2f} (worst)")
    else:
        lines.append("epipolar: no pair of views has enough matches; the masks alone are checked")
    if hull is not None:
        lines.append(f"hull: agrees with the masks to {np.median(agreement):.3f} (median view), "
                     f"{agreement.min():.3f} (worst)")
        cut = sum(touches_border(mask[0]) for mask in scene.masks)
        lines.append(f"masks: {scene.masks.float().mean():.1%} of the pixels, {cut} of "
                     f"{len(scene)} touch the border of the frame")
    eyes = scene.cameras.centers_obj.norm(dim=-1)
    lines.append(f"cameras: {eyes.min():.2f} to {eyes.max():.2f} object units from the centre")
    return tuple(lines)


