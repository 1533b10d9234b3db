"""Check weights of the manifest by name, and copy them from another folder.

    python checkpoints/download.py sphere_ours_sine_128x3
    python checkpoints/download.py --list
    python checkpoints/download.py NAME --mirror file:///home/me/weights --output DIR

Files that ship with the project are checked where they lie; --mirror and --output copy, and keep no
file whose size or sum differs. The network is not used. Seconds; a line a file says where it is and
that its sum is right.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.tables import weights as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
