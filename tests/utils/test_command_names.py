"""Messages name commands as they are typed where the program runs."""
from __future__ import annotations

import ast
import re
import sys

import pytest
from support.tiny_runs import ROOT, SCRIPTS, script

from commands.command_line import COMMANDS
from utils import command_names
from utils.command_names import SCRIPT_OF, typed


def test_each_script_stands_beside_its_subcommand():
    assert sorted(SCRIPT_OF.values()) == sorted(path.stem for path in SCRIPTS.glob("*.py"))
    assert all(script(stem).main is COMMANDS[name] for name, stem in SCRIPT_OF.items())


@pytest.mark.parametrize("program, words", [
    ("experiment_scripts/train_sdf_ibr.py", "python experiment_scripts/check_scene.py"),
    ("../far/experiment_scripts/train_sdf_ibr.py",
     "python ../far/experiment_scripts/check_scene.py"),
    ("metanlr train", "metanlr check"), ("-c", "python experiment_scripts/check_scene.py")])
def test_a_command_is_named_as_the_program_was_typed(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program])
    assert typed("check") == words


def test_an_installation_has_no_scripts(monkeypatch, tmp_path):
    monkeypatch.setattr(command_names, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert typed("import") == "metanlr import"


def strings_of(tree: ast.Module) -> list[str]:
    """Return the strings of a module without its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and id(node) not in docstrings]


def test_no_message_names_a_script_that_an_installation_lacks():
    named = re.compile(rf"\b({'|'.join(SCRIPT_OF.values())})\.py\b")
    figures = ROOT / "stages" / "gpu_figures"            # whose pages name what was measured
    found = [f"{path.relative_to(ROOT)}: {text}" for folder in
             ("stages", "data_processing", "utils", "realtime", "commands")
             for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(figures)
             for text in strings_of(ast.parse(path.read_text())) if named.search(text)]
    assert not found, "name them with utils.command_names.typed"
