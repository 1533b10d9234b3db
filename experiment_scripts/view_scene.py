"""Show a trained object live: in a browser of this machine, from every side, while it trains too.

    python experiment_scripts/view_scene.py logs/demo

Takes the folder of a run or an exported scene, prints an address and serves it until Ctrl-C. Needs
viser (`pip install viser`). Nobody but this machine can connect, unless --host says otherwise.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.exports import view as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
