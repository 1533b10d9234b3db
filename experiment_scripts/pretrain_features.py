"""Pre-train encoder and decoder on image pairs with optical flow.

    python experiment_scripts/pretrain_features.py --experiment_name X --batch_size N \
        --dataset_path FLYINGCHAIRS2/train --eval_path FLYINGCHAIRS2/val

Without `--dataset_path`, or with `made`, pairs are made while it runs: no download is needed.
LOGGING_ROOT/X/encdec.pth then starts `train_sdf_ibr.py --checkpoint_img_encoder`; metrics.json has
the held-out pairs' PSNR before and after. Several processes share each batch:

    python -m utils.launch 2 experiment_scripts/pretrain_features.py --experiment_name X
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.runs import pretrain as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
