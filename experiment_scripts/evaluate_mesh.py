"""Measure a mesh against a scan of the DTU data set by its protocol, or against true points.

    python experiment_scripts/evaluate_mesh.py --mesh logs/skull/mesh.ply \
        --dtu_folder DTU --scan 65

A minute for a mesh of 300,000 triangles. Prints accuracy, completeness and their mean, in mm.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import evaluate_mesh as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
