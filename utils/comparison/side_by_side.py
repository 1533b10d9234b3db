"""Several finished runs of one scene side by side: a table of metrics and an image grid.

Only what runs leave behind is read (metrics.json, curve.csv, views/), so that no model is needed.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files.images import open_image
from utils.files.limits import MAX_COORDINATE, read_json, short
from utils.results.curve import psnr_by_step
from utils.results.evaluation import file_name
from utils.results.layout import bar_picture, cell_size
from utils.results.metric_table import METRICS, NOT_AVAILABLE, baselines_in, number
from utils.results.pictures import ERROR_BAR, image_grid, save_png
from utils.results.text_tables import format_rows

#: How much longer than the other a picture's side may be, as all cells of the grid are alike.
MAX_ASPECT = 16


@dataclass(frozen=True)
class FinishedRun:
    """What one run left behind.

    Attributes:
        name: of its folder.
        folder: with views/.
        metrics: content of metrics.json.
        psnr_at: steps to held-out PSNR, dB.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    psnr_at: dict[int, float]


def read_run(folder: str | Path) -> FinishedRun:
    """Read the results in a run's folder.

    Raises:
        UserError: they are not there, or cannot be read.
    """
    folder = Path(folder).expanduser()
    try:
        metrics = read_json(folder / "metrics.json", error=UserError)
        _check_types(metrics)
        return FinishedRun(folder.name, folder, metrics, psnr_by_step(folder / "curve.csv"))
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no results of a finished run ({error}); give folders such as "
                        "logs/demo, in which a run has written metrics.json and curve.csv"
                        ) from error


def _check_types(metrics: dict[str, Any]) -> None:
    """Check the types of what is read of metrics.json.

    Raises:
        KeyError: an entry is missing.
        TypeError: one is something else.
    """
    for name in ("mean", "views"):
        if not isinstance(metrics[name], dict):
            raise TypeError(f"'{name}' of metrics.json is {short(metrics[name])}, needed a "
                            "dictionary")
    numbers = {f"mean.{key}": metrics["mean"].get(key) for key in METRICS}
    numbers["train_seconds"] = metrics.get("train_seconds")
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and abs(value) <= MAX_COORDINATE
        if not (value is None or is_number):
            raise TypeError(f"'{name}' of metrics.json is {short(value)}, needed a number")


def compare(runs: Sequence[FinishedRun], labels: Sequence[str] = ()) -> str:
    """Return a table with a column a run: PSNR at the steps that all have, then the last metrics.

    Args:
        runs: of the same scene.
        labels: one a run, _ for a space; none: their names.
    """
    labels = _labels(runs, labels)
    rows = [["held-out", *labels]]
    shared = set.intersection(*(set(run.psnr_at) for run in runs))
    rows += [[f"PSNR after {step} steps", *(f"{run.psnr_at[step]:.2f}" for run in runs)]
             for step in sorted(shared)]
    for key, metric in METRICS.items():
        values = [run.metrics["mean"].get(key) for run in runs]
        if any(value is not None for value in values):
            rows.append([metric.title, *map(metric.text, values)])
    baselines = [baselines_in(run.metrics) for run in runs]
    rows += [[f"PSNR, {name}", *(METRICS["psnr"].text(one.get(name, {}).get("psnr"))
                                 for one in baselines)]
             for name in dict.fromkeys(name for one in baselines for name in one)]
    rows.append(["steps", *(str(run.metrics.get("steps", NOT_AVAILABLE)) for run in runs)])
    seconds = [run.metrics.get("train_seconds") for run in runs]
    rows.append(["training, s", *(NOT_AVAILABLE if value is None else f"{value:.0f}"
                                  for value in seconds)])
    sums = [run.metrics.get("checkpoint_sha256") for run in runs]
    if any(sums):
        rows.append(["checkpoint, sha256", *(str(one)[:12] if one else NOT_AVAILABLE
                                             for one in sums)])
    return format_rows(rows)


def comparison_grid(runs: Sequence[FinishedRun], labels: Sequence[str] = ()) -> np.ndarray:
    """Return an image grid with a row a held-out view.

    It has the view's photograph, then each run's prediction with the error below, and below that
    its PSNR. The colours of the error stand under the photograph.

    Returns:
        (H, W, 3) uint8.
    Raises:
        UserError: the runs have no view in common, or a picture is missing.
    """
    labels = _labels(runs, labels)
    views = [view for view in runs[0].metrics["views"]
             if all(view in run.metrics["views"] for run in runs)]
    if not views:
        raise UserError("the runs have no scored view in common; compare runs of the same scene "
                        "and --test_views")
    rows, row_labels, captions = [], [], []
    for view in views:
        photograph = _picture(runs[0], view, "photograph")
        rows += [[photograph, *(_picture(run, view, "prediction") for run in runs)],
                 [bar_picture(ERROR_BAR, "colours of the error", cell_size([[photograph]])),
                  *(_picture(run, view, "error") for run in runs)]]
        row_labels += [f"view {view}", "error"]
        captions += [[""] * (1 + len(runs)), ["", *(_quality(run, view) for run in runs)]]
    return image_grid(rows, row_labels, ["photograph", *labels], captions=captions)


def _quality(run: FinishedRun, view: str) -> str:
    """Return the PSNR of a run's view as text, '' where metrics.json has none."""
    found = run.metrics["views"][view]
    value = number(found.get("psnr")) if isinstance(found, dict) else None
    return "" if value is None else f"{METRICS['psnr'].text(value)} dB"


def write_comparison(folders: Sequence[str], output: str, labels: Sequence[str] = ()) -> str:
    """Compare runs and write the image grid; return the table and where the grid is."""
    if len(folders) < 2:
        raise UserError(f"--runs has {len(folders)} folders, need two or more to compare")
    runs = [read_run(folder) for folder in folders]
    save_png(output, comparison_grid(runs, labels))
    return f"{compare(runs, labels)}\n\nwritten:\n  {output}"


def _labels(runs: Sequence[FinishedRun], labels: Sequence[str]) -> list[str]:
    """Return a name for each run."""
    if labels and len(labels) != len(runs):
        raise UserError(f"--labels has {len(labels)} names for {len(runs)} runs, need one each")
    return [label.replace("_", " ") for label in labels] or [run.name for run in runs]


def _picture(run: FinishedRun, view: str, kind: str) -> np.ndarray:
    """Read a picture (H, W, 3) uint8 of a run's view."""
    path = run.folder / "views" / f"{file_name(view)}_{kind}.png"
    try:
        with open_image(path, error=UserError) as image:
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise UserError(f"{image.width}x{image.height} pixels, need one side at most "
                                f"{MAX_ASPECT} times the other")
            return np.array(image.convert("RGB"))
    except UserError as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate the run again with "
                        "--test_rt 1") from error
