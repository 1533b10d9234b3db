"""Matplotlib, imported when the first plot is drawn, and its figures on the Agg canvas alone.

Importing it takes most of a second, and fails where MPLBACKEND names a backend that is not
installed, as a notebook's does for the scripts that it starts. No backend is used here.
"""
from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure


@cache
def _import_matplotlib() -> None:
    """Import matplotlib whatever backend the environment names."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def new_figure(**how: Any) -> tuple[Figure, FigureCanvasAgg]:
    """Return an empty figure and its canvas; `how` is as of matplotlib's Figure."""
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(**how)
    return figure, FigureCanvasAgg(figure)


def coloured(levels: np.ndarray, name: str) -> np.ndarray:
    """Return levels (H, W) in [0, 1] through a colour map of matplotlib: (H, W, 3) uint8."""
    _import_matplotlib()
    from matplotlib import colormaps
    return colormaps[name](levels, bytes=True)[..., :3].copy()


def to_array(figure: Figure) -> np.ndarray:
    """Return the drawn figure as (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
