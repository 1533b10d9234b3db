"""Can a scene be trained on? Findings in plain words, each with what was measured and its cure."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_processing.checks.epipolar import (
    Geometry,
    PairMatches,
    epipolar_distances,
    exposures,
    match_pairs,
    pairs_to_compare,
)
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
from data_processing.scenes.idr_format import is_idr_folder
from data_processing.scenes.scene import Scene
from utils.geometry.cameras import intrinsics_from_projection
from utils.geometry.visual_hull import Hull, carve, hull_masks, outline_agreement, touches_border

ERROR, WARNING, NOTE = "error", "warning", "note"
#: The hull is carved in this cube (object units) and shown at this width (pixels).
HULL_HALF, HULL_GRID, OUTLINE_WIDTH = 1.5, 96, 128
#: Agreement of masks and hull below which they do not fit. A thin solid loses a pixel on each side
#: to the grid: the bird of the TUM scenes, wings of two pixels, reaches 0.8.
LEAST_AGREEMENT = 0.65
#: A single view is odd when it agrees so much less than the median view.
ODD_DROP = 0.25
#: A single view is odd when its best pair misses by so many working pixels, and times the median.
ODD_PIXELS, ODD_TIMES = 2.5, 5.0
#: From this distance on (working pixels) usual mistakes are tried, as another fits better, perhaps.
SUSPECT_DISTANCE = 1.0
#: Masks that cover this much of the frame's border in most views are those of the background.
BORDER_SHARE, MOST_MASKS = 0.6, 0.7
#: Loss of agreement when the hull is cut to the unit sphere: more means that the object sticks out.
OUTSIDE_LOSS = 0.05
#: The object should fill this much of the unit sphere's radius, or detail is lost.
LEAST_RADIUS = 0.25
#: Brightness of a view against the others, as a factor, 1.3 stops. The
#: fixed lights of the DTU scans make 0.52 to 1.3.
EXPOSURE_LIMIT = 2.5
#: Images are the same when small copies differ by less than this, mean of [0, 1].
SAME_IMAGE = 0.002
THUMBNAIL = (48, 64)
#: Cameras are the same within this share of their distance and this many degrees.
SAME_PLACE, SAME_DEGREES = 1e-3, 0.1
#: Masks of less than this share of the image are as good as empty.
LEAST_MASK = 0.002
FEW_VIEWS = 6
MAX_NAMED_FRAMES = 8


@dataclass(frozen=True)
class Finding:
    """Something that keeps the scene from being learned (error), harms it (warning), or is said.

    Attributes:
        code: short name, the same for all scenes.
        severity: error, warning or note.
        found: what was measured, in words.
        cure: what to do.
    """

    code: str
    severity: str
    found: str
    cure: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.severity}: {self.code}: {self.found}; {self.cure}"


@dataclass(frozen=True)
class CheckResult:
    """What the check measured.

    Attributes:
        findings: worst first.
        facts: lines of figures.
        epipolar: (V,) median distance of each view's matches, working pixels, NaN without matches.
        agreement: (V,) agreement of mask and hull, NaN without masks.
        hull: carved in object space, or None without masks.
        outlines: (V, 1, h, w) bool, of the hull, or None.
    """

    findings: tuple[Finding, ...]
    facts: tuple[str, ...]
    epipolar: np.ndarray
    agreement: np.ndarray
    hull: Hull | None
    outlines: Tensor | None

    @property
    def has_errors(self) -> bool:
        """Whether training on the scene cannot work."""
        return any(finding.severity == ERROR for finding in self.findings)


def check_scene(scene: Scene) -> CheckResult:
    """All checks of a scene; nothing is written."""
    size = scene.cameras.resolution
    k = intrinsics_from_projection(scene.cameras.projection.double(), size).numpy()
    geometry = Geometry(scene.cameras.view.double().numpy(), k, size)
    masks = scene.masks if scene.has_masks else None
    matches = _matches(scene, masks, geometry)
    distances = epipolar_distances(geometry, matches)
    hull, outlines, agreement = _hull(scene)
    is_opencv = bool(scene.path) and is_idr_folder(Path(scene.path))
    evidence = Evidence(geometry, matches, masks, is_opencv)
    findings = _camera_findings(scene, evidence, distances, agreement, hull=hull)
    findings += [*([] if masks is None else _mask_findings(scene)), *_duplicates(scene),
                 *_exposure_findings(scene, matches), *_notes(scene)]
    order = (ERROR, WARNING, NOTE)
    epipolar = _of_views(len(scene), matches, distances)
    return CheckResult(tuple(sorted(findings, key=lambda f: order.index(f.severity))),
                       _facts(scene, matches, epipolar, agreement, hull=hull), epipolar, agreement,
                       hull, outlines)


def _matches(scene: Scene, masks: Tensor | None, geometry: Geometry) -> list[PairMatches]:
    """Matches on the object, or anywhere where the masks leave too few."""
    pairs = pairs_to_compare(geometry.view)
    found = match_pairs(scene.images, masks, pairs) if masks is not None else []
    return found if len(found) >= len(pairs) / 4 else match_pairs(scene.images, None, pairs)


def _of_views(num_views: int, matches: list[PairMatches], distances: np.ndarray) -> np.ndarray:
    """(V,) median of the distances of the pairs that a view is in; NaN for none."""
    out = np.full(num_views, np.nan)
    for view in range(num_views):
        mine = [d for pair, d in zip(matches, distances)
                if view in (pair.first, pair.second) and np.isfinite(d)]
        out[view] = np.median(mine) if mine else np.nan
    return out


def _hull(scene: Scene) -> tuple[Hull | None, Tensor | None, np.ndarray]:
    """Hull, its outlines (V, 1, h, w) and their agreement (V,) with the masks."""
    if not scene.has_masks:
        return None, None, np.full(len(scene), np.nan)
    hull = carve(scene.cameras, scene.masks, resolution=HULL_GRID, half=HULL_HALF)
    masks = small_masks(scene.masks, OUTLINE_WIDTH)
    outlines = hull_masks(hull, scene.cameras.resized(masks.shape[3], masks.shape[2]))
    return hull, outlines, outline_agreement(outlines, masks).numpy()


def _camera_findings(scene: Scene, evidence: Evidence, distances: np.ndarray,
                     agreement: np.ndarray, *, hull: Hull | None) -> list[Finding]:
    """Cameras against matches and masks: what is wrong as a whole, else single odd views."""
    inverted = _inverted(evidence)
    if inverted:
        return inverted
    now = score(evidence)
    if evidence.masks is not None:
        now = replace(now, agreement=max(now.agreement, float(np.median(agreement))))
    places = _place_findings(scene, hull, agreement)
    fits = (not now.distance > GOOD_DISTANCE and not now.in_front < GOOD_IN_FRONT
            and not now.agreement < LEAST_AGREEMENT)
    if fits and not now.distance > SUSPECT_DISTANCE and not places:
        return _odd_views(scene, evidence, distances, agreement)
    explained = explain(evidence, now)
    if explained is not None:
        hypothesis, better = explained
        return [Finding(hypothesis.code, ERROR, f"{hypothesis.found} ({_figures(now)}; undone: "
                        f"{_figures(better)})", hypothesis.cure)]
    odd = _odd_views(scene, evidence, distances, agreement)
    if fits or odd:
        return odd + places
    voted = _outvoted(scene) if evidence.masks is not None else []
    if voted:
        return [Finding("odd_views", ERROR, f"{_names(scene, voted)}: mask or camera contradicts "
                        f"the other views ({_figures(now)})", "mend the mask or calibrate these "
                        "views again, or take them out")]
    return [Finding("cameras_do_not_fit", ERROR, "cameras, images and masks do not fit "
                    f"({_figures(now)}), and no usual mistake explains it", "calibrate again, and "
                    "check that images, masks and cameras are of the same pictures in one order")]


def _figures(found: Score) -> str:
    """A score in words."""
    parts = []
    if np.isfinite(found.distance):
        parts.append(f"matches miss their epipolar lines by {found.distance:.1f} pixels of 640")
    if np.isfinite(found.agreement):
        parts.append(f"masks and their hull agree to {found.agreement:.2f}")
    if found.in_front < GOOD_IN_FRONT:
        parts.append(f"{1 - found.in_front:.0%} of the points lie behind the cameras")
    return ", ".join(parts)


def _inverted(evidence: Evidence) -> list[Finding]:
    """Masks that cover the border of most frames, and whose inverse has a hull."""
    masks = evidence.masks
    if masks is None:
        return []
    rim = torch.cat([masks[:, 0, 0], masks[:, 0, -1], masks[:, 0, :, 0], masks[:, 0, :, -1]], 1)
    covered = (rim.float().mean(1) > BORDER_SHARE).float().mean()
    if covered < MOST_MASKS or bool(masks.all()):
        return []
    agreement = mask_agreement(evidence.geometry, ~masks)
    if agreement < LEAST_AGREEMENT:
        return []
    return [Finding("masks_inverted", ERROR, "the masks are inverted: they cover the border of "
                    f"{covered:.0%} of the frames, and inverted agree with their hull to "
                    f"{agreement:.2f}", "invert every mask: white (255) on the object, black (0) "
                    "elsewhere")]


def _odd_views(scene: Scene, evidence: Evidence, distances: np.ndarray,
               agreement: np.ndarray) -> list[Finding]:
    """Single views that fit worse than the others."""
    out = []
    usable = distances[np.isfinite(distances)]
    limit = max(ODD_PIXELS, ODD_TIMES * float(np.median(usable))) if len(usable) else np.inf
    odd = _blamed(len(scene), list(evidence.matches), distances, limit)
    if odd:
        worst = max(d for pair, d in zip(evidence.matches, distances)
                    if (pair.first in odd or pair.second in odd) and np.isfinite(d))
        out.append(Finding("odd_views", ERROR, f"{_names(scene, odd)}: matches miss their epipolar "
                           f"lines by up to {worst:.1f} pixels of 640, the median pair by "
                           f"{np.median(usable):.1f}", "calibrate these views again or take them "
                           "out"))
    typical = np.nanmedian(agreement) if np.isfinite(agreement).any() else np.nan
    odd = [i for i, value in enumerate(agreement)
           if value < typical - ODD_DROP and scene.masks[i].float().mean() >= LEAST_MASK]
    if odd:
        out.append(Finding("odd_masks", WARNING, f"{_names(scene, odd)}: the mask agrees with the "
                           f"hull of all to {np.min(agreement[odd]):.2f}, the median one to "
                           f"{typical:.2f}", "mend these masks or take the views out"))
    return out


def _blamed(num_views: int, matches: list[PairMatches], distances: np.ndarray,
            limit: float) -> list[int]:
    """Views all of whose pairs miss by more than `limit`, those with the most such pairs first.

    A pair blames one view: what is left of its partner's pairs speaks for the partner.
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
    """Views whose masks leave out much of what nearly all other masks show."""
    votes = [carve(scene.cameras[[view, view]], scene.masks[[view, view]], resolution=40,
                   half=1.0).occupied_mask for view in range(len(scene))]
    inside = torch.stack(votes).float().mean(0) >= 0.8
    if not inside.any():
        return []
    share = [float(vote[inside].float().mean()) for vote in votes]
    odd = [view for view, value in enumerate(share) if value < 0.5]
    return odd if len(odd) <= len(scene) / 4 else []


def _mask_findings(scene: Scene) -> list[Finding]:
    """Masks that are empty or cover everything."""
    share = scene.masks.float().mean((1, 2, 3)).numpy()
    out = []
    empty = [i for i, value in enumerate(share) if value < LEAST_MASK]
    if empty:
        out.append(Finding("masks_empty", ERROR, f"{_names(scene, empty)}: the mask is empty",
                           "mend these masks or take the views out"))
    full = [i for i, value in enumerate(share) if value > 0.995]
    if full:
        out.append(Finding("masks_full", WARNING, f"{_names(scene, full)}: the mask covers the "
                           "whole image", "mend these masks, or remove all to train without"))
    return out


def _place_findings(scene: Scene, hull: Hull | None, agreement: np.ndarray) -> list[Finding]:
    """The object inside the unit sphere, the cameras outside of it."""
    out = []
    eyes = scene.cameras.centers_obj.norm(dim=-1)
    if hull is not None and not hull.is_empty:
        inside = (hull.sdf(scene.cameras.centers_obj.float()) <= 0).nonzero()[:, 0].tolist()
        if inside:
            out.append(Finding("cameras_in_object", ERROR, f"{_names(scene, inside)}: the camera "
                               "is inside the hull of the masks", "mend masks or cameras; shift "
                               "and focal length may be in other units"))
    near = [i for i, distance in enumerate(eyes.tolist()) if distance < 1]
    if near:
        out.append(Finding("cameras_in_sphere", WARNING, f"{_names(scene, near)}: the camera is "
                           "inside the unit sphere", "let the normalisation be smaller: import "
                           "again with masks (import_scene.py --normalization masks)"))
    if hull is None:
        return out
    return out + _size_findings(scene, hull, agreement)


def _size_findings(scene: Scene, hull: Hull, agreement: np.ndarray) -> list[Finding]:
    """Whether object space suits the object's size and place."""
    cure = "import the scene again: import_scene.py --normalization masks"
    if hull.is_empty or float(np.median(agreement)) < LEAST_AGREEMENT:
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
    if radius < LEAST_RADIUS:
        return [Finding("object_small", WARNING, f"the object fills {radius:.2f} of the unit "
                        "sphere's radius", cure)]
    return []


def _duplicates(scene: Scene) -> list[Finding]:
    """Pairs of views with the same image; the same camera makes it harmless but useless."""
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
                      for i, j in same[:MAX_NAMED_FRAMES])
    if any(is_moved):
        return [Finding("duplicates", ERROR, f"the same photograph with different cameras: {named}",
                        "take the wrong one of each pair out")]
    return [Finding("duplicates", WARNING, f"the same photograph twice: {named}",
                    "take one of each pair out, or a withheld view may be a training one")]


def _exposure_findings(scene: Scene, matches: list[PairMatches]) -> list[Finding]:
    """Views that show the same points much brighter or darker; without matches, the object."""
    factors = exposures(len(scene), matches)
    inside = scene.masks.float()
    level = ((scene.images.mean(1, keepdim=True) * inside).sum((1, 2, 3))
             / inside.sum((1, 2, 3)).clamp_min(1)).numpy()
    factors = np.where(np.isfinite(factors), factors, level / max(float(np.median(level)), 1e-6))
    odd = [i for i, value in enumerate(factors)
           if value > EXPOSURE_LIMIT or value < 1 / EXPOSURE_LIMIT]
    if not odd:
        return []
    values = ", ".join(f"{factors[i]:.2f}" for i in odd[:MAX_NAMED_FRAMES])
    return [Finding("exposure", WARNING, f"{_names(scene, odd)}: {values} times as bright as the "
                    "others show it", "photograph with fixed exposure and white "
                    "balance, or take these views out")]


def _notes(scene: Scene) -> list[Finding]:
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


def _names(scene: Scene, views: list[int]) -> str:
    named = ", ".join(scene.view_names[i] for i in views[:MAX_NAMED_FRAMES])
    more = f" and {len(views) - MAX_NAMED_FRAMES} more" if len(views) > MAX_NAMED_FRAMES else ""
    return f"view{'s' if len(views) > 1 else ''} {named}{more}"
