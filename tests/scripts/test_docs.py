"""The pages keep up with the code: links lead somewhere, and command lines are understood."""
from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from support.tiny_runs import SCRIPTS, script

from commands.command_line import COMMANDS
from utils.config.parser import REQUIRED, build_parser, parse_config
from utils.config.released_flags import flags_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT)
               for pattern in ("*.md", "docs/**/*.md", "checkpoints/*.md", "tests/*.md")
               for path in ROOT.glob(pattern))
#: [text](target), with an optional title, and [name]: target at the start of a line.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.I)
FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.M | re.S)
COMMAND = re.compile(r"(?:experiment_scripts/(\w+)\.py\b|"
                     r"\bmetanlr (?:launch \d+ )?([a-z-]+)(?= -))(.*)")
#: N, X, DIR, DTU/scan65: what the reader puts in.
PLACEHOLDER = re.compile(r"[A-Z][A-Z_0-9]*")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def anchors(page: Path) -> set[str]:
    """Return what headings of a page are linked by: small letters, hyphens for spaces."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?)\s*$", FENCED.sub("", text_of(page)), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        number = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None
                     for other in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead to no file of the project, or to no heading."""
    found = []
    for target in (a or b for a, b in LINK.findall(FENCED.sub("", text))):
        if ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page.parent / name).resolve() if name else ROOT / page
        if not path.exists() or not path.is_relative_to(ROOT):
            found.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.relative_to(ROOT)):
            found.append(f"{target}: no such heading")
    return found


def code_in(text: str) -> list[str]:
    """Return the lines of code of a page: of blocks, fenced or indented, and within the text."""
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = [line for match in FENCED.finditer(joined) for line in match.group().splitlines()]
    rest = FENCED.sub("", joined)
    indented = [line for line in rest.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`([^`\n]+)`", "\n".join(
        line for line in rest.splitlines() if not line.startswith("    ")))
    return blocks + indented + inline


def commands_in(text: str) -> list[tuple[str, str]]:
    """Return (script or subcommand of metanlr, arguments) of all command lines in a page."""
    found = []
    for line in code_in(text):
        match = COMMAND.search(line)
        if match:
            arguments = re.split(r"[|;>&]|\s#", match.group(3))[0]
            words = " ".join(re.sub(r"[][]", " ", arguments).split())
            found.append((match.group(1) or match.group(2), words))
    return found


def all_commands() -> list[tuple[str, str]]:
    """Return the commands of pages and of the scripts' docstrings, each once."""
    texts = [text_of(page) for page in PAGES]
    for path in SCRIPTS.glob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        texts.append(doc)
    return sorted({command for text in texts for command in commands_in(text)})


class UnderstoodError(Exception):
    """Ends a script once its command line was read."""


def read_command(name: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script or a subcommand of metanlr read a command line, and go no further.

    Flags must be known. Values must be good, unless they are left to the reader: a placeholder for
    a number, "..." for further flags, or a configuration that only a finished run has.
    """
    def read(sections, argv=None, *, defaults=None, names_run=False):
        known = build_parser(*sections)._option_string_actions
        unknown = [word for word in argv if word.startswith("--")
                   and word.split("=")[0] not in known]
        assert not unknown, f"{name}.py has no {unknown}"
        kept = without_placeholders(sections, argv)
        if kept != argv:
            names = {name for section in sections for name in flags_of(section)}
            defaults = (defaults or {}) | dict.fromkeys(names & REQUIRED.keys(), "NAME")
        parse_config(sections, kept, defaults=defaults)
        raise UnderstoodError

    main = COMMANDS.get(name) or script(name).main
    monkeypatch.setattr("utils.config.parser.parse_config", read)    # main imports it
    with pytest.raises(UnderstoodError):
        main(shlex.split(arguments))


def without_placeholders(sections: list[type], argv: list[str]) -> list[str]:
    """Return a command line without the values that the reader has to choose."""
    texts = {f"--{flag.name}" for section in sections for flag in flags_of(section).values()
             if isinstance(flag.default, str) and not flag.choices}
    kept: list[str] = []
    for word in (word for word in argv if word != "..."):
        flag = kept[-1] if kept else ""
        is_open = PLACEHOLDER.fullmatch(word) and flag.startswith("--") and flag not in texts
        is_of_a_run = flag == "--config_filepath" and not word.startswith("configs/")
        if is_open or is_of_a_run:
            kept.pop()
        else:
            kept.append(word)
    return kept


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    assert broken_links(page, text_of(page)) == []


@pytest.mark.parametrize("name, arguments", all_commands())
def test_command_lines_are_understood(name, arguments, monkeypatch):
    read_command(name, arguments, monkeypatch)


def test_broken_links_are_found():
    text = ("[a](Makefile) [b](no/file.md) ![c](README.md#no-heading)\n[d]: nowhere.md\n"
            "[e](https://example.org/x) [f](<Makefile>) [g](../outside.md)\n"
            "```\n[h](in_code.md)\n```\n")
    assert sorted(broken_links(Path("README.md"), text)) == [
        "../outside.md: no such file", "README.md#no-heading: no such heading",
        "no/file.md: no such file", "nowhere.md: no such file"]


def test_command_lines_are_found():
    text = ("Text `python experiment_scripts/a.py --x 1` more.\n\n"
            "    python experiment_scripts/b.py --y 2 \\\n        --z 3   # a comment\n\n"
            "```\n$ torchrun --n 4 experiment_scripts/c.py ... --w 1 > log.txt\n```\n"
            "experiment_scripts/d.py is a name alone\n"
            "`metanlr e-f --v 1`, `metanlr launch 4 g --u 2` and `metanlr h`\n")
    assert set(commands_in(text)) == {("a", "--x 1"), ("b", "--y 2 --z 3"), ("c", "... --w 1"),
                                      ("e-f", "--v 1"), ("g", "--u 2")}


def test_a_flag_that_does_not_exist_is_found(monkeypatch):
    with pytest.raises(AssertionError, match="--num_stebs"):
        read_command("train_sdf_ibr", "--experiment_name X --num_stebs 4", monkeypatch)
    read_command("train_sdf_ibr", "--experiment_name X --num_steps N", monkeypatch)
