"""Measure the fast path against `--tracer reference`, each in its own process, interleaved.

    python experiment_scripts/benchmark.py [--device D] [--resolution 128x96] [--scene DIR]
                                           [--repeats 3] [--sweep 1] [--json FILE]

Prints one table (about 5 minutes on 2 cores, the sweep 12 more); the JSON has the same values and
`ratios` (reference over fast: larger is better). Without --scene a synthetic scene is measured.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Measure what the flags ask for and print the table."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import BenchmarkConfig
    from utils.files.text import show

    config = parse_config([BenchmarkConfig], argv)

    from stages.benchmark import run_benchmark
    from utils.benchmarking.report import report

    show(report(run_benchmark(config.benchmark)))


if __name__ == "__main__":
    run_script(main)
