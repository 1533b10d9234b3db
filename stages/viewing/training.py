"""The training of a run in a window: how far it is, pause and resume, curves of loss and PSNR."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.viewing.subjects import Rows, is_run
from utils.results.metric_table import METRICS
from utils.results.plots import curve_series, finite_number
from utils.runs.stopping import is_paused, is_training, set_paused

Guard = Callable[[Callable[[], None]], Callable[[Any], None]]
PAUSE, RESUME = "Pause training", "Resume training"
#: Of the lines, in their order.
COLOURS = ("#2563eb", "#b45309")
#: uPlot's name of a logarithmic axis, and from which ratio of values on it is used.
LOGARITHMIC, LOGARITHMIC_FROM = 3, 10.0
PLOT_ASPECT = 2.0


class TrainingPanel:
    """Controls and curves in a window's panel.

    Args:
        gui: of the window.
        folder: of the run.
        guarded: makes a callback show what the user can fix.
    """

    def __init__(self, gui: Any, folder: Path, guarded: Guard) -> None:
        self.gui, self.folder = gui, folder
        self.place = gui.add_folder("Training")
        with self.place:
            self.status = gui.add_text("State", "", disabled=True)
            self.button = gui.add_button(PAUSE)
            self.button.on_click(guarded(self.turn))
        self.plots: list[Any] = []

    def turn(self) -> None:
        """Pause the training, or let it go on."""
        set_paused(self.folder, not is_paused(self.folder))
        self.look()

    def look(self) -> None:
        """Show the state as it is now."""
        is_running, waits = is_training(self.folder), is_paused(self.folder)
        self.status.value = "not training" if not is_running else \
            "paused, or about to: its step is finished and saved" if waits else "training"
        self.button.visible = is_running
        self.button.label = RESUME if waits else PAUSE

    def show(self, rows: Rows) -> None:
        """Draw the curves of a run anew, and its state."""
        self.look()
        for plot in self.plots:
            plot.remove()
        psnr = METRICS["psnr"].heading
        with self.place:
            self.plots = [self._plot(lines, title) for title, lines in (
                ("loss", loss_lines(rows)), (psnr, score_lines(rows, psnr))) if lines]

    def _plot(self, lines: Mapping[str, np.ndarray], title: str) -> Any:
        """Draw lines (N, 2) of steps and values by their names."""
        data = aligned(lines)
        values = np.concatenate(data[1:])
        is_log = values.min() > 0 and values.max() / values.min() > LOGARITHMIC_FROM
        return self.gui.add_uplot(
            data, ({"label": "step"}, *(
                {"label": name, "stroke": colour, "width": 2}
                for name, colour in zip(lines, COLOURS))),
            title=title, aspect=PLOT_ASPECT, legend={"live": False},
            scales={"x": {"time": False}, "y": {"distr": LOGARITHMIC} if is_log else {}})


def training_panel(gui: Any, path: str, guarded: Guard) -> TrainingPanel | None:
    """Return the panel of a run; None where something else is shown."""
    folder = Path(path).expanduser().resolve()
    return TrainingPanel(gui, folder, guarded) if is_run(folder) else None


def loss_lines(rows: Rows) -> dict[str, np.ndarray]:
    """Return the total loss, of shape steps and of image steps, as (N, 2) of steps and values."""
    found = {}
    for label, column, kept in curve_series(rows, "loss"):
        if column == "loss_total":
            found[label.removeprefix("loss total, ")] = _points(kept, column)
    return {label: points for label, points in found.items() if len(points)}


def score_lines(rows: Rows, label: str) -> dict[str, np.ndarray]:
    """Return the PSNR of held-out views as (N, 2) of steps and dB, under a name."""
    points = _points(rows, "psnr")
    return {label: points} if len(points) else {}


def _points(rows: Rows, column: str) -> np.ndarray:
    """Return steps and values (N, 2) of a column where both are finite."""
    pairs = [(finite_number(row.get("step")), finite_number(row.get(column))) for row in rows]
    return np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)


def aligned(lines: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return all steps, and each line's values at them, linear between its own."""
    steps = np.unique(np.concatenate([points[:, 0] for points in lines.values()]))
    return steps, *(np.interp(steps, points[:, 0], points[:, 1]) for points in lines.values())
