"""The command `metanlr`: one name, a subcommand for each script.

`metanlr train ...` does what `experiment_scripts/train_sdf_ibr.py ...` does: both call the same
function.
"""
from __future__ import annotations

import difflib
import importlib.metadata
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence

from commands import completion, exports, runs, scenes, tables
from utils.errors import ConfigError
from utils.launch import launch
from utils.paths import PROJECT_ROOT

Command = Callable[[list[str]], None]
HELP = (["-h"], ["--help"], ["--help_all"])
USAGE = "metanlr COMMAND [FLAGS]; metanlr COMMAND --help lists its flags"


def launch_command(argv: list[str]) -> None:
    """Start pretrain or meta-train in several processes: metanlr launch 4 meta-train ..."""
    if argv[:1] in HELP:
        print(f"usage: metanlr launch NUMBER COMMAND [FLAGS]\n\n{launch_command.__doc__}\n"
              "\nNUMBER is that of processes, each with its share of the threads; COMMAND is one "
              f"of\n{', '.join(runs.RANKED)}, whose flags follow (`metanlr meta-train --help`).")
        return
    if len(argv) < 2 or not argv[0].isdecimal() or int(argv[0]) < 1 or argv[1] not in runs.RANKED:
        raise ConfigError(f"found {' '.join(argv[:2]) or 'nothing'}, needed a number of processes "
                          f"and one of {', '.join(runs.RANKED)}: metanlr launch 4 meta-train ...")
    sys.exit(launch(int(argv[0]), [str(PROJECT_ROOT / "metanlr.py"), *argv[1:]]))


def complete_command(argv: list[str]) -> None:
    """Print what completes commands and flags: eval "$(metanlr completion bash)"."""
    if argv[:1] in HELP:
        print(f"usage: metanlr completion SHELL\n\n{complete_command.__doc__}\n"
              f"\nSHELL is one of {', '.join(completion.SHELLS)}; the line goes into its start "
              "file (~/.bashrc, ~/.zshrc);\nfish: metanlr completion fish | source")
        return
    if argv[:1] == [completion.WORDS]:
        print("\n".join(completion.candidates(COMMANDS, argv[1:])))
        return
    if len(argv) != 1 or argv[0] not in completion.SHELLS:
        raise ConfigError(f"found {' '.join(argv) or 'nothing'}, needed one of "
                          f"{', '.join(completion.SHELLS)}: metanlr completion bash")
    print(completion.SHELLS[argv[0]])


COMMANDS: Mapping[str, Command] = {
    "make-scene": scenes.make_scene, "import": scenes.import_capture, "check": scenes.check_scene,
    "make-pairs": scenes.make_flow_pairs, "pretrain": runs.pretrain, "meta-train": runs.meta_train,
    "train": runs.train, "specialize": runs.specialize, "evaluate": runs.evaluate,
    "export": exports.export, "web-page": exports.web_page, "view": exports.view,
    "evaluate-mesh": tables.evaluate_mesh, "compare": tables.compare, "table": tables.table,
    "benchmark": tables.benchmark, "measure-gpu": tables.measure_gpu, "weights": tables.weights,
    "launch": launch_command, "completion": complete_command}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand that the first word names.

    Args:
        argv: arguments; None: the program's own.

    Raises:
        ConfigError: there is no such subcommand.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"metanlr {version()}")
        return
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())
        return
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1, cutoff=0.5)
        cure = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMMANDS)}"
        raise ConfigError(f"metanlr has no command {name}; {cure} (`metanlr --help`)")
    sys.argv = [f"metanlr {name}", *words[1:]]             # which the help of the flags shows
    COMMANDS[name](words[1:])


def version() -> str:
    """Return the version: that of the checkout, else the one of the installation."""
    stated = PROJECT_ROOT / "pyproject.toml"
    if stated.is_file():
        return tomllib.loads(stated.read_text())["project"]["version"]
    return importlib.metadata.version("metanlrpp")


def overview() -> str:
    """Return all subcommands with what they do, a line each."""
    lines = [f"  {name:<15}{(command.__doc__ or '').splitlines()[0]}"
             for name, command in COMMANDS.items()]
    return "\n".join([f"usage: {USAGE}", "", *lines])
