"""MetaNLR++: specialise a meta-learned start to one scene, and show how fast it gets good.

    python experiment_scripts/test_sdf_ibr_meta.py \
        --config_filepath configs/nlrpp_dtu_metaspec.txt --experiment_name skull_meta \
        --dataset_path DTU/scan65 --meta_initialization logs/meta/meta_start.pth --time_limit 60

`--num_steps` or `--time_limit` (seconds of training) end it. Results are those of
train_sdf_ibr.py; held-out metrics at steps 0-5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 125, 200 and
then every 100 are in curve.csv and report.html, and their time is not counted. Started again, it
resumes where it stopped. `--meta_initialization` takes the release's files too.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.runs import specialize as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
