"""What `--help` and `--help_all` print: flags in groups, those that matter first.

A training script has some 160 flags. `--help` lists the twenty that a first run may need,
`--help_all` all of them, a group for each section, those of the released code without effect last.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from utils.config.flags import Flag
from utils.config.released_flags import flags_of

#: The flags of training scripts that matter first, in the order in which a run asks for them.
MATTER_FIRST = (
    "dataset_path", "experiment_name", "logging_root", "eval_path", "crop_size", "dataset_name",
    "load_im_scale", "test_views", "num_steps", "num_meta_steps", "time_limit", "device",
    "num_threads", "seed", "restart", "init", "checkpoint_img_encoder", "meta_initialization",
    "checkpoint_path_test", "source_views_per_target", "image_batch_size", "target_crop",
    "refine_cameras")
#: A script with no more flags shows them all.
FEW = 25
MATTER, NO_EFFECT = "the flags that matter first", "flags of the released code, without effect"


class HelpAction(argparse.Action):
    """Prints a page and ends the script.

    Args:
        page: returns the text.
    """

    def __init__(self, page: Callable[[], str], **options: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)
        self.page = page

    def __call__(self, *_: Any) -> None:
        """Print the page; exit code 0."""
        print(self.page(), end="")
        sys.exit(0)


def help_page(sections: Iterable[type], add: Callable[[Any, Flag], Any], *, is_whole: bool) -> str:
    """Return the flags of some sections as text, in groups.

    Args:
        sections: classes.
        add: adds a flag to a group of argparse's.
        is_whole: all flags; else the first ones, unless all are few.
    """
    groups = _groups(sections)
    flags = {name: flag for found in groups.values() for name, flag in found.items()}
    num_left = 0
    if not is_whole and len(flags) > FEW:
        shown = {name: flags[name] for name in MATTER_FIRST if name in flags and
                 not flags[name].no_effect}
        groups, num_left = {MATTER: shown}, len(flags) - len(shown)
    page = argparse.ArgumentParser(
        add_help=False, usage=f"{_program()} [--config_filepath FILE] [--FLAG VALUE ...]",
        epilog="Flags may stand in a file too (--config_filepath FILE, lines `key = value`); the "
               "command line takes precedence. "
               + (f"--help_all lists the other {num_left} flags." if num_left else ""))
    for title, found in groups.items():
        group = page.add_argument_group(title)
        for flag in found.values():
            add(group, flag)
    return page.format_help()


def _program() -> str:
    """Return how the script was called; an installed command needs no Python before it."""
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else sys.argv[0]


def _groups(sections: Iterable[type]) -> Mapping[str, dict[str, Flag]]:
    """Return the flags by the title of their section, those without effect last."""
    groups: dict[str, dict[str, Flag]] = {}
    idle: dict[str, Flag] = {}
    for section in sections:
        found = flags_of(section)
        title = (section.__doc__ or section.__name__).partition("\n")[0].rstrip(".")
        groups[title[:1].lower() + title[1:]] = {name: flag for name, flag in found.items()
                                                 if not flag.no_effect}
        idle |= {name: flag for name, flag in found.items() if flag.no_effect}
    return groups | ({NO_EFFECT: idle} if idle else {})
