"""The command `metanlr`: the same functions as the scripts, and what it says of unknown words."""
from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

import pytest
from support.tiny_runs import ROOT, SCRIPTS, script

from commands import runs
from commands.command_line import COMMANDS, launch_command, main, overview
from utils.errors import ConfigError
from utils.launch import launch

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_each_script_is_a_command(name):
    """So what a script does can be had from an installation, which has no scripts."""
    assert script(name).main in COMMANDS.values(), \
        "put its main into commands/ and enter it in COMMANDS (docs/architecture.md)"


def test_commands_are_those_of_the_scripts_and_three_more():
    mains = [script(name).main for name in NAMES]
    others = {name for name, command in COMMANDS.items() if command not in mains}
    assert others == {"weights", "launch", "completion"}
    assert set(runs.RANKED) < set(COMMANDS)


def test_the_overview_has_a_line_for_each(capsys):
    main([])
    text = capsys.readouterr().out
    assert text == f"{overview()}\n" and max(map(len, text.splitlines())) <= 100
    assert [line.split()[0] for line in text.splitlines()[2:]] == list(COMMANDS)
    assert all(line.endswith((".", "...", '"')) for line in text.splitlines()[2:])


@pytest.mark.parametrize("word, cure", [("specialise", "did you mean specialize?"),
                                        ("meta_train", "did you mean meta-train?"),
                                        ("--num_steps", "--help"), ("x", "one of make-scene")])
def test_unknown_words_are_told(word, cure):
    with pytest.raises(ConfigError, match=f"no command {word}.*{re.escape(cure)}"):
        main([word])


@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(name, flag, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["metanlr"])
    with contextlib.suppress(SystemExit):
        main([name, flag])
    assert capsys.readouterr().out.startswith(f"usage: metanlr {name} ")


def test_a_package_that_is_absent_is_one_line(tmp_path):
    """Also where the subcommands themselves cannot be imported."""
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "__init__.py").write_text("import nosuchpackage\n")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import metanlr; "
            "sys.path.insert(0, sys.argv[2]); metanlr.main()")
    ended = subprocess.run([sys.executable, "-c", code, ROOT, tmp_path], capture_output=True,
                           text=True, timeout=60)
    assert ended.returncode == 2 and "lacks the package nosuchpackage" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_version_is_told(capsys):
    main(["--version"])
    assert re.fullmatch(r"metanlr \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_names_the_command_as_it_was_called(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["metanlr"])
    with pytest.raises(SystemExit):
        main(["make-scene", "--help"])
    assert capsys.readouterr().out.startswith("usage: metanlr make-scene [--config_filepath FILE]")


@pytest.mark.parametrize("words", [[], ["2"], ["0", "meta-train"], ["x", "pretrain"],
                                   ["2", "train"]])
def test_a_launch_needs_a_number_and_a_command_that_shares_its_work(words):
    with pytest.raises(ConfigError, match="pretrain, meta-train"):
        launch_command(words)


def test_a_launch_starts_the_command_in_each_process(monkeypatch):
    started = []
    monkeypatch.setattr("commands.command_line.launch", lambda *given: started.append(given) or 7)
    with pytest.raises(SystemExit) as ended:
        main(["launch", "3", "meta-train", "--seed", "2"])
    assert ended.value.code == 7
    assert started == [(3, [str(ROOT / "metanlr.py"), "meta-train", "--seed", "2"])]


def test_processes_end_with_the_code_of_the_command(tmp_path, monkeypatch, capfd):
    """One process, for its exit code: what the user can fix is one line, exit code 2."""
    monkeypatch.chdir(tmp_path)
    assert launch(1, [str(ROOT / "metanlr.py"), "pretrain", "--batch_sise", "1"]) == 2
    assert "did you mean batch_size?" in capfd.readouterr().err


def test_a_pipe_that_closes_is_no_error(tmp_path):
    """As `metanlr --help | head -1` closes it: nothing is said, the code is a shell's."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, ROOT / "metanlr.py"], stdout=writing, cwd=tmp_path,
                           stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
