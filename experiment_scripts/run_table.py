"""Run configs over scenes and seeds, and put mean and spread of their metrics into one table.

    python experiment_scripts/run_table.py --configs configs/nlrpp_dtu.txt \
        configs/ablation_features_mean.txt --scenes DTU/scan65 DTU/scan37 --seeds 0 1 2 \
        --num_steps 400 --at_steps 10 30 100 300 --output tables/blending

Each run takes as long as train_sdf_ibr.py with its config. Started again, finished runs are skipped
and the others resume. OUTPUT gets table.md, table.csv, table.json, and a folder runs. A run
that fails is named, and the exit code is 1. `--print_commands` prints a command for each run that
is not finished, for a scheduler; `--table_only` makes the table of what is finished.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import table as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
