"""Resident memory of a process over its work: rows, slope, picture."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MIB = 2 ** 20
ROOT = Path(__file__).resolve().parents[2]


def resident_bytes() -> int:
    """Memory of this process that is in RAM, its share of files left out."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def growth(counts: Sequence[float], sizes: Sequence[float], first: float,
           window: float) -> float:
    """Growth of the size a count, of the least size in each window from count `first` on.

    Checkpoints, scores and malloc's own stock lift the size for a while and give it back: what is
    lost for good lifts its floor.
    """
    counts, sizes = np.asarray(counts, float), np.asarray(sizes, float)
    number = (counts - first) // window
    windows = [n for n in range(int(number.max()) + 1) if (number == n).any()]
    floors = [sizes[number == n].min() for n in windows]
    return float(np.polyfit(np.array(windows) * window, floors, 1)[0])


def plots_folder() -> Path:
    """Where pictures go: TRUST_FOLDER, else logs/trust."""
    folder = Path(os.environ.get("TRUST_FOLDER", ROOT / "logs" / "trust"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def draw(path: Path, counts: Sequence[float], sizes: dict[str, Sequence[float]], *,
         first: float, xlabel: str, title: str) -> None:
    """Curves of bytes against counts, as a PNG; what comes before `first` is shaded.

    Args:
        sizes: curves by name, in bytes.
    """
    figure = Figure(figsize=(10, 5), dpi=100, layout="constrained")
    panel = figure.subplots()
    for name, values in sizes.items():
        panel.plot(counts, np.asarray(values, float) / MIB, label=name, linewidth=1.2)
    panel.axvspan(min(counts), first, color="0.9", label="warm-up, not judged")
    panel.set(xlabel=xlabel, ylabel="memory [MiB]", title=title, ylim=(0, None),
              xlim=(min(counts), max(counts)))
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right")
    FigureCanvasAgg(figure).print_png(str(path))
