"""Measure what a GPU is worth: correctness, PSNR over seconds, frames, options, profile, weights.

    python experiment_scripts/measure_gpu.py --output DIR --minutes 9 --scene DTU/scan65

Parts are measured in order of worth, each within its share of the time and in a process of its
own; `--part quality` measures one of them. All that is found is saved as it comes: figures.json,
figures.md (tables for docs/benchmarks.md), trained weights, pictures and logs, under 60 MB in all.
`--device cpu --minutes 1` tries the same at 32x24.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import measure_gpu as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
