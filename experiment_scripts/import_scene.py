"""Import photographs as a scene folder: recognise, undistort, mask, normalise, check, write.

    python experiment_scripts/import_scene.py --input CAPTURE --output scenes/mine

CAPTURE is a folder with transforms.json (nerfstudio, instant-ngp), a COLMAP model, Middlebury's
*_par.txt, Polycam's raw export, Metashape's XML, LLFF's poses_bounds.npy, matrices as text, a scene
of IDR, NeuS or the processed format, or plain photographs (pip install pycolmap). 20 to 60 s for 50
views with cameras; 2 to 5 minutes for 49 plain photographs. The folder then has report.txt and
check.png beside the scene; train on it with --dataset_path scenes/mine. Exit code as of
check_scene.py: 1 where the scene is written but cannot be trained on.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.scenes import import_capture as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
