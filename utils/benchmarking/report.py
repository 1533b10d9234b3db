"""What a benchmark's measurements say: ratios, limits of a step, and the table that is printed.

A result is what `experiment_scripts/benchmark.py --json` writes. In `measured`, each job has the
medians of both variants: {"shape_step": {"reference": {"ms": ...}, "fast": {...}}, ...}.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.results.text_tables import format_rows

VARIANTS = ("reference", "fast")
JOBS = ("shape_step", "image_step", "render_frame", "buffers", "sdf_forward", "sdf_gradient",
        "eikonal")
NUM_SDF_POINTS = 100_000          # of the jobs sdf_forward and sdf_gradient
APART = 1e-3                      # between hits of both tracers, object units

#: Medians of one job: variant to quantity ("ms", "peak_mib", "sdf_evaluations", ...) to value.
Medians = Mapping[str, Mapping[str, float]]


def ratios_of(measured: Mapping[str, Medians]) -> dict[str, float]:
    """Return reference over fast of the main quantities; larger is better for fast."""
    def ratio(job: str, key: str = "ms") -> float:
        return measured[job]["reference"][key] / measured[job]["fast"][key]

    return {"shape_step": ratio("shape_step"), "image_step": ratio("image_step"),
            "sdf_evaluations": ratio("shape_step", "sdf_evaluations"), "buffers": ratio("buffers"),
            "peak_memory": ratio("shape_step", "peak_mib"), "render_frame": ratio("render_frame")}


def report(result: Mapping[str, Any]) -> str:
    """Return a benchmark's result as text: machine, table, rates, limits and agreement."""
    rows = [["", "reference", "fast", "ratio"]]
    for job, medians in result["measured"].items():
        rows += _job_rows(job, medians)
    rows.append(["peak memory of a shape step, MiB",
                 *(f"{found['peak_mib']:.0f}"
                   for found in result["measured"]["shape_step"].values()),
                 f"{result['ratios']['peak_memory']:.1f}"])
    for measured in result.get("sweep", []):
        rows += _sweep_rows(measured)
    machine = (f"{result['device']}, {result['threads']} threads, torch {result['torch']}, "
               f"{result['scene']} at {result['resolution']}")
    return "\n".join([machine, format_rows(rows), _rates(result), *_limit_lines(result),
                      _agreement(result["agreement"])])


def _job_rows(job: str, medians: Medians) -> list[list[str]]:
    """Return a job's rows: its time, then its rates and SDF evaluations where it has them."""
    pair = [medians[name] for name in VARIANTS]
    rows = [[f"{job}, ms", *(f"{x['ms']:.1f}" for x in pair),
             f"{pair[0]['ms'] / pair[1]['ms']:.1f}"]]
    if "rays" in pair[0]:
        rows.append(["  evaluations a ray",
                     *(f"{x['sdf_evaluations'] / x['rays']:.2f}" for x in pair), ""])
        rows.append(["  Mrays/s", *(f"{x['rays'] / x['ms'] / 1e3:.3f}" for x in pair), ""])
    if job in ("sdf_forward", "sdf_gradient"):
        rows.append(["  Mpoints/s", *(f"{NUM_SDF_POINTS / x['ms'] / 1e3:.2f}" for x in pair), ""])
    if pair[1].get("sdf_evaluations"):
        rows.append(["  SDF evaluations", *(f"{x['sdf_evaluations']:.3g}" for x in pair),
                     f"{pair[0]['sdf_evaluations'] / pair[1]['sdf_evaluations']:.1f}"])
    return rows


def _sweep_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of one size of the sweep; a dash where the reference was not run."""
    size = f"{measured['views']} views {measured['width']} wide"

    def cells(job: str, key: str) -> list[str]:
        return [f"{measured[job][name][key]:.0f}" if name in measured[job] else "-"
                for name in VARIANTS]

    rows = [[f"{job}, {size}, ms", *cells(job, "ms"), ""] for job in JOBS if job in measured]
    return [*rows, [f"  peak of a shape step, {size}, MiB", *cells("shape_step", "peak_mib"), ""]]


def _rates(result: Mapping[str, Any]) -> str:
    """Return the machine's rates, and the fraction of them that the SDF reaches."""
    return (f"matrix product {result['matmul_flops'] / 1e9:.0f} GFLOP/s; SDF forward "
            f"{result['sdf_points_per_second'] / 1e6:.2f} Mpoints/s = "
            f"{result['sdf_forward_fraction_of_matmul']:.0%} of it; convolution "
            f"{result['conv_flops'] / 1e9:.0f} GFLOP/s")


def _limit_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a line for each kind of step with its operations and the least time they take."""
    return [f"{name} step: {flop[0] / 1e9:.0f} GFLOP of convolutions, {flop[1] / 1e9:.0f} of "
            f"matrix products, at these rates {least:.0f} ms"
            for name, flop, least in step_limits(result)]


def step_limits(result: Mapping[str, Any]) -> Sequence[tuple[str, tuple[float, float], float]]:
    """Return the least time that both kinds of steps can take at the machine's measured rates.

    No step can be faster without doing less: sines, memory and everything else come on top.

    Returns:
        For the shape step and the image step: name, FLOP (of convolutions, of matrix products),
        and their time, ms.
    """
    counts = result["operations"]
    rows = []
    for name in ("shape", "image"):
        flop = counts[f"{name}_conv"], counts[f"{name}_matmul"]
        rows.append((name, flop, (flop[0] / result["conv_flops"]
                                  + flop[1] / result["matmul_flops"]) * 1e3))
    return rows


def _agreement(agreement: Mapping[str, float]) -> str:
    """Return how far both tracers agree."""
    return (f"hits more than {APART:g} apart: {agreement['apart']:.3%} of rays that both call "
            f"hits; hit or miss disagrees: {agreement['disagree']:.3%} of rays, "
            f"{agreement['num_inside']:.0f} of {agreement['rays']:.0f} in the mask's interior, of "
            "which dense sampling finds the fast one wrong in "
            f"{agreement['num_wrong_inside']:.0f}")
