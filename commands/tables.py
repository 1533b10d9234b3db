"""Commands that compare runs, measure speed and look after shipped weights."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path


def compare(argv: list[str] | None = None) -> None:
    """Compare finished runs of one scene in a table and an image grid."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import CompareConfig
    from utils.files.text import show

    settings = parse_config([CompareConfig], argv).compare

    from utils.comparison.side_by_side import write_comparison

    show(write_comparison(settings.runs, settings.comparison, settings.labels))


def table(argv: list[str] | None = None) -> None:
    """Run configs over scenes and seeds; mean and spread of their metrics in a table."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import RunTableConfig
    from utils.files.text import show

    settings = parse_config([RunTableConfig], argv).table

    from utils.comparison.execution import execute
    from utils.comparison.run_lists import command_lines, list_runs
    from utils.comparison.tables import write_table

    runs = list_runs(settings)
    if settings.print_commands:
        show("\n".join(command_lines(runs)))
        return
    num_failed = 0
    try:
        num_failed = 0 if settings.table_only else execute(runs)
    finally:                                      # an interrupt leaves a table too
        show(write_table(runs, settings))
    if num_failed:
        sys.exit(1)


def benchmark(argv: list[str] | None = None) -> None:
    """Measure the fast path against `--tracer reference`, or pictures of exported scenes."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import BenchmarkConfig
    from utils.files.text import show

    config = parse_config([BenchmarkConfig], argv)
    if config.benchmark.render:
        from stages.exporting.frame_times import render_benchmark

        show(render_benchmark(config.benchmark))
        return

    from stages.benchmark import run_benchmark
    from utils.benchmarking.report import report

    show(report(run_benchmark(config.benchmark)))


def evaluate_mesh(argv: list[str] | None = None) -> None:
    """Measure a mesh against a scan of the DTU data set, or against true points."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import EvaluateMeshConfig
    from utils.files.text import show

    settings = parse_config([EvaluateMeshConfig], argv).evaluate_mesh

    from stages import mesh_evaluation

    show(mesh_evaluation.evaluate_mesh(settings))


def measure_gpu(argv: list[str] | None = None) -> None:
    """Measure what a GPU is worth, and print the page of figures."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import GpuConfig
    from utils.files.text import show

    config = parse_config([GpuConfig], argv)

    from stages.gpu_figures import measuring

    page = measuring.measure_gpu(config.gpu)
    show(page.read_text(encoding="utf-8") + f"\nwritten: {page.parent}")


def weights(argv: list[str] | None = None) -> None:
    """List and check the shipped weights, and copy them to another folder."""
    from utils.checkpoints.manifest import describe, find_entry, obtain, read_manifest
    from utils.files.text import show
    from utils.results.text_tables import format_rows

    parser = argparse.ArgumentParser(description="List and check the shipped weights, and copy "
                                                 "them to another folder; no network is used.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="files of the manifest")
    parser.add_argument("--mirror", default="", metavar="ADDRESS",
                        help="file address of a folder that has the files")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder that they go to")
    parser.add_argument("--list", action="store_true", help="show the manifest")
    arguments = parser.parse_args(argv)
    if not arguments.names and not arguments.list:
        parser.error("give NAME, or --list for the names")
    entries = read_manifest()
    wanted = [find_entry(entries, name) for name in arguments.names]
    if arguments.list:
        show(format_rows(describe(entries), num_left=4))
    for entry in wanted:
        show(obtain(entry, output=arguments.output, mirror=arguments.mirror,
                    check=_check_networks))


def _check_networks(path: Path) -> None:
    """Raise CheckpointError for a file that holds no networks."""
    from utils.checkpoints.checkpoint import open_checkpoint

    _ = open_checkpoint(path).networks
