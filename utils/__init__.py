"""What the method stands on: geometry, views, configuration, files, checkpoints, runs, results.

Each subject is a package; no module here imports the method's networks, losses or stages. `fast`
holds faster twins of the reference code and is imported at a few doors only: without it, `--tracer
reference` still runs. `errors`, `paths`, `devices` and `processors` belong to no subject and are
used everywhere.
"""
