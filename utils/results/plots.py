"""Plots of a run: slices through the SDF, cameras in space, curves of training.

Each function returns the finished plot as (H, W, 3) uint8, ready for `save_png`, a summary or a
report. Figures are drawn without pyplot, so nothing is shared between plots or threads.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from utils.geometry.cameras import Cameras
from utils.results.drawing import new_figure, to_array
from utils.results.layout import label_places
from utils.results.metric_table import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D

DPI = 100
#: Points handed to the SDF at once; small chunks stay in the processor's cache.
SDF_CHUNK = 4096
#: Distance between the contour lines of the SDF, object units.
CONTOUR_STEP = 0.1
#: Contour lines on each side of the surface at most.
NUM_CONTOURS = 20
#: SDF that gets the strongest colour, object units.
SDF_SCALE = 0.9
#: The slices show [-SLICE_EXTENT, SLICE_EXTENT]^2: the unit sphere and a rim, object units.
SLICE_EXTENT = 1.1
#: Of the differences that stand for derivatives, object units: rounding is 1e-7 of its square.
DIFFERENCE_STEP = 0.01
#: Colour map and limits of the gradient's length and of the Laplacian.
DERIVATIVE_LOOKS = (("PuOr", 0.5, 1.5), ("RdBu_r", -20.0, 20.0))
SLICE_TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
#: Length of a drawn camera pyramid as a fraction of the median distance to the origin.
FRUSTUM_LENGTH = 0.15
#: Names and colours of the axes of object space.
AXES = (("x", "#c62828"), ("y", "#2e7d32"), ("z", "#1a237e"))
#: The plot ends at this multiple of the cameras' distances: room for their numbers.
MARGIN = 1.1
#: From this distance on, pixels, a line joins a label to its camera.
FAR_LABEL = 22.0
#: Width of the white rim that keeps a view's number readable on top of lines, points.
LABEL_RIM = 2.5
TRAIN_COLOUR, TEST_COLOUR, OTHER_COLOUR = "#1f6fb4", "#e8710a", "#b0b0b0"
GIVEN_COLOUR = "#c2185b"
#: Above this many seconds the time axis is in minutes.
MINUTES_FROM = 600
#: The sum of all losses of a step, and the loss that every step has.
TOTAL, IMAGE_LOSS = "loss_total", "loss_image"
#: Curves with at most this many points get a marker at each.
MARKERS_UP_TO = 40
LEGEND_COLUMNS = 3


def sdf_slices(sdf: Callable[[Tensor], Tensor], resolution: int = 128, *,
               device: torch.device | str = "cpu") -> np.ndarray:
    """Plot the SDF on the planes x = 0, y = 0 and z = 0 with contour lines; the surface is black.

    Below it stand the length of its gradient, which is 1 for a distance, and its Laplacian, 2 / r
    at distance r from the centre of a sphere; both from differences over DIFFERENCE_STEP.

    Args:
        sdf: (N, 3) object space to (N,), negative inside; called without gradients.
        resolution: points along each side of a slice.
        device: where the points are made.
    Returns:
        (H, W, 3) uint8.
    """
    ticks = torch.linspace(-SLICE_EXTENT, SLICE_EXTENT, resolution, device=device)
    rows, columns = torch.meshgrid(ticks, ticks, indexing="ij")
    figure, _ = new_figure(figsize=(13, 12.6), dpi=DPI, layout="constrained")
    axes, drawn = figure.subplots(3, 3), []
    for column, (right, up, fixed) in enumerate([(2, 1, 0), (0, 2, 1), (0, 1, 2)]):
        points = torch.zeros(resolution, resolution, 3, device=device)
        points[..., right], points[..., up] = columns, rows
        maps = [flat.reshape(resolution, resolution)
                for flat in _derivatives(sdf, points.reshape(-1, 3))]
        edges = ticks.cpu().numpy()
        drawn = [_draw_slice(axes[0, column], edges, maps[0]),
                 *(_draw_derivative(axes[row, column], edges, maps[0], maps[row], look)
                   for row, look in enumerate(DERIVATIVE_LOOKS, start=1))]
        names = "xyz"
        axes[0, column].set(title=f"{names[fixed]} = 0")
        for panel in axes[:, column]:
            panel.set(xlabel=names[right], ylabel=names[up])
    labels = ["SDF, object units (blue inside)", "length of its gradient", "its Laplacian"]
    for row, (filled, label) in enumerate(zip(drawn, labels, strict=True)):
        figure.colorbar(filled, ax=axes[row], label=label, extend="both")
    return to_array(figure)


def camera_plot(cameras: Cameras, train: Sequence[int], test: Sequence[int], title: str = "", *,
                names: tuple[str, str, str] = ("not used", "training", "held-out"),
                given: Cameras | None = None) -> np.ndarray:
    """Plot all cameras around the unit sphere, object space, from the side and from above.

    Args:
        cameras: V cameras.
        train: indices of the training views (blue).
        test: indices of the held-out views (orange); the rest is grey.
        title: a line above all.
        names: in the legend, of the rest and of both groups.
        given: V cameras before they were refined; those of training are drawn under the refined.
    Returns:
        (H, W, 3) uint8.
    """
    chosen = [*train, *test]
    if any(not 0 <= index < len(cameras) for index in chosen):
        raise ValueError(f"views {chosen} of {len(cameras)} cameras; need indices from 0 to "
                         f"{len(cameras) - 1}")
    others = sorted(set(range(len(cameras))) - set(chosen))
    groups = list(zip(names, (others, list(train), list(test)),
                      (OTHER_COLOUR, TRAIN_COLOUR, TEST_COLOUR)))
    figure, _ = new_figure(figsize=(13, 6.4), dpi=DPI, layout="constrained")
    panels = []
    for place, (name, elevation) in enumerate([("from the side", 30), ("from above", 90)], start=1):
        panel = cast("Axes3D", figure.add_subplot(1, 2, place, projection="3d", proj_type="ortho",
                                                computed_zorder=False))
        _draw_cameras(panel, cameras, groups)
        if given is not None:
            _draw_given(panel, cameras, given, list(train))
        panel.view_init(elevation, -50 if place == 1 else -90)
        panel.set_title(name)
        panels.append(panel)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    if title:
        figure.suptitle(title, parse_math=False)
    figure.draw_without_rendering()                        # after it, places in pixels are known
    for panel in panels:
        _draw_names(figure, panel, cameras, groups)
    return to_array(figure)


def curve_plot(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    """Plot losses and PSNR against the step and against the time.

    Args:
        rows: one mapping a logged step with `step`, `seconds` and any of the columns that begin
            with `loss` or `psnr`; numbers or their text. What is empty, None or not finite is
            left out.
    Returns:
        (H, W, 3) uint8.
    """
    seconds = max((finite_number(row.get("seconds")) or 0.0 for row in rows), default=0.0)
    in_minutes = seconds > MINUTES_FROM
    time_label, per_unit = ("time [min]", 60.0) if in_minutes else ("time [s]", 1.0)
    figure, _ = new_figure(figsize=(13, 7.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, 2)
    for line, (prefix, label) in enumerate([("loss", "loss"), ("psnr", METRICS["psnr"].heading)]):
        for column, (key, axis_label, unit) in enumerate(
                [("step", "step", 1.0), ("seconds", time_label, per_unit)]):
            panel = axes[line, column]
            _draw_curves(panel, rows, key, prefix=prefix, unit=unit)
            panel.set(xlabel=axis_label, ylabel=label)
    return to_array(figure)


def _evaluate(sdf: Callable[[Tensor], Tensor], points: Tensor) -> np.ndarray:
    """Return (N,) SDF values of (N, 3) points, in chunks and without gradients."""
    with torch.no_grad():
        return torch.cat([sdf(chunk).float() for chunk in points.split(SDF_CHUNK)]).cpu().numpy()


def _derivatives(sdf: Callable[[Tensor], Tensor],
                 points: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the SDF, the length of its gradient and its Laplacian (N,) at points (N, 3)."""
    middle, square, laplacian = _evaluate(sdf, points), 0.0, 0.0
    for axis in range(3):
        step = torch.zeros(3, device=points.device)
        step[axis] = DIFFERENCE_STEP
        before, after = _evaluate(sdf, points - step), _evaluate(sdf, points + step)
        square += ((after - before) / (2 * DIFFERENCE_STEP)) ** 2
        laplacian += (after - 2 * middle + before) / DIFFERENCE_STEP ** 2
    return middle, np.sqrt(square), np.asarray(laplacian)


def _draw_derivative(panel: Axes, ticks: np.ndarray, values: np.ndarray, derivative: np.ndarray,
                     look: tuple[str, float, float]):
    """Fill one slice with a derivative, the surface as a line; returns what a colour bar needs."""
    colours, low, high = look
    edge = SLICE_EXTENT
    filled = panel.imshow(np.nan_to_num(derivative), cmap=colours, vmin=low, vmax=high,
                          origin="lower", extent=(-edge, edge, -edge, edge))
    values = np.nan_to_num(values)
    if values.min() < 0 < values.max():
        panel.contour(ticks, ticks, values, levels=[0.0], colors="black", linewidths=1)
    panel.set(xticks=SLICE_TICKS, yticks=SLICE_TICKS)
    return filled


def _draw_slice(panel: Axes, ticks: np.ndarray, values: np.ndarray):
    """Fill one slice with colours and contour lines; returns what a colour bar needs."""
    from matplotlib.patches import Circle
    values = np.nan_to_num(values)
    low, high = -SLICE_EXTENT, SLICE_EXTENT
    filled = panel.imshow(values, cmap="RdBu_r", vmin=-SDF_SCALE, vmax=SDF_SCALE, origin="lower",
                          interpolation="bilinear", extent=(low, high, low, high))
    levels = [i * CONTOUR_STEP for i in range(-NUM_CONTOURS, NUM_CONTOURS + 1) if i != 0]
    inside_range = [level for level in levels if values.min() < level < values.max()]
    if inside_range:
        panel.contour(ticks, ticks, values, levels=inside_range, colors="0.35", linewidths=0.5,
                      linestyles="solid")
    if values.min() < 0 < values.max():
        panel.contour(ticks, ticks, values, levels=[0.0], colors="black", linewidths=2)
    else:
        panel.text(0, 0, "no surface on this plane", ha="center", va="center",
                   bbox={"facecolor": "white", "edgecolor": "none"})
    panel.add_patch(Circle((0, 0), 1, fill=False, linestyle="--", color="black", linewidth=1.4))
    panel.set(xticks=SLICE_TICKS, yticks=SLICE_TICKS)
    return filled


def _draw_cameras(panel: Axes3D, cameras: Cameras, groups: Sequence[tuple]) -> None:
    """Draw pyramids of the cameras (dots for the unused), unit sphere and axes."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection
    upright = _upright_frame(cameras)                                                  # (3, 3)
    centers = _numpy(cameras.centers_obj) @ upright.T                                  # (V, 3)
    length = FRUSTUM_LENGTH * float(np.median(np.linalg.norm(centers, axis=-1)))
    corners_ndc = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).to(cameras.view)
    _, dirs = cameras.rays_through(corners_ndc)
    corners = centers[:, None] + length * _numpy(dirs) @ upright.T                     # (V, 4, 3)
    for label, indices, colour in groups:
        if not indices:
            continue
        panel.scatter(*centers[indices].T, color=colour, s=10, zorder=3,
                      label=f"{label} ({len(indices)})")
        if colour == OTHER_COLOUR:
            continue
        lines = [segment for i in indices for segment in _pyramid(centers[i], corners[i])]
        panel.add_collection3d(Line3DCollection(lines, colors=colour, linewidths=1, zorder=2))
    _draw_unit_sphere(panel, upright)
    everything = np.concatenate([MARGIN * centers, corners.reshape(-1, 3), [[-1] * 3, [1] * 3]])
    low, high = everything.min(0), everything.max(0)
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    panel.set_box_aspect(high - low, zoom=1.3)  # pyright: ignore[reportArgumentType]
    panel.set_axis_off()


def _draw_given(panel: Axes3D, cameras: Cameras, given: Cameras, train: list[int]) -> None:
    """Draw where training cameras were before they were refined, and how far each was moved."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection
    upright = _upright_frame(cameras)
    before, after = (_numpy(which.centers_obj)[train] @ upright.T for which in (given, cameras))
    length = FRUSTUM_LENGTH * float(np.median(np.linalg.norm(after, axis=-1)))
    corners_ndc = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).to(given.view)
    corners = before[:, None] + length * _numpy(given.rays_through(corners_ndc)[1])[train] \
        @ upright.T
    lines = [segment for center, four in zip(before, corners, strict=True)
             for segment in _pyramid(center, four)]
    panel.add_collection3d(Line3DCollection(lines, colors=GIVEN_COLOUR, linewidths=1, zorder=1))
    moves = list(np.stack([before, after], 1))
    panel.add_collection3d(Line3DCollection(moves, colors=GIVEN_COLOUR, linewidths=2, zorder=2.5))
    panel.scatter(*before.T, color=GIVEN_COLOUR, s=10, zorder=2.5,
                  label=f"training, as given ({len(train)})")


def _draw_names(figure: Figure, panel: Axes3D, cameras: Cameras, groups: Sequence[tuple]) -> None:
    """Write the numbers of the views and the names of the axes, none over another.

    The figure has been laid out: the panel's projection and place are final.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import IdentityTransform
    upright = _upright_frame(cameras)
    centers = _in_pixels(panel, _numpy(cameras.centers_obj) @ upright.T)              # (V, 2)
    middle, *tips = _in_pixels(panel, np.concatenate([np.zeros((1, 3)), upright.T]))
    named = [(centers[i], str(i), colour) for _, indices, colour in groups
             if colour != OTHER_COLOUR for i in indices]
    radius = max(float(np.linalg.norm(tip - middle)) for tip in tips)
    named += [(tip, name, colour) for tip, (name, colour) in zip(tips, AXES, strict=True)
              if np.linalg.norm(tip - middle) > 0.25 * radius]      # not one that points at us
    if not named:
        return
    points = np.stack([point for point, _, _ in named])
    sizes = np.array([(7.5 * len(text) + 4, 12) for _, text, _ in named])
    rim = withStroke(linewidth=LABEL_RIM, foreground="white")
    places = label_places(points, sizes, centers, middle)
    for (point, text, colour), place in zip(named, places, strict=True):
        if np.linalg.norm(place - point) > FAR_LABEL:
            figure.add_artist(Line2D(*np.stack([point, place]).T, color=colour, linewidth=0.6,
                                     alpha=0.6, transform=IdentityTransform()))
        figure.text(*place, text, color=colour, fontsize=9, ha="center", va="center",
                    transform=IdentityTransform(), path_effects=[rim])


def _in_pixels(panel: Axes3D, points: np.ndarray) -> np.ndarray:
    """Return points (N, 3) of a panel as pixels (N, 2) of its figure, y upwards."""
    from mpl_toolkits.mplot3d.proj3d import proj_transform
    x, y, _ = proj_transform(*points.T, panel.get_proj())
    return panel.transData.transform(np.stack([x, y], -1))


def _upright_frame(cameras: Cameras) -> np.ndarray:
    """Return the rotation from object space to the plot, (3, 3).

    The cameras' mean up direction becomes z, their mean position lies towards -y.

    The space's own axes can point anywhere; so the picture stands as the photographs do.
    """
    to_object = _numpy(torch.linalg.inv(cameras.object_to_camera.double()))
    ups, places = to_object[:, :3, 1], to_object[:, :3, 3]
    up = _unit(ups.mean(0), otherwise=ups[0])
    places = places - (places @ up)[:, None] * up                       # level with the ground
    sideways = np.cross(up, [1.0, 0, 0]) if abs(up[0]) < 0.9 else np.cross(up, [0, 1.0, 0])
    front = _unit(places.mean(0), otherwise=_unit(places[0], otherwise=sideways))
    return np.stack([np.cross(up, front), -front, up])


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the (3,) vector at length 1; where it has next to none, the other one at length 1."""
    if np.linalg.norm(vector) < 1e-3:
        vector = otherwise
    return vector / np.linalg.norm(vector)


def _pyramid(center: np.ndarray, corners: np.ndarray) -> list[np.ndarray]:
    """Return the eight edges (2, 3) of a camera's pyramid from its centre and corners (4, 3)."""
    return ([np.stack([center, corner]) for corner in corners]
            + [np.stack([corners[i], corners[(i + 1) % 4]]) for i in range(4)])


def _draw_unit_sphere(panel: Axes3D, upright: np.ndarray) -> None:
    """Draw the sphere that the object lies in as thin lines, and the axes of object space."""
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    panel.plot_wireframe(np.cos(around) * np.sin(down), np.sin(around) * np.sin(down),
                         np.cos(down), color="0.7", linewidth=0.4)
    for axis, (_, colour) in enumerate(AXES):
        panel.plot(*np.stack([np.zeros(3), upright[:, axis]], -1), color=colour, linewidth=2)


def _draw_curves(panel: Axes, rows: Sequence[Mapping[str, object]], key: str, *, prefix: str,
                 unit: float) -> None:
    """Plot all columns that begin with `prefix` against column `key`, divided by `unit`."""
    drawn = []
    for name, column, kept in curve_series(rows, prefix):
        pairs = [(finite_number(row.get(key)), finite_number(row.get(column))) for row in kept]
        points = [(x / unit, y) for x, y in pairs if x is not None and y is not None]
        if not points:
            continue
        marker = "o" if len(points) <= MARKERS_UP_TO else None
        panel.plot(*zip(*points), label=name, marker=marker, markersize=3.5)
        drawn += [y for _, y in points]
    panel.grid(alpha=0.3)
    if not drawn:
        panel.text(0.5, 0.5, "nothing was logged", ha="center", va="center",
                   transform=panel.transAxes, color="0.4")
        panel.set(xticks=[], yticks=[])
        return
    if prefix == "loss" and min(drawn) > 0 and max(drawn) / min(drawn) > 10:
        panel.set_yscale("log")
    panel.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=8, frameon=False,
                 ncols=LEGEND_COLUMNS, columnspacing=1.0, handlelength=1.5)  # hides no curve


def curve_series(rows: Sequence[Mapping[str, object]], prefix: str) -> list[tuple[str, str, list]]:
    """Return (label, column, rows) of all curves of the columns that begin with `prefix`.

    Steps that train the shape have losses that the others lack: their totals, drawn as one curve,
    would be a saw-tooth.
    """
    names = sorted({name for row in rows for name in row if name.startswith(prefix)})
    curves = [(name.replace("_", " "), name, list(rows)) for name in names if name != TOTAL]
    if TOTAL in names:
        own = [name for name in names if name not in (TOTAL, IMAGE_LOSS)]
        kept = [row for row in rows if finite_number(row.get(TOTAL)) is not None]
        is_shape = [any(finite_number(row.get(name)) is not None for name in own) for row in kept]
        kinds = [("shape steps", list(compress(kept, is_shape))),
                 ("image steps", list(compress(kept, map(not_, is_shape))))]
        kinds = kinds if all(part for _, part in kinds) else [("", kept)]
        curves += [(", ".join(filter(None, ("loss total", kind))), TOTAL, part)
                   for kind, part in kinds]
    return curves


def _numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values as float64."""
    return tensor.detach().double().cpu().numpy()


def finite_number(value: Any) -> float | None:
    """Return a finite number, or None where there is none (empty text, None, NaN, infinity)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
