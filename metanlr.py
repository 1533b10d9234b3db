"""The command `metanlr`, as installed by `pip install .`; `python metanlr.py` is the same.

    metanlr --help
    metanlr train --config_filepath configs/own.txt --dataset_path scenes/mine

Its subcommands are in `commands/command_line.py`. An installation keeps the project's modules in a
folder of their own, which goes first on the path here, so that their names (`utils`, `training`)
are nobody else's.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils.runs.script import run_script


def main() -> None:
    """Run the subcommand of the command line; what the user can fix is one line, exit code 2."""
    run_script(_run)


def _run() -> None:
    """Import what the subcommands need, in the care of `run_script`: a package may be absent."""
    from commands import command_line

    command_line.main()


if __name__ == "__main__":
    main()
