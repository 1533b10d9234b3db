"""Write synthetic scenes: photographs, masks, cameras and true surface points of analytic objects.

    python experiment_scripts/make_scene.py --output scenes/demo --kind blobs --seed 0

One scene of 49 views at 128x96 takes 5 to 10 s on one core; the folder then has 150 files in the
`processed` format, which `train_sdf_ibr.py --dataset_path scenes/demo --dataset_name dtu` reads.
A set for meta-learning, one folder a scene, the kinds alternating:

    python experiment_scripts/make_scene.py --output scenes/meta --kind all --num_scenes 20
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.scenes import make_scene as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
