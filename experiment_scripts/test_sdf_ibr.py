"""Evaluate a trained scene: metrics, pictures, mesh, video and report of a checkpoint.

    python experiment_scripts/test_sdf_ibr.py --config_filepath configs/nlrpp_dtu.txt \
        --experiment_name skull --dataset_path DTU/scan65 --checkpoint_path_test CHECKPOINT

Without `--checkpoint_path_test` the run's latest checkpoint is taken. Seconds to minutes; results
are in LOGGING_ROOT/EXPERIMENT_NAME as those of training. `--test_views all` scores every view
that is not trained on.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.runs import evaluate as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
