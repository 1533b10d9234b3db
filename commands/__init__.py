"""What a command line does: read its flags, call a stage, print what it says.

A function here is the main of a script in `experiment_scripts/` and the subcommand of `metanlr` of
the same name, whose help shows the first line of its docstring. Everything is imported inside
functions, so that help and completion do not wait for torch. No loops, losses or schedules.
"""
