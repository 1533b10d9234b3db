"""An origin near the cameras, for worlds whose coordinates are too large for float32.

Map projections (UTM) and earth-centred coordinates put the cameras thousands of kilometres from
the origin, where float32 knows half metres. What is stored is relative to a point among the
cameras, subtracted in float64; world = stored + origin.
"""
from __future__ import annotations

import numpy as np

#: The origin stays where it is if the cameras are no farther from it than this many times the
#: radius about their middle. Then float32 keeps 1e-5 of that radius, less than 0.01 pixels.
MAX_DISTANCE_FACTOR = 100.0


def far_origin(view: np.ndarray) -> np.ndarray:
    """Return the origin (3,) float64, world space, in whole units; 0 where the cameras are near it.

    Args:
        view: (V, 4, 4) float64 world to camera.
    """
    eyes = np.linalg.inv(view)[:, :3, 3]
    middle = np.median(eyes, axis=0)
    radius = np.linalg.norm(eyes - middle, axis=-1).max()
    if np.linalg.norm(middle) <= MAX_DISTANCE_FACTOR * max(radius, 1e-12):
        return np.zeros(3)
    unit = 10.0 ** np.floor(np.log10(max(radius, 1e-12)))
    return np.round(middle / unit) * unit


def moved_view(view: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return world to camera (..., 4, 4) for a world whose origin was at `origin` (3,)."""
    out = np.array(view, np.float64)
    out[..., :3, 3] += out[..., :3, :3] @ origin
    return out


def moved_model(model: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return object to world (4, 4) for a world whose origin was at `origin` (3,)."""
    out = np.array(model, np.float64)
    out[:3, 3] -= origin
    return out
