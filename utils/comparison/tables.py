"""Metrics of finished runs as one table with means and spreads: Markdown, CSV and JSON."""
from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from utils.comparison.run_lists import ListedRun
from utils.config.tool_sections import RunTableConfig
from utils.files.atomic import write_text_atomic
from utils.files.text import csv_cell, visible
from utils.results.curve import at_time, read_curve
from utils.results.metric_table import METRICS, NOT_AVAILABLE, OF_RUN, baselines_in, number
from utils.results.text_tables import markdown_rows

SECONDS = ("seconds", 1)
LEFT_OUT = ("lpips_release", "ssim_gaussian",
            *(name for name, metric in METRICS.items() if metric.shown == "never"))
HOW = ("A metric is the mean over a run's held-out views. A cell is its mean over seeds, then over "
       "scenes. ± is the standard deviation over seeds (n - 1) of the mean over scenes, of the "
       "seeds that have all scenes; it is left out where there are fewer than two. PSNR at a "
       "number of steps is what was scored then; PSNR at a time is interpolated linearly between "
       "the scores before and after it. Seconds are those of training alone.")
HOW_BASELINES = ("Hull and stereo + colours are baselines without any network: a surface that is "
                 "not trained, in the colours of the training photographs.")


@dataclass(frozen=True)
class Cell:
    """Mean and spread of one metric of one config; None where there is none.

    Attributes:
        mean: over scenes of the mean over seeds.
        spread: standard deviation over seeds of the mean over scenes.
        count: runs that have the metric.
    """

    mean: float | None
    spread: float | None
    count: int


def columns_of(table: RunTableConfig) -> dict[str, tuple[str, int]]:
    """Return title and decimals by name of metric, in the order of the table."""
    found = {name: (metric.title, metric.digits) for name, metric in METRICS.items()
             if name not in LEFT_OUT}
    psnr, digits = found["psnr"]
    found["seconds"] = SECONDS
    found |= {f"psnr_at_step_{step}": (f"{psnr} at {step}", digits) for step in table.at_steps}
    return found | {f"psnr_at_{seconds:g}_s": (f"{psnr} at {seconds:g} s", digits)
                    for seconds in table.at_seconds}


def metrics_of(run: ListedRun, table: RunTableConfig) -> dict[str, float | None] | None:
    """Return all metrics of a finished run by name; None for an unfinished one."""
    metrics = run.metrics()
    if metrics is None:
        return None
    values = {name: number(metrics["mean"].get(name)) for name in METRICS}
    values["seconds"] = number(metrics["train_seconds"])
    curve = read_curve(run.folder / "curve.csv")
    for step in table.at_steps:
        values[f"psnr_at_step_{step}"] = next(
            (psnr for at, _, psnr in curve if at == step), None)
    for seconds in table.at_seconds:
        values[f"psnr_at_{seconds:g}_s"] = at_time(curve, seconds)
    return {name: values[name] for name in columns_of(table)}


def cell_of(values: Mapping[tuple[str, int], float | None], scenes: Sequence[str]) -> Cell:
    """Return mean and spread of one metric.

    Args:
        values: by scene and seed; None or absent where there is none.
        scenes: all that there should be.
    """
    found = {key: value for key, value in values.items() if value is not None}
    if not found:
        return Cell(None, None, 0)
    by_scene = [[value for (at, _), value in found.items() if at == scene] for scene in scenes]
    mean = statistics.fmean(statistics.fmean(group) for group in by_scene if group)
    seeds = dict.fromkeys(seed for _, seed in found)
    by_seed = [statistics.fmean(found[scene, seed] for scene in scenes) for seed in seeds
               if all((scene, seed) in found for scene in scenes)]
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else None
    return Cell(mean, spread, len(found))


@dataclass(frozen=True)
class Table:
    """What is known of all runs.

    Attributes:
        columns: title and decimals by name of metric; those that no run has are left out.
        cells: by config, then by name of metric.
        baselines: the same of image-based rendering without networks, by `baseline_rows`' names.
        counts: finished runs (of a baseline, those that scored it) and all runs, by row.
        metrics: of each run by name, None where it is not finished.
        gaps: unfinished runs, and why.
        machines: what the finished ones ran on.
    """

    columns: dict[str, tuple[str, int]]
    cells: dict[str, dict[str, Cell]]
    baselines: dict[str, dict[str, Cell]]
    counts: dict[str, tuple[int, int]]
    metrics: list[tuple[ListedRun, dict[str, float | None] | None]]
    gaps: dict[str, str]
    machines: tuple[str, ...]

    @property
    def how(self) -> str:
        """Say how the values were made."""
        return f"{HOW} {HOW_BASELINES}" if self.baselines else HOW

    @property
    def rows(self) -> dict[str, dict[str, Cell]]:
        """Return the cells of all rows: configs, then baselines."""
        return self.cells | self.baselines


def gather(runs: Sequence[ListedRun], table: RunTableConfig) -> Table:
    """Read the folders of all runs."""
    metrics = [(run, metrics_of(run, table)) for run in runs]
    columns = {name: column for name, column in columns_of(table).items()
               if name not in OF_RUN or any(row and row[name] is not None for _, row in metrics)}
    scenes = list(dict.fromkeys(run.scene for run in runs))
    baselines, counts = baseline_rows(runs, columns, scenes)
    cells = {}
    for config in dict.fromkeys(run.config for run in runs):
        rows = {(run.scene, run.seed): row for run, row in metrics if run.config == config}
        done = {key: row for key, row in rows.items() if row is not None}
        counts[config] = (len(done), len(rows))
        cells[config] = {name: cell_of({key: row[name] for key, row in done.items()}, scenes)
                         for name in columns}
    gaps = {run.folder.name: run.gap() for run, row in metrics if row is None}
    return Table(columns, cells, baselines, counts, metrics, gaps, _machines(runs))


def baseline_rows(runs: Sequence[ListedRun], columns: Iterable[str], scenes: Sequence[str]
                  ) -> tuple[dict[str, dict[str, Cell]], dict[str, tuple[int, int]]]:
    """Return cells and counts of the baselines that finished runs have scored.

    A baseline depends on views and image size alone: it has one row if all configs that scored it
    have the same, else one for each, which the config's name begins.
    """
    found = {run: baselines_in(run.metrics() or {}) for run in runs}
    cells, counts = {}, {}
    for name in dict.fromkeys(name for one in found.values() for name in one):
        rows, sizes = {}, {}
        for config in dict.fromkeys(run.config for run in runs):
            of_config = {run: one for run, one in found.items() if run.config == config}
            scored = {(run.scene, run.seed): one[name] for run, one in of_config.items()
                      if name in one}
            if scored:
                rows[config] = {column: cell_of({key: one.get(column) for key, one
                                                 in scored.items()}, scenes) for column in columns}
                sizes[config] = len(scored), len(of_config)
        if all(row == next(iter(rows.values())) for row in rows.values()):
            cells[name] = next(iter(rows.values()))
            counts[name] = next(iter(sizes.values()))
        else:
            cells |= {f"{config}: {name}": row for config, row in rows.items()}
            counts |= {f"{config}: {name}": size for config, size in sizes.items()}
    return cells, counts


def _machines(runs: Iterable[ListedRun]) -> tuple[str, ...]:
    """Return device and threads of the finished runs, each once."""
    found = [run.metrics() for run in runs]
    return tuple(dict.fromkeys(f"{one.get('device', 'unknown device')}, {one.get('threads')} "
                               "threads" for one in found if one))


def write_table(runs: Sequence[ListedRun], table: RunTableConfig) -> str:
    """Write table.md, table.csv and table.json, and return the text to print.

    Raises:
        WriteError: a file cannot be written.
    """
    found = gather(runs, table)
    folder = Path(table.output).expanduser()
    text = as_markdown(found)
    contents = {"table.md": text, "table.csv": as_csv(found), "table.json": as_json(found)}
    for name, content in contents.items():
        write_text_atomic(folder / name, content)
    return text + "\nwritten: " + ", ".join(str(folder / name) for name in contents)


def as_markdown(found: Table) -> str:
    """Return a row a config and a baseline; below, what is missing and how the values were made."""
    rows = [["config", "runs", *(title for title, _ in found.columns.values())]]
    for config, cells in found.rows.items():
        done, wanted = found.counts[config]
        rows.append([config, f"{done} of {wanted}", *(
            _cell_text(cells[name], decimals, done)
            for name, (_, decimals) in found.columns.items())])
    lines = [markdown_rows(rows), "", found.how]
    if found.machines:
        lines += ["", "Ran on: " + "; ".join(found.machines) + "."]
    if found.gaps:
        lines += ["", f"Missing, {len(found.gaps)} of {len(found.metrics)} runs:", ""]
        lines += [f"- {visible(name)}: {visible(reason)}" for name, reason in found.gaps.items()]
    return "\n".join(lines) + "\n"


def _cell_text(cell: Cell, decimals: int, num_runs: int) -> str:
    """Return the mean, the spread if any, and the number of runs if some lack the metric."""
    if cell.mean is None:
        return NOT_AVAILABLE
    spread = "" if cell.spread is None else f" ± {cell.spread:.{decimals}f}"
    count = "" if cell.count == num_runs else f" ({cell.count} runs)"
    return f"{cell.mean:.{decimals}f}{spread}{count}"


def as_csv(found: Table) -> str:
    """Return a row a config and a baseline: finished and all runs, mean, spread and count."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["config", "runs", "runs_wanted", *(
        f"{name}{end}" for name in found.columns for end in ("", "_spread", "_count"))])
    for config, cells in found.rows.items():
        values = [value for name in found.columns
                  for value in (cells[name].mean, cells[name].spread, cells[name].count)]
        writer.writerow([csv_cell(config), *found.counts[config],
                         *("" if value is None else value for value in values)])
    return text.getvalue()


def as_json(found: Table) -> str:
    """Return cells by config, metrics by run, gaps, and how the values were made."""
    content = {
        "configs": {config: dict(zip(("runs", "runs_wanted"), found.counts[config]))
                    | {name: asdict(cell) for name, cell in cells.items()}
                    for config, cells in found.cells.items()},
        "baselines": {name: {column: asdict(cell) for column, cell in cells.items()}
                      for name, cells in found.baselines.items()},
        "runs": [{"config": run.config, "scene": run.scene, "seed": run.seed,
                  "folder": run.folder.name, "figures": row,
                  "checkpoint_sha256": (run.last_metrics() or {}).get("checkpoint_sha256", "")}
                 for run, row in found.metrics],
        "missing": found.gaps, "machines": found.machines, "how": found.how}
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
