"""Completion of `metanlr` in bash, zsh and fish.

The shell asks `metanlr completion --words WORD ...`, the last word being the one that is written.
Flags and their choices are those that `--help_all` of the subcommand prints.
"""
from __future__ import annotations

import contextlib
import glob
import io
import re
from collections.abc import Callable, Mapping, Sequence

from commands.runs import RANKED
from utils.paths import PROJECT_ROOT

#: Takes a file, among others those that ship with the project.
FLAG_OF_CONFIG = "--config_filepath"
#: With it the shell asks for the words that may follow.
WORDS = "--words"
_BASH = """_metanlr() {
    local IFS=$'\\n'
    COMPREPLY=($(metanlr completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _metanlr metanlr"""
_ZSH = """#compdef metanlr
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_metanlr() {
    local -a found
    found=(${(f)"$(metanlr completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _metanlr metanlr"""
_FISH = ("complete -c metanlr -a '(metanlr completion --words (commandline -opc)[2..] "
         "(commandline -ct) 2>/dev/null)'")
#: What each shell is given once, at its start.
SHELLS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_ENTRY = re.compile(r"^ {1,4}(-.*?)(?:  |$)", re.MULTILINE)       # of a page: the flags of an entry
_FLAG = re.compile(r"(--\w+)(?: \{([^}]*)\})?")


def candidates(commands: Mapping[str, Callable[[list[str]], None]],
               words: Sequence[str]) -> list[str]:
    """Return what the last of some words may become.

    Args:
        commands: subcommands by name.
        words: the command line after `metanlr`, the last word being written.

    Returns:
        Names of subcommands, flags, or a flag's choices; nothing where a file may stand.
    """
    *before, last = words or [""]
    is_launched = before[:1] == ["launch"] and len(before) > 1    # after it, the number is free
    before = before[2:] if is_launched else before
    if not before:
        found = RANKED if is_launched else list(commands)
    elif before[0] == "completion":
        found = list(SHELLS)
    elif before[0] not in commands or before[0] == "launch":
        found = []
    else:
        choices = flag_choices(commands[before[0]])
        if FLAG_OF_CONFIG in choices and before[-1] == FLAG_OF_CONFIG:
            return shipped_configs(last)
        found = list(choices) if last.startswith("-") else choices.get(before[-1], [])
    return [word for word in found if word.startswith(last)]


def shipped_configs(last: str) -> list[str]:
    """Return the project's config files that begin so; nothing where a file is there that does."""
    names = [f"configs/{path.name}" for path in (PROJECT_ROOT / "configs").glob("*.txt")]
    is_own_file = glob.glob(glob.escape(last) + "*") if last else []
    return [] if is_own_file else sorted(name for name in names if name.startswith(last))


def flag_choices(command: Callable[[list[str]], None]) -> dict[str, list[str]]:
    """Return the flags of a subcommand, each with the values that it admits, if they are few."""
    for asked in ("--help_all", "--help"):                # those with few flags know one alone
        page = io.StringIO()
        with contextlib.redirect_stdout(page), contextlib.redirect_stderr(io.StringIO()), \
                contextlib.suppress(SystemExit):
            command([asked])
        found = _FLAG.findall(" ".join(_ENTRY.findall(page.getvalue())))
        if found:
            config = [(FLAG_OF_CONFIG, "")] if FLAG_OF_CONFIG in page.getvalue() else []
            return {flag: choices.split(",") if choices else []
                    for flag, choices in [*config, *found]}
    return {}
