"""A scene with one mistake of those that people make: a function a case."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from data_processing.scenes.scene import Scene
from utils.geometry.cameras import Cameras, intrinsics_from_projection, projection_from_intrinsics

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def views(scene: Scene) -> np.ndarray:
    """(V, 4, 4) world to camera."""
    return scene.cameras.view.double().numpy()


def with_cameras(scene: Scene, view=None, intrinsics=None) -> Scene:
    """The scene with other matrices: view (V, 4, 4) OpenGL, intrinsics (V, 3, 3)."""
    cameras = scene.cameras
    size = cameras.resolution
    k = intrinsics_from_projection(cameras.projection.double(), cameras.resolution)
    k = k if intrinsics is None else torch.as_tensor(intrinsics)
    view = cameras.view if view is None else torch.as_tensor(view)
    return replace(scene, cameras=Cameras(view, projection_from_intrinsics(k, size), cameras.model,
                                          size).to(torch.float32))


def turned(scene: Scene, turns: int) -> Scene:
    """Images and masks turned counter-clockwise; K stays as it stands in its file, in pixels."""
    images, masks = (torch.rot90(part, turns, (2, 3)) for part in (scene.images, scene.masks))
    k = intrinsics_from_projection(scene.cameras.projection.double(), scene.cameras.resolution)
    size = (images.shape[3], images.shape[2])
    cameras = replace(scene.cameras, resolution=size,
                      projection=projection_from_intrinsics(k, size).float())
    return replace(scene, images=images, masks=masks, cameras=cameras)


def mirrored(scene: Scene) -> Scene:
    """Images and masks mirrored left to right."""
    return replace(scene, images=scene.images.flip(3), masks=scene.masks.flip(3))


def scaled(scene: Scene, factor: float) -> Scene:
    """Intrinsics for images `factor` times as large; edges of the frame stay edges."""
    k = intrinsics_from_projection(scene.cameras.projection.double(), scene.cameras.resolution)
    k[:, :2] *= factor
    k[:, :2, 2] += (factor - 1) / 2
    return with_cameras(scene, intrinsics=k)


def transposed(scene: Scene) -> Scene:
    """Rotations transposed."""
    view = views(scene).copy()
    view[:, :3, :3] = view[:, :3, :3].transpose(0, 2, 1)
    return with_cameras(scene, view)


def with_views(scene: Scene, chosen) -> Scene:
    """Some of the views."""
    chosen = list(chosen)
    return replace(scene, images=scene.images[chosen], masks=scene.masks[chosen],
                   cameras=scene.cameras[chosen],
                   view_names=tuple(scene.view_names[i] for i in chosen))


def one_rolled(scene: Scene) -> Scene:
    """Camera 6 turned by 14 degrees about its axis."""
    view = views(scene)
    angle = np.radians(14)
    view[6, :2] = np.array([[np.cos(angle), -np.sin(angle)],
                            [np.sin(angle), np.cos(angle)]]) @ view[6, :2]
    return with_cameras(scene, view)


def one_far_away(scene: Scene) -> Scene:
    """Camera 6 stands three object sizes aside, so that no point is in all masks."""
    view = views(scene)
    view[6, 0, 3] += 2.0
    return with_cameras(scene, view)


#: By the code of the finding: mistakes of the whole scene, which are undone with certainty.
CERTAIN = {
    "images_rotated": [lambda s: turned(s, 1), lambda s: turned(s, 3), lambda s: turned(s, 2)],
    "images_mirrored": [mirrored],
    "poses_axes": [lambda s: with_cameras(s, FLIP @ views(s))],
    "poses_inverted": [lambda s: with_cameras(s, np.linalg.inv(views(s)))],
    "poses_inverted_axes": [lambda s: with_cameras(s, np.linalg.inv(FLIP @ views(s)))],
    "poses_transposed": [transposed],
    "masks_inverted": [lambda s: replace(s, masks=~s.masks)],
    "intrinsics_size": [lambda s: scaled(s, 2.0), lambda s: scaled(s, 0.25)],
    "order_reversed": [lambda s: with_cameras(s, views(s)[::-1].copy())],
    "order_shifted": [lambda s: with_cameras(s, np.roll(views(s), 1, 0))]}
#: Mistakes of single views.
SINGLE = {"odd_views": [one_rolled, one_far_away]}


def cases(*tables: dict) -> list[tuple]:
    """The codes and changes of tables."""
    return [(code, change) for table in tables for code, changes in table.items()
            for change in changes]
