"""curve.csv: the metrics of a run against its steps, written and read."""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files.atomic import whole_file
from utils.files.limits import MAX_TABLE_BYTES, read_text


def write_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """curve.csv: a row a record, columns in order of appearance."""
    columns = list(dict.fromkeys(key for row in curve for key in row)) or ["step", "seconds"]
    with whole_file(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(curve)
    return path


def read_curve(path: Path) -> list[tuple[int, float, float]]:
    """(step, seconds, PSNR) of the scored rows of a run's curve.csv, finite; none where it is
    absent or damaged."""
    try:
        text = read_text(path, MAX_TABLE_BYTES, error=UserError)
        rows = [(int(row["step"]), float(row["seconds"]), float(row["psnr"]))
                for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("psnr")]
    except (ValueError, KeyError, TypeError, csv.Error):
        return []
    return [row for row in rows if math.isfinite(row[1]) and math.isfinite(row[2])]


def at_time(curve: Sequence[tuple[int, float, float]], seconds: float) -> float | None:
    """PSNR after a training time, between two scores; None outside of them."""
    times, values = [row[1] for row in curve], [row[2] for row in curve]
    if not times or not times[0] <= seconds <= times[-1]:
        return None
    return float(np.interp(seconds, times, values))
