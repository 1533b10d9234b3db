"""Make a web page of an exported scene: one file or a folder, which a browser opens by itself.

    python experiment_scripts/export_web.py SCENE page.html

SCENE is what export_scene.py wrote, a folder or a .zip. Takes a second or two. The page needs
WebGL2, no server and no network; a folder instead of a .html file suits web servers.
"""
from __future__ import annotations

import sys
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Parse (scene and page may stand alone), write the page, print its path."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import WebConfig
    from utils.files.text import show

    argv = list(sys.argv[1:] if argv is None else argv)
    plain = list(takewhile(lambda word: not word.startswith("-"), argv))[:2]
    named = [word for pair in zip(("--input", "--output"), plain) for word in pair]
    web = parse_config([WebConfig], named + argv[len(plain):]).web

    from realtime.web_page import write_page

    page = write_page(web.input, web.output, overwrite=bool(web.overwrite))
    show(f"{page}: open it in a browser")


if __name__ == "__main__":
    run_script(main)
