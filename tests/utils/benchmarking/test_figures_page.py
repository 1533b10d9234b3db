"""The page of a GPU's figures: each part's table, and what stands where figures are lacking."""
from __future__ import annotations

from utils.benchmarking.figures_page import TABLES, figures_page

FACTS = {"device": "A GPU", "date": "2026-01-02", "command": "measure_gpu.py --minutes 9",
         "revision": "abc", "torch": "2.11"}
CURVE = [{"seconds": 0.0, "step": 0, "psnr": 15.0}, {"seconds": 4.5, "step": 90, "psnr": 25.5}]
FIGURES = {
    "environment": FACTS,
    "tests": {"kernel, sphere": {"apart": 0.0, "fused_ms": 1.25}, "steps": {"losses": [1, 2]},
              "tracer": {"failed": "Traceback\n  line\nRuntimeError: no\n"},
              "seconds": 60.0, "ended": "in time"},
    "quality": {"seconds_of_first_steps": 7.5, "from scratch": {"failed": "OutOfMemoryError: x"},
                "shipped start": {"resolution": "800x600", "curve": CURVE,
                                  "seconds_to": {"25 dB": 4.5, "30 dB": None},
                                  "steps_per_second": 20.0}, "ended": "cut off", "seconds": 9.0},
    "render": {"800x600": {"frames_per_second": 61.0, "stages_ms": {"trace": 2.0}},
               "weights": "trained"},
    "profile": {"shape step": {"ms": 30.0, "kernels": [{"name": "a|b", "calls": 3, "ms": 1.5}]}}}


def test_tables_have_the_figures():
    page = figures_page(FIGURES)
    lines = page.splitlines()
    assert lines[0] == "# A GPU, 2026-01-02" and "revision abc, torch 2.11" in lines
    assert "cut off, 9.0 s" in lines
    row = next(line for line in lines if line.startswith("| shipped start"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "shipped start", "800x600", "4.5", "-", "20", "90", "4.5", "25.5"]
    assert "seconds_of_first_steps: 7.5" in lines and "from scratch: OutOfMemoryError: x" in lines
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert ["kernel, sphere: fused_ms", "1.25"] in cells
    assert ["tracer: failed", "RuntimeError: no"] in cells
    assert ["steps: losses", "2 rows in figures.json"] in cells
    assert ["", "frames_per_second", "stages_ms: trace"] in cells
    assert ["800x600", "61", "2"] in cells
    assert r"`a\|b`" in page and "weights: trained" in page
    assert "## speed" not in page and "## meta" not in page


def test_a_part_that_left_nothing_is_told():
    for name in TABLES:
        page = figures_page({"environment": FACTS, name: {"ended": "left out", "seconds": 0.0}})
        assert f"## {name}" in page and "left out, 0.0 s" in page
