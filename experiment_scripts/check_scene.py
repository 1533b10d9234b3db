"""Check whether a scene can be trained on, and say what is wrong in plain words.

    python experiment_scripts/check_scene.py scenes/mine

10 to 30 s for 49 views. Prints measurements and findings, each with its cure, and writes an image
grid of cameras, masks and hull. Exit code 0: nothing prevents training (warnings and notes may be
printed); 1: at least one error; 2: the folder could not be read.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Parse (the folder may stand alone), check, print."""
    from utils.config.parser import parse_config
    from utils.config.sections import DataConfig
    from utils.config.tool_sections import CheckConfig
    from utils.files.text import show

    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--dataset_path")
    config = parse_config([DataConfig, CheckConfig], argv)

    from data_processing.checks.sheet import check_folder, check_text

    result, path = check_folder(config.data, config.check)
    show(f"{check_text(result)}picture: {path}")
    if result.has_errors:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
