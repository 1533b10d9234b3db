"""What a training run is, apart from what it trains: it starts, loops, stops, resumes, recovers.

`run` and `folder` begin a run, `loop` repeats the step of a `task` and keeps it safe, and
`ranked_training` does so on several processes (`distributed`). No networks and losses are here,
and checkpoint files are read and written by `utils.checkpoints`.

A run is one folder that one process at a time may train into. Its state is complete in each
checkpoint, random numbers included, so that a run may be killed at any moment and resumes as if it
had never been. Only the loop and its reporter save and report, so that no task need know of it.
"""
