"""A benchmark's result as ratios, limits and text, of round numbers."""
from __future__ import annotations

import pytest

from utils.benchmarking.report import JOBS, ratios_of, report, step_limits


def measured(jobs=JOBS, names=("reference", "fast")):
    """Medians in which the fast path takes half of everything."""
    values = {name: {"ms": ms, "peak_mib": 10 * ms, "sdf_evaluations": 100 * ms, "rays": 1000}
              for name, ms in (("reference", 80.0), ("fast", 40.0)) if name in names}
    return dict.fromkeys(jobs, values)


@pytest.fixture
def result():
    jobs = measured()
    return {"device": "cpu", "threads": 1, "torch": "2", "scene": "s", "resolution": "8x6",
            "measured": jobs, "ratios": ratios_of(jobs), "matmul_flops": 5e9, "conv_flops": 2e9,
            "operations": {"shape_conv": 4e9, "shape_matmul": 10e9, "image_conv": 1e9,
                           "image_matmul": 0.0},
            "sdf_points_per_second": 2e6, "sdf_forward_fraction_of_matmul": 0.5,
            "agreement": {"apart": 0.01, "disagree": 0.02, "rays": 50, "num_inside": 3,
                          "num_wrong_inside": 1}}


def test_ratios_are_reference_over_fast():
    assert set(ratios_of(measured()).values()) == {2.0}


def test_limits_are_operations_over_rates(result):
    assert step_limits(result) == [("shape", (4e9, 10e9), 4000.0), ("image", (1e9, 0.0), 500.0)]


def test_the_report_has_every_job_and_what_follows(result):
    lines = report(result).splitlines()
    assert lines[0] == "cpu, 1 threads, torch 2, s at 8x6"
    for job in JOBS:
        row = next(line for line in lines if line.startswith(f"{job}, ms"))
        assert row.split()[-3:] == ["80.0", "40.0", "2.0"]
    assert sum("Mpoints/s" in line for line in lines) == 3            # both SDF jobs, and the rates
    assert any("4 GFLOP of convolutions, 10 of matrix products, at these rates 4000 ms" in line
               for line in lines)
    assert lines[-1].startswith("hits more than 0.001 apart: 1.000% of rays")


def test_the_sweep_has_dashes_where_the_reference_was_not_run(result):
    small, large = measured(("shape_step",)), measured(("shape_step",), ("fast",))
    result["sweep"] = [{"width": 100, "views": 7, **small}, {"width": 800, "views": 7, **large}]
    rows = {line[:33]: line.split()[-2:] for line in report(result).splitlines()}
    assert rows["shape_step, 7 views 100 wide, ms "] == ["80", "40"]
    assert rows["shape_step, 7 views 800 wide, ms "] == ["-", "40"]
    assert rows["  peak of a shape step, 7 views 8"] == ["-", "400"]
