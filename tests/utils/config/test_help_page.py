"""What --help and --help_all print."""
from __future__ import annotations

import pytest

from utils.config import parser as cfg
from utils.config.help_page import FEW, MATTER_FIRST, NO_EFFECT, help_page
from utils.config.released_flags import flags_of
from utils.config.tool_sections import ImportConfig

STAGES = pytest.mark.parametrize("sections", [cfg.TRAIN_SECTIONS, cfg.META_SECTIONS,
                                              cfg.PRETRAIN_SECTIONS])


def printed(capsys, sections, *argv):
    """Return what a script with these sections prints before it ends with exit code 0."""
    with pytest.raises(SystemExit) as ended:
        cfg.parse_config(sections, argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


def listed(text):
    """Return the flags that a page lists, without its own."""
    words = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    return [word.lstrip("-").rstrip(",") for word in words]


@STAGES
def test_help_shows_the_flags_that_matter_first(sections, capsys):
    text = printed(capsys, sections, "--seed", "3", "--help")
    names = [name for section in sections for name in flags_of(section)]
    shown = listed(text)
    assert shown == [name for name in MATTER_FIRST if name in names] and 10 < len(shown) <= 21
    assert f"--help_all lists the other {len(names) - len(shown)} flags" in " ".join(text.split())
    assert text.splitlines()[0].startswith("usage: ") and not text.splitlines()[1]


@STAGES
def test_help_all_shows_each_flag_once_in_its_group(sections, capsys):
    text = printed(capsys, sections, "--help_all")
    idle = text.partition(NO_EFFECT)[2]
    for section in sections:
        assert text.count(section.__doc__.partition("\n")[0].rstrip(".")[1:] + ":") == 1
        for name, flag in flags_of(section).items():
            pages = [page for page in (text, idle) if f"--{name} " in page]
            assert len(pages) == 1 + bool(flag.no_effect), name
    assert "[steps] (default: -1)" in " ".join(text.split())


def test_few_flags_are_all_shown():
    pages = [help_page([ImportConfig], lambda group, flag: group.add_argument(f"--{flag.name}"),
                       is_whole=is_whole) for is_whole in (False, True)]
    assert pages[0] == pages[1] and len(listed(pages[0])) == len(flags_of(ImportConfig)) <= FEW
