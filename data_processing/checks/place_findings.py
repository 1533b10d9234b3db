"""Findings on where the object and the cameras are in object space."""
from __future__ import annotations

import numpy as np

from data_processing.checks.findings import ERROR, MIN_MASK, WARNING, Finding, names_of
from data_processing.checks.hypotheses import small_masks
from data_processing.scenes.scene import Scene
from utils.command_names import typed
from utils.geometry.visual_hull import Hull, hull_masks, outline_agreement

#: Agreement of masks and hull below which they do not fit. A thin solid loses a pixel on each side
#: to the grid: the bird of the TUM scenes, wings of two pixels, reaches 0.8.
MIN_AGREEMENT = 0.65
#: The hull fills this cube (object units); its outlines are compared at this width (pixels).
HULL_HALF, OUTLINE_WIDTH = 1.5, 128
#: Loss of agreement when the hull is cut to the unit sphere: more means that the object sticks out.
OUTSIDE_LOSS = 0.05
#: The object should fill this fraction of the unit sphere's radius, or detail is lost.
MIN_RADIUS = 0.25


def place_findings(scene: Scene, hull: Hull | None, agreement: np.ndarray) -> list[Finding]:
    """Return findings on cameras inside the object or the unit sphere, and on object space."""
    out = []
    eyes = scene.cameras.centers_obj.norm(dim=-1)
    if hull is not None and not hull.is_empty:
        inside = (hull.sdf(scene.cameras.centers_obj.float()) <= 0).nonzero()[:, 0].tolist()
        if inside:
            out.append(Finding("cameras_in_object", ERROR, f"{names_of(scene, inside)}: the camera "
                               "is inside the hull of the masks", "fix the masks (what leaks to "
                               "the border of the frames may reach the cameras), or these cameras"))
    if hull is not None and not (scene.masks.float().mean((1, 2, 3)) < MIN_MASK).any():
        out += _size_findings(scene, hull, agreement)       # a view without a mask leaves no hull
    near = [i for i, distance in enumerate(eyes.tolist()) if distance < 1]
    if near and not out:                                    # else the sphere is known to be wrong
        out.append(Finding("cameras_in_sphere", WARNING, f"{names_of(scene, near)}: the camera is "
                           "inside the unit sphere", "import again with masks, which give a "
                           f"smaller scale: {typed('import')} --normalization masks"))
    return out


def _size_findings(scene: Scene, hull: Hull, agreement: np.ndarray) -> list[Finding]:
    """Return a finding where object space does not suit the object's size and place."""
    cure = f"import the scene again: {typed('import')} --normalization masks"
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
