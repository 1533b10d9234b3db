"""A configuration as plain values for checkpoints, and as a file that gives it back."""
from __future__ import annotations

import os
from typing import Any

from utils.config.flag_text import as_text
from utils.config.flags import Flag
from utils.config.parser import SECTION_OF, Config
from utils.config.released_flags import flags_of
from utils.files.atomic import write_text_atomic


def config_to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Return the config as plain dicts, lists, strings and numbers, for checkpoints and JSON.

    Returns:
        Section name to flag name to value; flags without effect are among them.
    """
    found = {}
    for attribute, section in SECTION_OF.items():
        values = getattr(config, attribute)
        if values is not None:
            found[attribute] = {name: _plain(config.without_effect.get(name, flag.default)
                                             if flag.no_effect else getattr(values, name))
                                for name, flag in flags_of(section).items()}
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Write every value to a file, so that `--config_filepath path` gives the same config.

    Args:
        config: what to write.
        path: the file; replaced in one go.
    """
    lines = ["# Every value of this run; start another with --config_filepath THIS_FILE."]
    for attribute, values in config_to_dict(config).items():
        flags = flags_of(SECTION_OF[attribute])
        lines += ["", f"# {attribute}"]
        lines += [_line(flags[name], value) for name, value in values.items()]
    write_text_atomic(path, "\n".join(lines) + "\n")


def _line(flag: Flag, value: Any) -> str:
    """Return a flag's line; one without effect is a comment, so that reading it does not warn."""
    is_idle = flag.no_effect and value == flag.default
    return f"{'# ' if is_idle else ''}{flag.name} = {as_text(value)}"
