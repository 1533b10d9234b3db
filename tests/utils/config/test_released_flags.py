"""Flags of the release without effect: accepted, warned of, saved where they always were."""
from __future__ import annotations

import logging
from dataclasses import fields

import pytest

from utils.config.flag_text import as_text
from utils.config.flags import declared_flags
from utils.config.parser import META_SECTIONS, SECTION_OF, parse_config
from utils.config.released_flags import FOLLOWS, NO_EFFECT, UNSUPPORTED, flags_of
from utils.config.saving import config_to_dict, save_config
from utils.config.sections import DataConfig, LossConfig
from utils.errors import ConfigError

NAMED = ["--experiment_name", "x"]
IDLE = [(section, flag) for section, flags in NO_EFFECT.items() for flag in flags]
NAME_OF = {section: name for name, section in SECTION_OF.items()}


def parse(*args: str):
    return parse_config(META_SECTIONS, [*NAMED, *args])


def other_than(default):
    """A value of a flag that is not its default."""
    return {"": "x", "static": "x"}.get(default, 1 - default if default in (0, 1) else 3)


def test_a_section_declares_only_what_is_read():
    assert len(fields(LossConfig)) == 12
    for section, flag in IDLE:
        assert flag.no_effect and flag.name not in declared_flags(section), flag.name


def test_flags_without_effect_give_one_warning_that_names_them(caplog):
    with caplog.at_level(logging.WARNING):
        parse("--rt_num_steps", "8", "--opt_sdf_lapl", "1")
    assert len(caplog.records) == 1
    assert "rt_num_steps (the tracer takes at most 10 steps)" in caplog.text
    assert "opt_sdf_lapl" in caplog.text and "rt_mask_alpha" not in caplog.text


@pytest.mark.parametrize("section, flag", IDLE, ids=lambda value: getattr(value, "name", ""))
def test_a_flag_without_effect_is_kept_and_saved_in_its_section(section, flag, tmp_path):
    value = other_than(flag.default)
    config = parse(f"--{flag.name}", as_text(value))
    assert config_to_dict(config)[NAME_OF[section]][flag.name] == value
    assert config.without_effect == parse().without_effect | {flag.name: value}
    save_config(config, tmp_path / "config.txt")
    assert parse("--config_filepath", str(tmp_path / "config.txt")) == config


def test_their_values_are_checked_like_any_others():
    with pytest.raises(ConfigError, match="rt_num_steps is 'many', needed a whole number"):
        parse("--rt_num_steps", "many")
    with pytest.raises(ConfigError, match="did you mean opt_sdf_lapl"):
        parse("--opt_sdf_lpl", "1")


def test_they_stand_where_the_release_has_them():
    names = list(flags_of(DataConfig))
    assert names[:4] == ["dataset_path", "dataset_type", "dataset_name", "world_pcd_path"]
    assert list(flags_of(LossConfig))[12:] == [flag.name for flag in NO_EFFECT[LossConfig]]
    declared = {name for section in NO_EFFECT for name in declared_flags(section)}
    assert set(FOLLOWS) <= {flag.name for _, flag in IDLE} and set(FOLLOWS.values()) <= declared


def test_no_warning_where_nothing_was_given(caplog):
    parse()
    assert not caplog.records


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_flags_exist_and_their_defaults_are_fine(name):
    flags = {flag.name: flag for section in META_SECTIONS for flag in flags_of(section).values()}
    assert flags[name].default in UNSUPPORTED[name][0]


@pytest.mark.parametrize("flag, value", [
    ("opt_sdf_curvature", 0.25), ("opt_rays_sdf_curvature", 0.5), ("rt_mask_alpha_period_max", -1),
    ("rt_mask_alpha_period", 0), ("steps_til_summary", 0)])
def test_values_of_the_release_are_taken(flag, value):
    values = config_to_dict(parse(f"--{flag}", str(value)))
    assert [section[flag] for section in values.values() if flag in section] == [value]
