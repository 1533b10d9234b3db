"""Export a finished run as a small file that is shown in real time (docs/realtime.md).

    python experiment_scripts/export_scene.py --config_filepath logs/demo/config.txt \
        --output demo.zip

Takes the run's latest checkpoint, or `--checkpoint_path_test`. Some minutes on 2 cores; writes a
folder, or an archive if the name ends in .zip, and prints what each step costs in PSNR, SSIM and
LPIPS. docs/scene_format.md describes the files.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.exports import export as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
