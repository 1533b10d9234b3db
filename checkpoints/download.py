"""Check weights of the manifest by name, and copy them from another folder.

    python checkpoints/download.py sphere_ours_sine_128x3
    python checkpoints/download.py --list
    python checkpoints/download.py NAME --mirror file:///home/me/weights --output DIR

Files that ship with the project are checked where they lie; --mirror and --output copy, and keep no
file whose size or sum differs. The network is not used. Seconds; a line a file says where it is and
that its sum is right.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Parse, find the entries, verify or copy each file, say so."""
    from utils.checkpoints.manifest import describe, find_entry, obtain, read_manifest
    from utils.files.text import show
    from utils.results.text_tables import format_rows

    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files of the manifest")
    parser.add_argument("--mirror", default="", metavar="ADDRESS",
                        help="file address of a folder that has the files")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder that they go to")
    parser.add_argument("--list", action="store_true", help="show the manifest")
    arguments = parser.parse_args(argv)
    if not arguments.names and not arguments.list:
        parser.error("give NAME, or --list for the names")
    entries = read_manifest()
    wanted = [find_entry(entries, name) for name in arguments.names]
    if arguments.list:
        show(format_rows(describe(entries), num_left=4))
    for entry in wanted:
        show(obtain(entry, output=arguments.output, mirror=arguments.mirror))


if __name__ == "__main__":
    run_script(main)
