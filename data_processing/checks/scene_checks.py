"""Can a scene be trained on? What is measured of it, and the findings that follow."""
from __future__ import annotations

import numpy as np

from data_processing.checks.causes import find_causes, same_images
from data_processing.checks.epipolar import exposures
from data_processing.checks.findings import (
    ERROR,
    MAX_NAMED_VIEWS,
    NOTE,
    WARNING,
    CheckResult,
    Finding,
    names_of,
)
from data_processing.checks.hypotheses import Hypothesis
from data_processing.checks.states import State, evidence_of, measure
from data_processing.scenes.scene import Scene
from utils.geometry.visual_hull import touches_border

#: Views whose brightness differs from the others' by this factor (1.3 stops) or more are named; the
#: fixed lights of the DTU scans make 0.52 to 1.3.
EXPOSURE_LIMIT = 2.5
FEW_VIEWS = 6


def check_scene(scene: Scene) -> CheckResult:
    """Check a scene in every way, without writing anything."""
    return check_with_mistakes(scene)[0]


def check_with_mistakes(scene: Scene) -> tuple[CheckResult, tuple[Hypothesis, ...]]:
    """Check a scene, and return the mistakes too that are certain, in the order of undoing them.

    Findings are ordered by severity, within it by cause. What follows from a cause is left out:
    further findings are those of the scene with it undone.
    """
    state = measure(scene, evidence_of(scene))
    causes, after = find_causes(state)
    is_known = not causes or causes[-1].after is not None
    findings = [finding for cause in causes for finding in cause.findings]
    findings += [*(after.places if is_known else ()), *_duplicates(after.scene),
                 *_exposure_findings(after, is_known), *_notes(scene)]
    order = (ERROR, WARNING, NOTE)
    epipolar = _of_views(state)
    result = CheckResult(tuple(sorted(findings, key=lambda f: order.index(f.severity))),
                         _facts(state, epipolar), epipolar, state.agreement, state.hull,
                         state.outlines)
    return result, tuple(cause.mistake for cause in causes if cause.mistake is not None)


def _of_views(state: State) -> np.ndarray:
    """Return the median distance (V,) of the pairs that each view is in; NaN for none."""
    out = np.full(len(state.scene), np.nan)
    for view in range(len(out)):
        mine = [d for pair, d in zip(state.evidence.matches, state.distances)
                if view in (pair.first, pair.second) and np.isfinite(d)]
        out[view] = np.median(mine) if mine else np.nan
    return out


def _duplicates(scene: Scene) -> list[Finding]:
    """Return a finding on views with the same photograph and camera: harmless but useless."""
    same = same_images(scene)
    if not same:
        return []
    named = ", ".join(f"{scene.view_names[j]} = {scene.view_names[i]}"
                      for i, j in same[:MAX_NAMED_VIEWS])
    return [Finding("duplicates", WARNING, f"the same photograph twice: {named}",
                    "take one of each pair out, or a held-out view may be a training view")]


def _exposure_findings(state: State, is_known: bool) -> list[Finding]:
    """Return a finding on views that show the same points much brighter or darker than others.

    Without matches the brightness of the object is compared, if the masks are known to be right.
    """
    scene, matches = state.scene, state.evidence.matches
    factors = exposures(len(scene), matches)
    if is_known:
        inside = scene.masks.float()
        level = ((scene.images.mean(1, keepdim=True) * inside).sum((1, 2, 3))
                 / inside.sum((1, 2, 3)).clamp_min(1)).numpy()
        factors = np.where(np.isfinite(factors), factors,
                           level / max(float(np.median(level)), 1e-6))
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


def _facts(state: State, epipolar: np.ndarray) -> tuple[str, ...]:
    """Return the lines of measured values."""
    scene, matches = state.scene, state.evidence.matches
    width, height = scene.cameras.resolution
    lines = [f"{scene.name}: {len(scene)} views of {width}x{height}"]
    if np.isfinite(epipolar).any():
        lines.append(f"epipolar: {sum(len(pair.a) for pair in matches)} matches of {len(matches)} "
                     f"pairs miss by {np.nanmedian(epipolar):.2f} pixels of 640 (median view), "
                     f"{np.nanmax(epipolar):.2f} (worst)")
    else:
        lines.append("epipolar: too few pairs of views have matches; the masks alone are checked")
    if state.hull is not None:
        lines.append(f"hull: agrees with the masks to {np.median(state.agreement):.3f} (median "
                     f"view), {state.agreement.min():.3f} (worst)")
        cut = sum(touches_border(mask[0]) for mask in scene.masks)
        lines.append(f"masks: {scene.masks.float().mean():.1%} of the pixels, {cut} of "
                     f"{len(scene)} touch the border of the frame")
    eyes = scene.cameras.centers_obj.norm(dim=-1)
    lines.append(f"cameras: {eyes.min():.2f} to {eyes.max():.2f} object units from the centre")
    return tuple(lines)
