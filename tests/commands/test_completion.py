"""Completion: commands, flags and choices; in each shell that is there, as a user would have it."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from support.tiny_runs import ROOT

from commands.command_line import COMMANDS, main
from commands.completion import SHELLS, candidates
from utils.errors import ConfigError

#: How a shell is asked what it would offer after "metanlr compl".
ASKED = {
    "bash": "eval \"$(metanlr completion bash)\"; COMP_WORDS=(metanlr compl); COMP_CWORD=1; "
            "_metanlr; echo \"${COMPREPLY[@]}\"",
    "zsh": "eval \"$(metanlr completion zsh)\"; words=(metanlr compl); CURRENT=2; "
           "compadd() { echo ${(P)2} }; _metanlr",
    "fish": "metanlr completion fish | source; complete -C 'metanlr compl'"}


@pytest.mark.parametrize("words, found", [
    ([], list(COMMANDS)), (["met"], ["meta-train"]), (["x", ""], []),
    (["train", "--init_s"], ["--init_sphere"]),
    (["train", "--init", ""], ["sphere", "hull", "stereo", "auto"]),
    (["train", "--init", "h"], ["hull"]),
    (["train", "--dataset_path", ""], []),                   # the shell offers files
    (["launch", ""], []), (["launch", "4", ""], ["pretrain", "meta-train"]),
    (["launch", "4", "meta-train", "--meta_alg"], ["--meta_algorithm"]),
    (["train", "--config_f"], ["--config_filepath"]),
    (["import", "--config_filepath", "nosuch"], []),
    (["weights", "--config_f"], []),
    (["weights", "--l"], ["--list"]), (["completion", "z"], ["zsh"])])
def test_what_may_follow(words, found):
    assert candidates(COMMANDS, words) == found


def test_shipped_configs_are_offered_where_no_file_begins_so(tmp_path, monkeypatch):
    """From any folder: they are found in the installation."""
    monkeypatch.chdir(tmp_path)
    asked = ["train", "--config_filepath", "configs/own"]
    assert candidates(COMMANDS, asked) == ["configs/own.txt"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own_too.txt").touch()
    assert candidates(COMMANDS, asked) == []                # the shell offers files


def test_a_shell_is_needed_that_is_known(capsys):
    main(["completion", "bash"])
    assert "complete " in capsys.readouterr().out
    for words in ([], ["tcsh"], ["bash", "zsh"]):
        with pytest.raises(ConfigError, match="bash, zsh, fish"):
            main(["completion", *words])


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_offer_the_command(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "metanlr"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {ROOT / 'metanlr.py'} \"$@\"\n")
    program.chmod(0o755)
    ended = subprocess.run([shell, "-c", ASKED[shell]], capture_output=True, text=True, timeout=60,
                           cwd=tmp_path, check=True, env=os.environ | {
                               "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)})
    assert ended.stdout.split() == ["completion"], ended.stderr
