"""Compare finished runs of one scene side by side, in a table and an image grid.

    python experiment_scripts/compare_runs.py --runs logs/demo logs/demo_meta \
        --labels from_scratch meta-learned --comparison logs/comparison.png

Takes a second. The runs must have been evaluated (metrics.json, curve.csv and views/ are read).
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import compare as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
