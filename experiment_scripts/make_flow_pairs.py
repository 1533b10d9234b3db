"""Write synthetic image pairs with exact optical flow and occlusion, named as in FlyingChairs2.

    python experiment_scripts/make_flow_pairs.py --output pairs/train --num_pairs 100 \
        --resolution 512x384

About 1 s a pair of 512x384 on one core, 8 files each, which `pretrain_features.py --dataset_path
pairs/train` reads. Started again it resumes. `--pictures DIR` cuts the textures out of
pictures; pre-training also renders such pairs by itself while it runs.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.scenes import make_flow_pairs as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
