"""Measuring variants of the same work: harness, counters and report.

`variants` runs each variant in its own process, so that neither its allocator settings nor its
peak of memory touch another's, and interleaves the runs, as a machine's speed drifts within
minutes. `point_counts` counts SDF evaluations from outside, so that no code that trains carries
counters. `report` turns the medians into ratios, limits and a table; what the jobs do is in
`stages/benchmark.py`. `parts` runs unlike measurements in turn, each within its time, and
`figures_page` shows them; what they measure is in `stages/gpu_figures/`.
"""
