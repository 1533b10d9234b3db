"""Train NLR++ on one scene and write its pictures, mesh, video, metrics and report.

    python experiment_scripts/train_sdf_ibr.py --config_filepath configs/nlrpp_dtu.txt \
        --experiment_name skull --dataset_path DTU/scan65 --num_steps 400

Started again, it resumes where it stopped; `--restart 1` starts afresh. All results are in
LOGGING_ROOT/EXPERIMENT_NAME, report.html first. With `--config_filepath configs/fit_sphere.txt`
it fits the sphere that scenes start from instead, and puts it into assets/base.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.runs import train as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
