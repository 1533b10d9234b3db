"""What a user types for a command: its script, or a subcommand of `metanlr`."""
from __future__ import annotations

import sys
from pathlib import Path

from utils.paths import PROJECT_ROOT

#: Subcommands of `metanlr`, each with the script that does the same.
SCRIPT_OF = {
    "make-scene": "make_scene", "import": "import_scene", "check": "check_scene",
    "make-pairs": "make_flow_pairs", "pretrain": "pretrain_features",
    "meta-train": "train_sdf_ibr_meta", "train": "train_sdf_ibr",
    "specialize": "test_sdf_ibr_meta", "evaluate": "test_sdf_ibr", "export": "export_scene",
    "web-page": "export_web", "view": "view_scene", "evaluate-mesh": "evaluate_mesh",
    "compare": "compare_runs", "table": "run_table", "benchmark": "benchmark",
    "measure-gpu": "measure_gpu"}
_FOLDER = "experiment_scripts"


def typed(name: str) -> str:
    """Return how a command is typed here, for messages that name it.

    A program that runs as `metanlr` names its subcommands, as does an installation, which has no
    scripts. A script names the others as it was typed itself, so that they are found from the
    folder in which the user is.

    Args:
        name: of the subcommand, such as import.
    """
    program = sys.argv[0] if sys.argv else ""
    if program.split(" ")[0] == "metanlr" or not (PROJECT_ROOT / _FOLDER).is_dir():
        return f"metanlr {name}"
    is_script = Path(program).parent.name == _FOLDER
    folder = Path(program).parent if is_script else Path(_FOLDER)
    return f"python {folder / SCRIPT_OF[name]}.py"
