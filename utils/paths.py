"""The folder of the project; no other module counts folders upwards."""
from __future__ import annotations

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def here_or_in_project(path: str | os.PathLike) -> Path:
    """Return where a file is looked for: where you are, else in the project if it is there.

    So configs and shipped weights have one name, wherever a command is started.
    """
    in_project = PROJECT_ROOT / path
    is_shipped = not os.path.exists(path) and os.path.isfile(in_project)
    return in_project if is_shipped else Path(path)
