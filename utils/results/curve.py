"""curve.csv, a run's losses and held-out metrics against its steps: one writer, all readers.

A row has the step, the seconds of training until then, and what was logged or scored at it.
"""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files.atomic import write_text_atomic
from utils.files.limits import MAX_TABLE_BYTES, read_text
from utils.files.text import csv_cell


def write_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write a row a record, columns in order of appearance.

    Args:
        curve: step, seconds and other columns by name; a record may lack some.
        path: of the file.
    Returns:
        the path.
    Raises:
        WriteError: it cannot be written.
    """
    columns = list(dict.fromkeys(key for row in curve for key in row)) or ["step", "seconds"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([csv_cell(column) for column in columns])
    writer.writerows([csv_cell(row.get(column, "")) for column in columns] for row in curve)
    write_text_atomic(path, text.getvalue())
    return path


def read_curve(path: Path) -> list[tuple[int, float, float]]:
    """Return (step, seconds, PSNR) of the scored rows, those that are finite.

    A file that is absent or damaged has none.
    """
    try:
        rows = [(int(row["step"]), float(row["seconds"]), float(row["psnr"]))
                for row in _scored_rows(path)]
    except (ValueError, KeyError, TypeError, csv.Error):
        return []
    return [row for row in rows if math.isfinite(row[1]) and math.isfinite(row[2])]


def psnr_by_step(path: Path) -> dict[int, float]:
    """Return held-out PSNR in dB by step, of the scored rows.

    Raises:
        UserError: the file is absent, too long, no table, or has a cell that is no number.
    """
    try:
        return {int(row["step"]): float(row["psnr"]) for row in _scored_rows(path)}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: need a table with the columns step and psnr ({error}); evaluate "
                        "the run again") from error


def at_time(curve: Sequence[tuple[int, float, float]], seconds: float) -> float | None:
    """Return the PSNR after a training time, linear between two scores; None outside of them.

    Args:
        curve: as `read_curve` gives it.
    """
    times, values = [row[1] for row in curve], [row[2] for row in curve]
    if not times or not times[0] <= seconds <= times[-1]:
        return None
    return float(np.interp(seconds, times, values))


def _scored_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows at which held-out views were scored, as text by column.

    Raises:
        UserError: the file cannot be read.
        csv.Error: it is no table.
    """
    text = read_text(path, MAX_TABLE_BYTES, error=UserError)
    return [row for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("psnr")]
