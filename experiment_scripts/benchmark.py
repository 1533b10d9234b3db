"""Measure the fast path against `--tracer reference`, each in its own process, interleaved.

    python experiment_scripts/benchmark.py [--device D] [--resolution 128x96] [--scene DIR]
                                           [--repeats 3] [--sweep 1] [--json FILE]
    python experiment_scripts/benchmark.py --render 1 [--repeats 9] [--scene DIR] [--json FILE]

Prints one table (about 5 minutes on 2 cores, the sweep 12 more); the JSON has the same values and
`ratios` (reference over fast: larger is better). Without --scene a synthetic scene is measured.
`--render 1` measures pictures of exported scenes instead (about 3 minutes).
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import benchmark as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
