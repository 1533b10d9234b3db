"""Check whether a scene can be trained on, and say what is wrong in plain words.

    python experiment_scripts/check_scene.py scenes/mine

10 to 30 s for 49 views. Prints measurements and findings, each with its cure, and writes an image
grid of cameras, masks and hull. Exit code 0: nothing prevents training (warnings and notes may be
printed); 1: at least one error; 2: the folder could not be read. With --fix OUTPUT, turned or
mirrored images, wrong axes, inverted poses or masks, intrinsics of another size and a wrong order
are undone in a copy, whose check decides the exit code.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.scenes import check_scene as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
