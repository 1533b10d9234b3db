"""What `--help_all` of each script says of its flags is what the script uses."""
from __future__ import annotations

import re

import pytest
from support.tiny_runs import SCRIPTS, script

from utils.config import parser
from utils.config.flag_text import as_text
from utils.config.parser import REQUIRED, parse_config
from utils.config.saving import config_to_dict

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
#: A flag with another name before it, whose value Python 3.13 no longer shows.
ENTRY = re.compile(r"^  (?:--\w+(?: [^\n]*?)?, )?--(\w+) (.*?)(?=^  -|^$|\Z)",
                   re.MULTILINE | re.DOTALL)


def parsed_by(name, monkeypatch):
    """The sections and own defaults with which a script parses its command line."""
    asked = []

    class Stop(Exception):
        pass

    def parse(sections, argv=None, *, defaults=None, **_):
        asked.extend((sections, defaults))
        raise Stop

    monkeypatch.setattr(parser, "parse_config", parse)
    with pytest.raises(Stop):
        script(name).main([])
    return asked


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_the_defaults_that_the_script_uses(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100000")                # each flag's help in one line
    with pytest.raises(SystemExit):
        script(name).main(["--help_all"])
    told = {flag: re.findall(r"\(default: (.*?)\)(?:;|\s*$)", text)
            for flag, text in ENTRY.findall(capsys.readouterr().out)}
    sections, defaults = parsed_by(name, monkeypatch)
    needed = [word for flag, owners in REQUIRED.items() if set(owners) & set(sections)
              for word in (f"--{flag}", "X")]
    used = {flag: value for values in config_to_dict(
        parse_config(sections, needed, defaults=defaults)).values()
            for flag, value in values.items()}
    assert set(used) == set(told) - {"config_filepath", "help"}
    for flag, value in used.items():
        if f"--{flag}" not in needed:
            assert told[flag] == [as_text(value) or "none"], flag
