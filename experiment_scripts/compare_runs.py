"""Compare finished runs of one scene side by side, in a table and an image grid.

    python experiment_scripts/compare_runs.py --runs logs/demo logs/demo_meta \
        --labels from_scratch meta-learned --comparison logs/comparison.png

Takes a second. The runs must have been evaluated (metrics.json, curve.csv and views/ are read).
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Parse, compare, write."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import CompareConfig
    from utils.files.text import show

    compare = parse_config([CompareConfig], argv).compare

    from utils.comparison.side_by_side import write_comparison

    show(write_comparison(compare.runs, compare.comparison, compare.labels))


if __name__ == "__main__":
    run_script(main)
