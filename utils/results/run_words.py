"""What metrics.json says of a run, in sentences, for the report."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from utils.results.metric_table import METRICS, NOT_AVAILABLE, baselines_in, number

#: Entries of metrics.json that the sentences or the table of the report say.
SAID = ("mean", "views", "baselines", "steps", "train_seconds", "device", "threads", "seed",
        "chamfer", "chamfer_unit", "skipped_steps", "notices")
#: What the parts of the distance to the true surface mean.
DISTANCES = {"accuracy": "from the mesh to the true points",
             "completeness": "from the true points to the mesh"}


def run_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences on how a run was trained, how good its surface is, and what went wrong."""
    sentences = [_training(metrics), _quality(metrics), _distance(metrics)]
    skipped = number(metrics.get("skipped_steps"))
    if skipped:
        what = "One step was" if skipped == 1 else f"{skipped:.0f} steps were"
        sentences.append(f"{what} skipped, as a loss or a gradient was not finite.")
    notices = metrics.get("notices")
    if isinstance(notices, Sequence) and not isinstance(notices, str):
        sentences += [str(notice) for notice in notices]
    return [sentence for sentence in sentences if sentence]


def other_facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return what the sentences leave out, as text by name."""
    return {key.replace("_", " "): fact(value) for key, value in metrics.items()
            if key not in SAID}


def duration(seconds: float) -> str:
    """Return a time as text, above two minutes also in minutes."""
    minutes = f" ({seconds / 60:.1f} min)" if seconds >= 120 else ""
    return f"{seconds:.1f} s{minutes}"


def fact(value: object) -> str:
    """Return a value of metrics.json as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {fact(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(fact, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else NOT_AVAILABLE
    return NOT_AVAILABLE if value is None else str(value)


def curve_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what the curves of a run show: their first and last values."""
    words = []
    for key, title, form in (("loss_total", "the total loss", "{:.3g}"),
                             ("psnr", "the held-out PSNR", "{:.2f} dB")):
        values = [value for value in (number(_as_float(row.get(key))) for row in rows)
                  if value is not None]
        if values:
            words.append(f"{title} goes from {form.format(values[0])} to "
                         f"{form.format(values[-1])}")
    last = rows[-1].get("step", "") if rows else ""
    return f"Curves up to step {last}: {', '.join(words) or 'nothing was logged'}"


def _as_float(value: Any) -> float | None:
    """Return a number or its text as a float, None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _training(metrics: Mapping[str, Any]) -> str:
    """Return how long a run was trained, and where; '' where that is not known."""
    steps, seconds = number(metrics.get("steps")), number(metrics.get("train_seconds"))
    if steps is None:
        return ""
    text = f"Trained for {steps:.0f} step{'s' * (steps != 1)}"
    text += f" in {duration(seconds)}" if seconds is not None else ""
    device, threads, seed = (metrics.get(name) for name in ("device", "threads", "seed"))
    if device:
        text += " on the CPU" if device == "cpu" else f" on {device}"
    if device == "cpu" and isinstance(threads, int):
        text += f", {threads} thread{'s' * (threads != 1)}"
    return text + (f", seed {seed}." if seed is not None else ".")


def _quality(metrics: Mapping[str, Any]) -> str:
    """Return how near the pictures are to the photographs, beside the best baseline; '' if unknown.
    """
    mean, views = metrics.get("mean") or {}, metrics.get("views") or {}
    psnr = number(mean.get("psnr")) if isinstance(mean, Mapping) else None
    if psnr is None or not views:
        return ""
    what = "one view" if len(views) == 1 else f"{len(views)} views"
    text = f"Its pictures of {what} reach {METRICS['psnr'].text(psnr)} dB PSNR against the " \
           "photographs (more is better)"
    known = {name: found["psnr"] for name, found in baselines_in(metrics).items()
             if found["psnr"] is not None}
    if known:
        best = max(known, key=lambda name: known[name] or 0.0)
        text += f"; without a network, {best} reaches {METRICS['psnr'].text(known[best])} dB"
    return text + "."


def _distance(metrics: Mapping[str, Any]) -> str:
    """Return the distance of the mesh to the true surface; '' where there is none."""
    found = metrics.get("chamfer")
    if not isinstance(found, Mapping):
        return ""
    unit = metrics.get("chamfer_unit", "units")
    mean = f"{METRICS['chamfer'].text(number(found.get('mean')))} {unit} on average"
    parts = [f"{METRICS['chamfer'].text(number(found[name]))} {meaning}"
             for name, meaning in DISTANCES.items() if number(found.get(name)) is not None]
    others = [f"{name.replace('_', ' ')} {fact(value)}" for name, value in found.items()
              if name not in (*DISTANCES, "mean", "normal_degrees") and value is not None]
    degrees = number(found.get("normal_degrees"))
    if degrees is not None:
        others.append(f"its normals are {degrees:.1f} degrees off, on average")
    return f"Distance of the mesh to the true surface: {'; '.join([mean, *parts, *others])}."
