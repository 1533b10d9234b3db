"""Command lines and config files: what is read, refused and explained."""
from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from utils.config import parser as cfg
from utils.config.saving import config_to_dict
from utils.config.tool_sections import MakeSceneConfig
from utils.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NAMED = ["--experiment_name", "x"]


def parse(*args: str, **kwargs) -> cfg.Config:
    return cfg.parse_config(cfg.META_SECTIONS, [*NAMED, *args], **kwargs)


def write(folder: Path, text: str) -> str:
    path = folder / "mine.txt"
    path.write_text(text)
    return str(path)


def test_both_line_styles_are_read(tmp_path):
    path = write(tmp_path, "# a comment\nlr = 5e-4\nopt_sdf_onsurface 0\nnum_epochs 7  # why\n")
    config = parse("--config_filepath", path)
    assert parse("-c", path) == config
    assert config.rates.lr == 5e-4
    assert config.loss.opt_sdf_onsurface == 0
    assert config.run.num_epochs == 7


def test_command_line_goes_over_file_and_file_over_script_defaults(tmp_path):
    path = write(tmp_path, "lr 1.0\nnum_epochs 5\n")
    defaults = {"lr": 3.0, "num_epochs": 300, "batch_size": 16}
    config = parse("--config_filepath", path, "--lr", "2.0", defaults=defaults)
    assert (config.rates.lr, config.run.num_epochs, config.run.batch_size) == (2.0, 5, 16)


def test_defaults_are_the_documented_ones():
    config = parse()
    assert config.run.device == "auto" and config.run.restart == 0
    assert (config.run.batch_size, config.run.num_epochs) == (32768, 3000)
    assert (config.rates.lr, config.rates.lr_sdf) == (1e-4, 5e-5)
    assert config.tracing.occ_threshold == (1e-3, 1e-4, 1e-5)
    assert config.views.source_views_per_target == 25
    assert config.pretrain is None and config.make_scene is None


def test_script_defaults_of_unasked_flags_are_a_mistake_of_ours():
    with pytest.raises(ValueError, match="convolution_type"):
        parse(defaults={"convolution_type": "meta"})


def test_the_parser_refuses_two_sections_with_one_flag():
    with pytest.raises(ValueError, match="seed"):
        cfg.build_parser(cfg.RunConfig, MakeSceneConfig)


@pytest.mark.parametrize("args, parts", [
    (["--lrr_sdf", "1"], ["command line", "lrr_sdf", "did you mean lr_sdf"]),
    (["--lr", "fast"], ["command line", "lr is 'fast'", "a number"]),
    (["--lr", "nan"], ["lr is 'nan'", "a number"]),
    (["--seed", "1.5"], ["seed is '1.5'", "a whole number"]),
    (["--seed", "-3"], ["seed is '-3'", "at least 0"]),
    (["--seed", "9" * 400], ["seed is '999", "a whole number"]),
    (["--lr", "inf"], ["lr is 'inf'", "a number"]),
    (["--device", "gpu"], ["device is 'gpu'", "auto|cpu|cuda"]),
    (["--resume", "yes"], ["resume is 'yes'", "0|1"]),
    (["--image_crop", "1", "2"], ["image_crop is '1 2'", "4 whole numbers"]),
    (["--lr"], ["--lr", "expected one argument"]),
    (["stray"], ["stray", "--flag VALUE"]),
    (["--meta_algorithm", "maml"], ["meta_algorithm is 'maml'", "fomaml"]),
    (["--config_filepath", "absent.txt"], ["config_filepath", "absent.txt"]),
    (["--config_filepath", "a" * 300], ["config_filepath", "aaa", "there is no file"]),
])
def test_bad_arguments_say_flag_found_and_needed(args, parts):
    with pytest.raises(ConfigError) as caught:
        parse(*args)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_file_is_told_once(tmp_path):
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "x.txt", "there is no file")):
        with pytest.raises(ConfigError, match=f"^--config_filepath: .*{what}"):
            parse("--config_filepath", str(path))


def test_words_that_matter_at_the_end_are_checked_at_the_start():
    for flags in (["--mesh_formats", "ply,stl"], ["--video_streams", "colour"],
                  ["--video_streams", "none"]):
        with pytest.raises(ConfigError, match=f"{flags[0]} .*needed any of"):
            parse(*flags)
    parse("--video_streams", "none", "--test_spacetime_video", "0")


def test_misspelt_key_of_a_file_names_the_file_and_the_nearest_key(tmp_path):
    path = write(tmp_path, "lr 1\nrt_mask_alpa 50\n")
    with pytest.raises(ConfigError) as caught:
        parse("--config_filepath", path)
    assert path in str(caught.value) and "did you mean rt_mask_alpha?" in str(caught.value)


def test_wrong_value_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path, "color_loss l3\n")
    with pytest.raises(ConfigError, match="color_loss is 'l3', needed l2|l1|smooth_l1") as caught:
        parse("--config_filepath", path)
    assert path in str(caught.value)


def test_missing_required_flags():
    with pytest.raises(ConfigError, match="--experiment_name is missing"):
        cfg.parse_config(cfg.META_SECTIONS, [])
    with pytest.raises(ConfigError, match="--output is missing"):
        cfg.parse_config([MakeSceneConfig], [])


def test_none_arrives_as_empty_unless_it_is_a_choice():
    config = parse("--checkpoint_sdf", "None", "--posenc_sdf", "none", "--model_skips_sdf", "none")
    assert config.run.checkpoint_sdf == ""
    assert config.sdf.posenc_sdf == "none"
    assert config.sdf.model_skips_sdf == ""


@pytest.mark.parametrize("text", ["1 2 3 4", "1,2,3,4", "[1, 2, 3, 4]"])
def test_lists_are_read_from_files_in_any_form(tmp_path, text):
    path = write(tmp_path, f"image_crop = {text}\n")
    assert parse("--config_filepath", path).test.image_crop == (1, 2, 3, 4)


def test_lists_of_the_command_line():
    config = parse("--image_crop", "1", "2", "3", "4", "--video_pivot_offset", "0", "-1.5", "2",
                   "--eval_steps", "50,100", "--model_skips_sdf", "0,2", "1,3")
    assert config.test.image_crop == (1, 2, 3, 4)
    assert config.test.video_pivot_offset == (0.0, -1.5, 2.0)
    assert config.run.eval_steps == (50, 100)
    assert config.sdf.model_skips_sdf == "0,2 1,3"


def test_words_with_spaces_stay_whole_and_bare_switches_are_on():
    def table(*args):
        return cfg.parse_config([cfg.RunTableConfig], args).table

    parsed = table("--scenes", "a b,c", "d", "--print_commands", "--seeds", "0", "2")
    assert parsed.scenes == ("a b,c", "d") and parsed.seeds == (0, 2)
    assert (parsed.print_commands, parsed.table_only) == (1, 0)
    assert table("--table_only", "0").table_only == 0
    with pytest.raises(ConfigError, match="table_only is 'yes'"):
        table("--table_only", "yes")


@pytest.mark.parametrize("name", ["benchark_all_views", "benchmark_all_views"])
def test_both_spellings_on_the_command_line_and_in_files(tmp_path, name):
    assert parse(f"--{name}", "1").test.benchmark_all_views == 1
    path = write(tmp_path, f"{name} 1\n")
    assert parse("--config_filepath", path).test.benchmark_all_views == 1


def test_nothing_writes_to_a_config():
    config = parse()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run = None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.txt")), ids=lambda p: p.stem)
def test_shipped_configs_parse(path):
    config = parse("--config_filepath", str(path))
    assert config.run.experiment_name == "x"
    assert config.parts.train_decoder_sdf == 1


def test_config_paths_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--config_filepath", "configs/nlrpp_nlr.txt").data.dataset_name == "nlr"


@pytest.mark.parametrize("name, expected", [
    ("nlrpp_dtu", (7, 49, 2000, 500, 128, 2000, 1, 0.5, 0.5)),
    ("nlrpp_dtu_metaspec", (7, 49, 2000, 500, 128, 2000, 1, 0.5, 0.5)),
    ("nlrpp_dtu_meta", (7, 49, 99999, 99999, 128, 99999, 0, 0.5, 0.5)),
    ("nlrpp_nlr", (6, -1, 2000, 500, 256, 2000, 1, 1.0, 0.2)),
    ("nlrpp_nlr_metaspec", (6, -1, 2000, 500, 256, 2000, 1, 1.0, 0.2)),
    ("nlrpp_nlr_meta", (6, -1, 99999, 99999, 256, 99999, 0, 1.0, 0.2)),
])
def test_shipped_configs_hold_the_release_values(name, expected):
    config = parse("--config_filepath", f"configs/{name}.txt")
    assert expected == (
        config.views.source_views_per_target, config.views.total_number_source_views,
        config.rates.lr_encdec_decay_steps, config.rates.lr_sdf_decay_steps,
        config.sdf.model_hidden_dims_sdf, config.tracing.rt_mask_alpha_period,
        config.data.load_3D_point_buffers, config.data.im_scale, config.data.load_im_scale)
    assert (config.rates.lr, config.rates.lr_sdf) == (5e-4, 1e-4)
    assert config.loss.opt_sdf_eikonal_w == 3.0 and config.loss.color_loss == "l1"
    if name.endswith("_meta"):
        assert (config.meta.num_meta_steps, config.meta.meta_lr) == (64, 1e-2)


SPEC = ["--config_filepath", "configs/nlrpp_dtu_metaspec.txt", "--dataset_path", "DTU/scan65"]


@pytest.mark.parametrize("line", [
    ["--config_filepath", "configs/nlrpp_dtu.txt", "--dataset_path", "DTU/scan65",
     "--checkpoint_img_encoder", "ENCDEC"],
    ["--config_filepath", "configs/nlrpp_dtu_meta.txt", "--dataset_path", "DTU/meta",
     "--reference_view", "24", "--checkpoint_img_encoder", "ENCDEC"],
    [*SPEC, "--reference_view", "24", "--meta_initialization", "META"],
    ["--config_filepath", "configs/nlrpp_dtu.txt", "--dataset_path", "DTU/scan65",
     "--checkpoint_path_test", "CHECKPOINT"],
], ids=["train", "meta", "specialise", "test"])
def test_the_release_commands_parse(line):
    assert parse(*line).data.dataset_path.startswith("DTU/")


def test_the_release_pretraining_command_parses():
    line = [*NAMED, "--batch_size", "8", "--dataset_path", "FLYINGCHAIRS2/train"]
    config = cfg.parse_config(cfg.PRETRAIN_SECTIONS, line, defaults={"num_epochs": 300})
    assert (config.run.batch_size, config.run.num_epochs) == (8, 300)
    assert config.pretrain.convolution_type == "standard" and config.sdf is None


def test_help_has_default_and_unit():
    text = " ".join(cfg.build_parser(*cfg.META_SECTIONS).format_help().split())
    assert "[steps] (default: 5000)" in text


#: Ablation to the config that it is one of, and all that it changes.
ABLATIONS = {
    "rgb_lumigraph": ("nlrpp_dtu", {"feature_type": "rgb",
                                    "feature_aggregation_method": "lumigraph"}),
    "features_mean": ("nlrpp_dtu", {"feature_aggregation_method": "mean"}),
    **{f"views_{count}": ("nlrpp_dtu", {"num_train_views": count}) for count in range(3, 7)},
    "meta_sdf": ("nlrpp_dtu_metaspec", {"meta_parts": "sdf"}),
    "meta_features": ("nlrpp_dtu_metaspec", {"meta_parts": "features"})}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_its_keys_and_nothing_else(name):
    base, changes = ABLATIONS[name]
    before, after = ({key: value for section in config_to_dict(parse(
        "--config_filepath", f"configs/{file}.txt")).values() for key, value in section.items()}
        for file in (base, f"ablation_{name}"))
    assert {key: after[key] for key in after if after[key] != before[key]} == changes


def test_every_ablation_is_known():
    assert {path.stem for path in CONFIGS.glob("ablation_*.txt")} \
        == {f"ablation_{name}" for name in ABLATIONS}


def test_a_run_is_named_by_scene_and_time_where_it_may_be(caplog):
    caplog.set_level("INFO")
    config = cfg.parse_config(cfg.TRAIN_SECTIONS, ["--dataset_path", "DTU/scan 65/"],
                              names_run=True)
    name = config.run.experiment_name
    assert re.fullmatch(r"scan_65_\d{4}-\d\d-\d\d_\d{6}", name)
    assert caplog.messages == [f"this run is {name}; --experiment_name {name} resumes it"]
    assert cfg.parse_config(cfg.TRAIN_SECTIONS, NAMED, names_run=True).run.experiment_name == "x"
