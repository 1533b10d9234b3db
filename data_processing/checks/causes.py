"""What is wrong with a scene, by cause: each mistake is undone before the next is looked for.

So nothing is named that only follows from something else: an odd camera empties the hull, inverted
masks put the object outside the sphere.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_processing.checks.epipolar import PairMatches
from data_processing.checks.findings import (
    ERROR,
    MAX_NAMED_VIEWS,
    MIN_MASK,
    WARNING,
    Finding,
    names_of,
)
from data_processing.checks.hypotheses import (
    GOOD_DISTANCE,
    GOOD_IN_FRONT,
    Hypothesis,
    Score,
    border_coverage,
    explain,
    inverted_masks,
    mask_agreement,
    score,
)
from data_processing.checks.place_findings import MIN_AGREEMENT
from data_processing.checks.states import State, undone, without_masks, without_views
from data_processing.scenes.scene import Scene
from utils.geometry.visual_hull import carve

#: A single view is odd if its agreement is below that of the median view by ODD_DROP, or by
#: LEAST_DROP and ODD_SPREADS of the other views' spread (1.48 medians of the distance from it).
ODD_DROP, LEAST_DROP, ODD_SPREADS = 0.25, 0.12, 8.0
#: A single view is odd if its best pair misses by this many working pixels, and by this many times
#: the median.
ODD_PIXELS, ODD_TIMES = 2.5, 5.0
#: Of these limits, what makes a view suspect beside a partner that is beyond them.
SUSPECT_FRACTION = 0.4
#: From this distance on (working pixels) usual mistakes are tried, as undoing one may fit better.
SUSPECT_DISTANCE = 1.0
#: Masks that cover this fraction of the frame's border, in this fraction of the views, are those of
#: the background.
BORDER_FRACTION, MOST_VIEWS_FRACTION = 0.6, 0.7
#: Masks of more than this fraction of the image cover everything.
FULL_MASK = 0.995
#: Images are the same if small copies differ by less than this, mean of levels in [0, 1].
SAME_IMAGE = 0.002
THUMBNAIL = (48, 64)
#: Cameras are the same within this fraction of their distance and this many degrees.
SAME_PLACE, SAME_DEGREES = 1e-3, 0.1
#: Causes that are looked for, one behind the other.
MAX_CAUSES = 8


@dataclass(frozen=True)
class Cause:
    """Findings with one cause.

    Attributes:
        findings: what is reported.
        after: the scene with the cause undone; None where nothing more can be known.
        mistake: what was undone, where that is certain.
    """

    findings: tuple[Finding, ...]
    after: State | None
    mistake: Hypothesis | None = None


def find_causes(state: State) -> tuple[list[Cause], State]:
    """Return what is wrong, in the order of causes, and the scene with it undone as far as known.
    """
    causes: list[Cause] = []
    while len(causes) < MAX_CAUSES:
        cause = next((cause for test in TESTS if (cause := test(state)) is not None), None)
        if cause is None:
            return causes, state
        causes.append(cause)
        if cause.after is None:
            return causes, state
        state = cause.after
    return causes, state


def _inverted(state: State) -> Cause | None:
    """Return the cause where masks cover most borders and their inverse has a hull."""
    masks = state.evidence.masks
    if masks is None:
        return None
    covered = (border_coverage(masks) > BORDER_FRACTION).float().mean()
    if covered < MOST_VIEWS_FRACTION or bool(masks.all()):
        return None
    mistake = inverted_masks()
    agreement = mask_agreement(state.evidence.geometry, ~masks)
    if agreement < MIN_AGREEMENT:
        return None
    finding = Finding(mistake.code, ERROR, f"{mistake.found}: they cover the border of "
                      f"{covered:.0%} of the frames, and inverted agree with their hull to "
                      f"{agreement:.2f}", mistake.cure)
    return Cause((finding,), undone(state, mistake), mistake)


def _shapeless(state: State) -> Cause | None:
    """Return the cause where masks are empty or cover everything."""
    scene = state.scene
    if not scene.has_masks:
        return None
    covered = scene.masks.float().mean((1, 2, 3)).numpy()
    empty = [i for i, fraction in enumerate(covered) if fraction < MIN_MASK]
    full = [i for i, fraction in enumerate(covered) if fraction > FULL_MASK]
    out = []
    if empty:
        out.append(Finding("masks_empty", ERROR, f"{names_of(scene, empty)}: the mask is empty",
                           "fix these masks or take the views out"))
    if full:
        out.append(Finding("masks_full", WARNING, f"{names_of(scene, full)}: the mask covers the "
                           "whole image", "fix these masks, or remove all to train without"))
    if not out:
        return None
    return Cause(tuple(out), without_views(state, [*empty, *full]) or without_masks(state))


def _doubled(state: State) -> Cause | None:
    """Return the cause where one photograph has two cameras: one of them is wrong."""
    scene = state.scene
    moved = [pair for pair in same_images(scene) if _is_moved(scene, *pair)]
    if not moved:
        return None
    named = ", ".join(f"{scene.view_names[j]} = {scene.view_names[i]}"
                      for i, j in moved[:MAX_NAMED_VIEWS])
    both = sorted({view for pair in moved for view in pair})
    blamed = [view for view in _odd_cameras(state)[0] if view in both]
    which = f" ({names_of(scene, blamed)} by the matches)" if blamed else ""
    finding = Finding("duplicates", ERROR, f"the same photograph with different cameras: {named}",
                      f"take the wrong one of each pair out{which}")
    return Cause((finding,), without_views(state, blamed or both))


def same_images(scene: Scene) -> list[tuple[int, int]]:
    """Return pairs of views with the same photograph, the later one first."""
    size = (min(THUMBNAIL[0], scene.images.shape[2]), min(THUMBNAIL[1], scene.images.shape[3]))
    small = torch.nn.functional.interpolate(scene.images, size=size, mode="area").flatten(1)
    difference = torch.cdist(small, small, p=1) / small.shape[1]
    return [(i, j) for i in range(len(scene)) for j in range(i)
            if difference[i, j] < SAME_IMAGE and small[i].std() > 1e-3]


def _is_moved(scene: Scene, first: int, second: int) -> bool:
    """Return whether the cameras of two views differ."""
    eyes, forward = scene.cameras.centers_obj, scene.cameras.forward_obj
    return bool((eyes[first] - eyes[second]).norm() > SAME_PLACE * eyes.norm(dim=-1).median()
                or (forward[first] - forward[second]).norm() > np.radians(SAME_DEGREES))


def _fits(now: Score) -> bool:
    """Return whether nothing speaks against cameras and masks as a whole."""
    return (not now.distance > GOOD_DISTANCE and not now.in_front < GOOD_IN_FRONT
            and not now.agreement < MIN_AGREEMENT)


def _usual_mistake(state: State) -> Cause | None:
    """Return the cause where undoing one of the usual mistakes makes everything fit."""
    now = state.now
    if _fits(now) and not now.distance > SUSPECT_DISTANCE and not state.places:
        return None
    explained = explain(state.evidence, now)
    if explained is None:
        return None
    mistake, better = explained
    finding = Finding(mistake.code, ERROR, f"{mistake.found} ({_in_words(now)}; undone: "
                      f"{_in_words(better)})", mistake.cure)
    return Cause((finding,), undone(state, mistake), mistake)


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


def _odd_cameras(state: State) -> tuple[list[int], float]:
    """Return the views whose matches miss more than the others', and by how much at most."""
    usable = state.distances[np.isfinite(state.distances)]
    limit = max(ODD_PIXELS, ODD_TIMES * float(np.median(usable))) if len(usable) else np.inf
    matches = state.evidence.matches
    odd = _blamed(len(state.scene), matches, state.distances, limit)
    worst = max((d for pair, d in zip(matches, state.distances)
                 if (pair.first in odd or pair.second in odd) and np.isfinite(d)), default=0.0)
    return odd, worst


def _odd_views(state: State) -> Cause | None:
    """Return the cause where the matches of single views miss."""
    odd, worst = _odd_cameras(state)
    if not odd:
        return None
    typical = np.median(state.distances[np.isfinite(state.distances)])
    finding = Finding("odd_views", ERROR, f"{names_of(state.scene, odd)}: matches miss their "
                      f"epipolar lines by up to {worst:.1f} pixels of 640, the median pair by "
                      f"{typical:.1f}", "calibrate these views again or take them out")
    return Cause((finding,), without_views(state, odd))


def _blamed(num_views: int, matches: Sequence[PairMatches], distances: np.ndarray,
            limit: float) -> list[int]:
    """Return the views all of whose pairs miss by more than `limit`.

    Those with the most such pairs come first, and a pair blames one view: with it taken out, what
    is left of its partner's pairs speaks for the partner. A view whose pairs, more of them, all
    miss by more than SUSPECT_FRACTION of the limit is blamed in place of its partner: a wrong
    camera need not be far off in each pair.
    """
    pairs = [(pair.first, pair.second, float(d)) for pair, d in zip(matches, distances)
             if np.isfinite(d)]
    out = []
    while True:
        missed = {view: [d for *both, d in pairs if view in both] for view in range(num_views)}
        guilty = [view for view, ds in missed.items() if ds and min(ds) > limit]
        if not guilty:
            return sorted(out)
        worst = max(guilty, key=lambda view: len(missed[view]))
        partners = {view for *both, _ in pairs if worst in both for view in both}
        suspects = [view for view in partners if min(missed[view]) > SUSPECT_FRACTION * limit]
        worst = max([worst, *sorted(suspects)], key=lambda view: len(missed[view]))
        out.append(worst)
        pairs = [pair for pair in pairs if worst not in pair[:2]]


def _contradiction(state: State) -> Cause | None:
    """Return the cause where nothing fits and no usual mistake explains it."""
    if _fits(state.now):
        return None
    scene = state.scene
    voted = _outvoted(scene) if state.evidence.masks is not None else []
    after = without_views(state, voted) if voted else None
    if after is not None and score(after.evidence).worth > state.now.worth:
        finding = Finding("odd_views", ERROR, f"{names_of(scene, voted)}: mask or camera "
                          f"contradicts the other views ({_in_words(state.now)})", "fix the mask "
                          "or calibrate these views again, or take them out")
        return Cause((finding,), after)
    return Cause((Finding("cameras_do_not_fit", ERROR, "cameras, images and masks do not fit "
                          f"({_in_words(state.now)}), and no usual mistake explains it",
                          "calibrate again, and check that images, masks and cameras are of the "
                          "same pictures in one order"),), None)


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


def _odd_masks(state: State) -> Cause | None:
    """Return the cause where single masks agree with the hull less than the others."""
    scene, agreement = state.scene, state.agreement
    if not np.isfinite(agreement).any():
        return None
    typical = float(np.nanmedian(agreement))
    spread = 1.48 * float(np.nanmedian(np.abs(agreement - typical)))
    drop = min(ODD_DROP, max(LEAST_DROP, ODD_SPREADS * spread))
    odd = [i for i, value in enumerate(agreement) if value < typical - drop]
    if not odd or typical < MIN_AGREEMENT:           # else the hull itself is wrong
        return None
    finding = Finding("odd_masks", WARNING, f"{names_of(scene, odd)}: the mask agrees with the "
                      f"hull of all to {np.min(agreement[odd]):.2f}, the median one to "
                      f"{typical:.2f}", "fix these masks or take the views out")
    return Cause((finding,), without_views(state, odd))


#: In the order of causes: what spoils the photographs and masks, the cameras, single views.
TESTS: tuple[Callable[[State], Cause | None], ...] = (
    _inverted, _shapeless, _doubled, _usual_mistake, _odd_views, _contradiction, _odd_masks)
