"""Make a web page of an exported scene: one file or a folder, which a browser opens by itself.

    python experiment_scripts/export_web.py SCENE page.html

SCENE is what export_scene.py wrote, a folder or a .zip. Takes a second or two. The page needs
WebGL2, no server and no network; a folder instead of a .html file suits web servers.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.exports import web_page as main
from utils.runs.script import run_script

if __name__ == "__main__":
    run_script(main)
