"""The configuration: flags of command line and config files, typed, checked and saved.

Flags are declared as fields of frozen sections (`sections`, `stage_sections`, `tool_sections`),
those of the released code that change nothing in one table (`released_flags`). `parser` reads the
sections that a script names into a `Config`, `saving` writes one. Defaults live in the sections
alone; data sets differ by files in `configs/`. Nothing writes to a config: what changes over time
is a function of the step in `scheduler.py`. A module is given a section or plain arguments, so that
it says what it depends on.
"""
