"""Findings on cameras: against matched points, masks and the unit sphere."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from data_processing.checks.epipolar import PairMatches
from data_processing.checks.findings import ERROR, MIN_MASK, WARNING, Finding, names_of
from data_processing.checks.hypotheses import (
    GOOD_DISTANCE,
    GOOD_IN_FRONT,
    Evidence,
    Score,
    explain,
    mask_agreement,
    score,
    small_masks,
)
from data_processing.scenes.scene import Scene
from utils.geometry.visual_hull import Hull, carve, hull_masks, outline_agreement

#: Agreement of masks and hull below which they do not fit. A thin solid loses a pixel on each side
#: to the grid: the bird of the TUM scenes, wings of two pixels, reaches 0.8.
MIN_AGREEMENT = 0.65
#: The hull fills this cube (object units); its outlines are compared at this width (pixels).
HULL_HALF, OUTLINE_WIDTH = 1.5, 128
#: A single view is odd if its agreement is below that of the median view by ODD_DROP, or by
#: LEAST_DROP and ODD_SPREADS of the other views' spread (1.48 medians of the distance from it).
ODD_DROP, LEAST_DROP, ODD_SPREADS = 0.25, 0.12, 8.0
#: A single view is odd if its best pair misses by this many working pixels, and by this many times
#: the median.
ODD_PIXELS, ODD_TIMES = 2.5, 5.0
#: From this distance on (working pixels) usual mistakes are tried, as undoing one may fit better.
SUSPECT_DISTANCE = 1.0
#: Masks that cover this fraction of the frame's border, in this fraction of the views, are those of
#: the background.
BORDER_FRACTION, MOST_VIEWS_FRACTION = 0.6, 0.7
#: Loss of agreement when the hull is cut to the unit sphere: more means that the object sticks out.
OUTSIDE_LOSS = 0.05
#: The object should fill this fraction of the unit sphere's radius, or detail is lost.
MIN_RADIUS = 0.25


def camera_findings(scene: Scene, evidence: Evidence, distances: np.ndarray,
                     agreement: np.ndarray, *, hull: Hull | None) -> list[Finding]:
    """Return what is wrong with the cameras as a whole, or which single views do not fit."""
    inverted = _inverted(evidence)
    if inverted:
        return inverted
    now = score(evidence)
    if evidence.masks is not None:
        now = replace(now, agreement=max(now.agreement, float(np.median(agreement))))
    places = _place_findings(scene, hull, agreement)
    fits = (not now.distance > GOOD_DISTANCE and not now.in_front < GOOD_IN_FRONT
            and not now.agreement < MIN_AGREEMENT)
    if fits and not now.distance > SUSPECT_DISTANCE and not places:
        return _odd_views(scene, evidence, distances, agreement)
    explained = explain(evidence, now)
    if explained is not None:
        hypothesis, better = explained
        return [Finding(hypothesis.code, ERROR, f"{hypothesis.found} ({_in_words(now)}; undone: "
                        f"{_in_words(better)})", hypothesis.cure)]
    odd = _odd_views(scene, evidence, distances, agreement)
    if fits or odd:
        return odd + places
    voted = _outvoted(scene) if evidence.masks is not None else []
    if voted:
        return [Finding("odd_views", ERROR, f"{names_of(scene, voted)}: mask or camera contradicts "
                        f"the other views ({_in_words(now)})", "fix the mask or calibrate these "
                        "views again, or take them out")]
    return [Finding("cameras_do_not_fit", ERROR, "cameras, images and masks do not fit "
                    f"({_in_words(now)}), and no usual mistake explains it", "calibrate again, and "
                    "check that images, masks and cameras are of the same pictures in one order")]


def _in_words(found: Score) -> str:
    """Return a score in words."""
    parts = []
    if np.isfinite(found.distance):
        parts.append(f"matches miss their epipolar lines by {found.distance:.1f} pixels of 640")
    if np.isfinite(found.agreement):
        parts.append(f"masks and their hull agree to {found.agreement:.2f}")
    if found.in_front < GOOD_IN_FRONT:
        parts.append(f"{1 - found.in_front:.0%} of the points lie behind the cameras")
    return ", ".join(parts)


def _inverted(evidence: Evidence) -> list[Finding]:
    """Return a finding where masks cover most borders and their inverse has a hull."""
    masks = evidence.masks
    if masks is None:
        return []
    rim = torch.cat([masks[:, 0, 0], masks[:, 0, -1], masks[:, 0, :, 0], masks[:, 0, :, -1]], 1)
    covered = (rim.float().mean(1) > BORDER_FRACTION).float().mean()
    if covered < MOST_VIEWS_FRACTION or bool(masks.all()):
        return []
    agreement = mask_agreement(evidence.geometry, ~masks)
    if agreement < MIN_AGREEMENT:
        return []
    return [Finding("masks_inverted", ERROR, "the masks are inverted: they cover the border of "
                    f"{covered:.0%} of the frames, and inverted agree with their hull to "
                    f"{agreement:.2f}", "invert every mask: white (255) on the object, black (0) "
                    "elsewhere")]


def _odd_views(scene: Scene, evidence: Evidence, distances: np.ndarray,
               agreement: np.ndarray) -> list[Finding]:
    """Return findings on single views that fit worse than the others."""
    out = []
    usable = distances[np.isfinite(distances)]
    limit = max(ODD_PIXELS, ODD_TIMES * float(np.median(usable))) if len(usable) else np.inf
    odd = _blamed(len(scene), evidence.matches, distances, limit)
    if odd:
        worst = max(d for pair, d in zip(evidence.matches, distances)
                    if (pair.first in odd or pair.second in odd) and np.isfinite(d))
        out.append(Finding("odd_views", ERROR, f"{names_of(scene, odd)}: matches miss their "
                           f"epipolar lines by up to {worst:.1f} pixels of 640, the median pair by "
                           f"{np.median(usable):.1f}", "calibrate these views again or take them "
                           "out"))
    typical = np.nanmedian(agreement) if np.isfinite(agreement).any() else np.nan
    spread = 1.48 * np.nanmedian(np.abs(agreement - typical)) if np.isfinite(typical) else np.nan
    drop = min(ODD_DROP, max(LEAST_DROP, ODD_SPREADS * spread))
    odd = [i for i, value in enumerate(agreement)
           if value < typical - drop and scene.masks[i].float().mean() >= MIN_MASK]
    if odd:
        out.append(Finding("odd_masks", WARNING, f"{names_of(scene, odd)}: the mask agrees with "
                           f"the hull of all to {np.min(agreement[odd]):.2f}, the median one to "
                           f"{typical:.2f}", "fix these masks or take the views out"))
    return out


def _blamed(num_views: int, matches: Sequence[PairMatches], distances: np.ndarray,
            limit: float) -> list[int]:
    """Return the views all of whose pairs miss by more than `limit`.

    Those with the most such pairs come first, and a pair blames one view: with it taken out, what
    is left of its partner's pairs speaks for the partner.
    """
    pairs = [(pair.first, pair.second, bool(d > limit)) for pair, d in zip(matches, distances)
             if np.isfinite(d)]
    out = []
    while True:
        bad = {view: [is_bad for *both, is_bad in pairs if view in both]
               for view in range(num_views)}
        guilty = [view for view, votes in bad.items() if votes and all(votes)]
        if not guilty:
            return sorted(out)
        worst = max(guilty, key=lambda view: len(bad[view]))
        out.append(worst)
        pairs = [pair for pair in pairs if worst not in pair[:2]]


def _outvoted(scene: Scene) -> list[int]:
    """Return the views whose masks leave out much of what nearly all other masks show."""
    votes = [carve(scene.cameras[[view, view]], scene.masks[[view, view]], resolution=40,
                   half=1.0).occupied_mask for view in range(len(scene))]
    inside = torch.stack(votes).float().mean(0) >= 0.8
    if not inside.any():
        return []
    kept = [float(vote[inside].float().mean()) for vote in votes]
    odd = [view for view, fraction in enumerate(kept) if fraction < 0.5]
    return odd if len(odd) <= len(scene) / 4 else []


def _place_findings(scene: Scene, hull: Hull | None, agreement: np.ndarray) -> list[Finding]:
    """Return findings on cameras inside the object or the unit sphere, and on object space."""
    out = []
    eyes = scene.cameras.centers_obj.norm(dim=-1)
    if hull is not None and not hull.is_empty:
        inside = (hull.sdf(scene.cameras.centers_obj.float()) <= 0).nonzero()[:, 0].tolist()
        if inside:
            out.append(Finding("cameras_in_object", ERROR, f"{names_of(scene, inside)}: the camera "
                               "is inside the hull of the masks", "fix masks or cameras; "
                               "translation and focal length may be in other units"))
    near = [i for i, distance in enumerate(eyes.tolist()) if distance < 1]
    if near:
        out.append(Finding("cameras_in_sphere", WARNING, f"{names_of(scene, near)}: the camera is "
                           "inside the unit sphere", "import again with masks, which give a "
                           "smaller scale: import_scene.py --normalization masks"))
    if hull is None or (scene.masks.float().mean((1, 2, 3)) < MIN_MASK).any():
        return out                                 # a view without a mask leaves no hull
    return out + _size_findings(scene, hull, agreement)


def _size_findings(scene: Scene, hull: Hull, agreement: np.ndarray) -> list[Finding]:
    """Return a finding where object space does not suit the object's size and place."""
    cure = "import the scene again: import_scene.py --normalization masks"
    if hull.is_empty or float(np.median(agreement)) < MIN_AGREEMENT:
        return [Finding("normalization", ERROR, "the masks agree on an object, but not inside "
                        f"{HULL_HALF} radii of the unit sphere", cure)]
    radius, loss = float(hull.points().norm(dim=-1).max()), 0.0
    if radius > 1:
        masks = small_masks(scene.masks, OUTLINE_WIDTH)
        inner = hull_masks(hull, scene.cameras.resized(masks.shape[3], masks.shape[2]), radius=1.0)
        loss = float(np.median(agreement - outline_agreement(inner, masks).numpy()))
    if loss > OUTSIDE_LOSS:
        return [Finding("object_outside_sphere", ERROR, "the object sticks out of the unit sphere: "
                        f"cut to it the hull loses {loss:.2f} of its agreement with the masks",
                        cure)]
    if radius < MIN_RADIUS:
        return [Finding("object_small", WARNING, f"the object fills {radius:.2f} of the unit "
                        "sphere's radius", cure)]
    return []
