"""What a run shows: metrics, curves, pictures, plots, video and the report, and their files.

Everything here takes tensors, arrays and numbers: no network, no renderer and no run's flags, so
that tables and pages of finished runs can be made without a model. `metric_table` names the
metrics once for all tables, reports and plots; `curve` alone writes and reads curve.csv;
`text_tables` aligns all printed tables.

Which results a run writes, and from what, is `stages.results`. Comparisons of several runs are in
`utils.comparison`.
"""
