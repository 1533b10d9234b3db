"""Meta-learn a start for all scenes of a folder, by Reptile or first-order MAML.

    python experiment_scripts/train_sdf_ibr_meta.py --config_filepath configs/nlrpp_dtu_meta.txt \
        --experiment_name meta --dataset_path DTU/meta

DATASET_PATH holds a folder for each scene, of any formats and sizes. An outer step is 64 steps on
one scene (about 50 s at 64x48 on one core). LOGGING_ROOT/EXPERIMENT_NAME/meta_start.pth is for
test_sdf_ibr_meta.py. Started again, it resumes. Several processes share each meta-batch:

    python -m utils.launch 4 experiment_scripts/train_sdf_ibr_meta.py ... --meta_batch_size 4
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.runs import meta_train as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
