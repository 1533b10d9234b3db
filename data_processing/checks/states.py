"""A scene with all that is measured of it, and how both change when a mistake is undone."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_processing.checks.epipolar import (
    Geometry,
    PairMatches,
    epipolar_distances,
    match_pairs,
    pairs_to_compare,
)
from data_processing.checks.findings import Finding
from data_processing.checks.hypotheses import Evidence, Hypothesis, Score, score, small_masks
from data_processing.checks.place_findings import HULL_HALF, OUTLINE_WIDTH, place_findings
from data_processing.scenes.idr_format import is_idr_folder
from data_processing.scenes.object_space import choose_object_space
from data_processing.scenes.scene import Scene
from utils.errors import SceneError
from utils.geometry.cameras import (
    Cameras,
    intrinsics_from_projection,
    projection_from_intrinsics,
)
from utils.geometry.visual_hull import Hull, carve, hull_masks, outline_agreement

#: Nodes of the hull along an edge of its cube.
HULL_GRID = 96
#: With masks, matches of fewer pairs than this fraction say nothing: a pattern that repeats is
#: matched with itself.
MIN_PAIRS_FRACTION = 0.2
#: Fewer views cannot be compared with each other.
LEAST_VIEWS = 3


@dataclass(frozen=True)
class State:
    """A scene and what is measured of it.

    Attributes:
        scene: perhaps with mistakes undone and views taken out.
        evidence: the same for tests of cameras.
        distances: (P,) of the pairs of the evidence, working pixels.
        hull, outlines: of the masks, in object space, (V, 1, h, w) bool; None without masks.
        agreement: (V,) of masks and hull, NaN without masks.
        now: how well the cameras fit as a whole.
        places: findings on object space.
    """

    scene: Scene
    evidence: Evidence
    distances: np.ndarray
    hull: Hull | None
    outlines: Tensor | None
    agreement: np.ndarray
    now: Score
    places: Sequence[Finding]


def geometry_of(scene: Scene) -> Geometry:
    """Return the cameras of a scene as matches are tested with."""
    size = scene.cameras.resolution
    k = intrinsics_from_projection(scene.cameras.projection.double(), size).numpy()
    return Geometry(scene.cameras.view.double().numpy(), k, size)


def evidence_of(scene: Scene) -> Evidence:
    """Match a scene's photographs and return what its cameras can be tested with."""
    masks, geometry = scene.masks if scene.has_masks else None, geometry_of(scene)
    is_opencv = bool(scene.path) and is_idr_folder(Path(scene.path))
    return Evidence(geometry, _matches(scene, masks, geometry), masks, is_opencv)


def _matches(scene: Scene, masks: Tensor | None, geometry: Geometry) -> list[PairMatches]:
    """Return matches on the object, or anywhere where the masks leave too few."""
    pairs = pairs_to_compare(geometry.view)
    found = match_pairs(scene.images, masks, pairs) if masks is not None else []
    if len(found) < len(pairs) / 4:
        found = match_pairs(scene.images, None, pairs)
    return [] if masks is not None and len(found) < MIN_PAIRS_FRACTION * len(pairs) else found


def measure(scene: Scene, evidence: Evidence) -> State:
    """Return all that is measured of a scene."""
    distances = epipolar_distances(evidence.geometry, evidence.matches)
    hull, outlines, agreement = _hull(scene)
    now = score(evidence)
    if evidence.masks is not None:
        now = replace(now, agreement=max(now.agreement, float(np.median(agreement))))
    return State(scene, evidence, distances, hull, outlines, agreement, now,
                 place_findings(scene, hull, agreement))


def _hull(scene: Scene) -> tuple[Hull | None, Tensor | None, np.ndarray]:
    """Return the hull, its outlines (V, 1, h, w) and their agreement (V,) with the masks."""
    if not scene.has_masks:
        return None, None, np.full(len(scene), np.nan)
    hull = carve(scene.cameras, scene.masks, resolution=HULL_GRID, half=HULL_HALF)
    masks = small_masks(scene.masks, OUTLINE_WIDTH)
    outlines = hull_masks(hull, scene.cameras.resized(masks.shape[3], masks.shape[2]))
    return hull, outlines, outline_agreement(outlines, masks).numpy()


def without_views(state: State, views: Sequence[int]) -> State | None:
    """Return the state of a scene without some of its views; None where too few are left."""
    kept = [view for view in range(len(state.scene)) if view not in views]
    if len(kept) < LEAST_VIEWS:
        return None
    scene, evidence = state.scene, state.evidence
    number = {view: i for i, view in enumerate(kept)}
    matches = [replace(pair, first=number[pair.first], second=number[pair.second])
               for pair in evidence.matches if pair.first in number and pair.second in number]
    geometry = replace(evidence.geometry, view=evidence.geometry.view[kept],
                       intrinsics=evidence.geometry.intrinsics[kept])
    masks = None if evidence.masks is None else evidence.masks[kept]
    return measure(some_views(scene, kept),
                   replace(evidence, geometry=geometry, matches=matches, masks=masks))


def some_views(scene: Scene, kept: list[int]) -> Scene:
    """Return a scene with some of its views alone."""
    return replace(scene, images=scene.images[kept], masks=scene.masks[kept],
                   cameras=scene.cameras[kept],
                   view_names=tuple(scene.view_names[view] for view in kept), mask_files=())


def without_masks(state: State) -> State:
    """Return the state of a scene whose masks are not used."""
    scene = replace(state.scene, has_masks=False, masks=torch.ones_like(state.scene.masks),
                    mask_files=())
    return measure(scene, evidence_of(scene))


def undone(state: State, mistake: Hypothesis) -> State:
    """Return the state of a scene with a mistake undone, and object space where it then is."""
    return measure(repaired(state.scene, mistake), mistake.undo(state.evidence))


def repaired(scene: Scene, mistake: Hypothesis) -> Scene:
    """Return a scene with a mistake undone in its images, masks and cameras.

    Object space stays if the object is found there; else it is that of the masks, as it was made
    from what was wrong.
    """
    found = mistake.undo(Evidence(geometry_of(scene), [], scene.masks))
    geometry = found.geometry
    masks = scene.masks if found.masks is None else found.masks
    projection = projection_from_intrinsics(torch.from_numpy(geometry.intrinsics), geometry.size)
    cameras = Cameras(torch.from_numpy(geometry.view), projection, scene.cameras.model.double(),
                      geometry.size)
    out = replace(scene, images=mistake.pictures(scene.images), masks=masks,
                  cameras=cameras.to(torch.float32), mask_files=())
    hull, _, agreement = _hull(out)
    if not place_findings(out, hull, agreement):
        return out
    try:
        space = choose_object_space(cameras, masks if scene.has_masks else None, None)
    except SceneError:
        return out
    cameras = replace(cameras, model=torch.from_numpy(space.model))
    return replace(out, cameras=cameras.to(torch.float32))
