"""Many runs at once: lists of runs, their execution, and tables of their results.

`run_lists` makes the runs of configs, scenes and seeds, `execution` runs what is not finished,
`tables` sums the results up, `side_by_side` compares finished runs of one scene. All read what runs
leave in their folders and know nothing of training, so that runs of a cluster count like those of
this machine.
"""
