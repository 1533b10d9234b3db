"""Saved configurations: what a checkpoint stores, and files that give the same config."""
from __future__ import annotations

import json

from utils.config.parser import META_SECTIONS, SECTION_OF, Config, RunConfig, parse_config
from utils.config.released_flags import flags_of
from utils.config.saving import config_to_dict, save_config


def parse(*args: str) -> Config:
    return parse_config(META_SECTIONS, ["--experiment_name", "x", *args])


def test_saving_and_reading_gives_the_same_config(tmp_path):
    config = parse("--image_crop", "1", "2", "3", "4", "--dataset_path", "a b/#c # d",
                   "--lr", "0.1", "--rt_num_steps", "8", "--resnet_weights", "it's.pth",
                   "--occ_threshold", "1e-3", "--occ_threshold_steps", "none",
                   "--checkpoint_sdf", '"q".pth', "--model_skips_sdf", "0,2", "1,3")
    path = tmp_path / "config.txt"
    save_config(config, path)
    assert parse_config(META_SECTIONS, ["--config_filepath", str(path)]) == config
    for section in META_SECTIONS:
        assert all(f"{name} = " in path.read_text() for name in flags_of(section))


def test_reading_a_saved_config_of_defaults_warns_of_nothing(tmp_path, caplog):
    path = tmp_path / "config.txt"
    save_config(parse(), path)
    parse_config(META_SECTIONS, ["--config_filepath", str(path)])
    assert not caplog.records


def test_the_stored_config_has_every_flag_in_plain_values():
    stored = config_to_dict(parse("--image_crop", "1", "2", "3", "4"))
    assert json.loads(json.dumps(stored)) == stored
    assert stored["test"]["image_crop"] == [1, 2, 3, 4]
    for name, section in SECTION_OF.items():
        if section in META_SECTIONS:
            assert list(stored[name]) == list(flags_of(section))
        else:
            assert name not in stored


def test_a_config_made_by_hand_is_stored_with_the_defaults_of_what_has_no_effect():
    stored = config_to_dict(Config(run=RunConfig(seed=3)))
    assert list(stored) == ["run"] and stored["run"]["seed"] == 3
