"""Reading the configuration: one parser builder for all scripts, and the `Config` it gives.

A script names the sections that it needs; `parse_config` reads the command line and the config file
that it names. A value of the command line takes precedence over the file's, the file's over the
script's own default, that over the section's. Nothing writes to a config afterwards.
"""
from __future__ import annotations

import dataclasses
import difflib
import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import configargparse

from utils.config.flag_text import help_text, metavar, value_of
from utils.config.flags import Flag, declared_flags
from utils.config.help_page import HelpAction, help_page
from utils.config.released_flags import flags_of, refuse_unsupported, warn_of_no_effect
from utils.config.sections import (
    CnnConfig,
    DataConfig,
    LossConfig,
    RatesConfig,
    RunConfig,
    SdfConfig,
    TracingConfig,
    TrainedPartsConfig,
    ViewsConfig,
)
from utils.config.stage_sections import MetaConfig, PretrainConfig, TestConfig
from utils.config.tool_sections import (
    BenchmarkConfig,
    CheckConfig,
    CompareConfig,
    EvaluateMeshConfig,
    ExportConfig,
    GpuConfig,
    ImportConfig,
    MakeFlowConfig,
    MakeSceneConfig,
    RunTableConfig,
    ViewConfig,
    WebConfig,
)
from utils.config.values import mesh_formats, video_streams
from utils.errors import ConfigError
from utils.files.limits import MAX_CONFIG_BYTES, read_text
from utils.paths import PROJECT_ROOT, here_or_in_project

log = logging.getLogger(__name__)

CONFIG_FLAG = "config_filepath"
COMMAND_LINE = "the command line"
#: A section that the script did not ask for. It has the type of every section, as a script reads
#: those alone that it asked for.
NOT_ASKED: Any = None


@dataclass(frozen=True)
class Config:
    """The sections that a script asked for; the others are None.

    Attributes:
        without_effect: values of the asked sections' flags without effect, which are saved only.
    """

    run: RunConfig = NOT_ASKED
    rates: RatesConfig = NOT_ASKED
    sdf: SdfConfig = NOT_ASKED
    cnn: CnnConfig = NOT_ASKED
    views: ViewsConfig = NOT_ASKED
    data: DataConfig = NOT_ASKED
    tracing: TracingConfig = NOT_ASKED
    parts: TrainedPartsConfig = NOT_ASKED
    loss: LossConfig = NOT_ASKED
    meta: MetaConfig = NOT_ASKED
    test: TestConfig = NOT_ASKED
    pretrain: PretrainConfig = NOT_ASKED
    make_scene: MakeSceneConfig = NOT_ASKED
    make_flow: MakeFlowConfig = NOT_ASKED
    benchmark: BenchmarkConfig = NOT_ASKED
    gpu: GpuConfig = NOT_ASKED
    table: RunTableConfig = NOT_ASKED
    compare: CompareConfig = NOT_ASKED
    importing: ImportConfig = NOT_ASKED
    export: ExportConfig = NOT_ASKED
    check: CheckConfig = NOT_ASKED
    evaluate_mesh: EvaluateMeshConfig = NOT_ASKED
    web: WebConfig = NOT_ASKED
    view: ViewConfig = NOT_ASKED
    without_effect: dict[str, Any] = dataclasses.field(default_factory=dict)


SECTION_OF: dict[str, type] = {name: section for name, section in get_type_hints(Config).items()
                               if name != "without_effect"}
TRAIN_SECTIONS = tuple(SECTION_OF[name] for name in (
    "run", "rates", "sdf", "cnn", "views", "data", "tracing", "parts", "loss", "test"))
META_SECTIONS = (*TRAIN_SECTIONS, MetaConfig)
PRETRAIN_SECTIONS = (RunConfig, RatesConfig, CnnConfig, DataConfig, PretrainConfig)
REQUIRED = {"experiment_name": (RunConfig,), "input": (ImportConfig, WebConfig, ViewConfig),
            "mesh": (EvaluateMeshConfig,),
            "output": (MakeSceneConfig, MakeFlowConfig, ImportConfig, ExportConfig, GpuConfig,
                       WebConfig)}


class _Parser(configargparse.ArgumentParser):
    """A parser whose errors are `ConfigError`s instead of an exit with the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise; what configargparse puts before an error of a config file says nothing more."""
        raise ConfigError(re.sub(r"^Unable to open config file: .*?\. Error: ", "", message,
                                 flags=re.DOTALL))


def build_parser(*sections: type,
                 defaults: Mapping[str, Any] | None = None) -> configargparse.ArgumentParser:
    """Return the parser of some sections; it collects text, to which `parse_config` gives types.

    Args:
        sections: section classes.
        defaults: a script's own defaults, by flag, which the help shows.

    Returns:
        A parser whose namespace holds only what the user gave.

    Raises:
        ValueError: two sections share a flag, or a default is of no flag.
    """
    parser = _Parser(allow_abbrev=False, config_file_open_func=_open_config_file, add_help=False,
                     formatter_class=configargparse.HelpFormatter)
    flags = _flags_of_all(sections, defaults)

    def add(group: Any, flag: Flag) -> None:
        """Add the flag of a section, with the script's own default."""
        _add_flag(group, flags[flag.name])

    for names, is_whole in ((("-h", "--help"), False), (("--help_all",), True)):
        parser.add_argument(*names, action=HelpAction, help="list flags and exit", page=partial(
            help_page, sections, add, is_whole=is_whole))
    parser.add_argument("-c", f"--{CONFIG_FLAG}", is_config_file=True, metavar="FILE",
                        default=configargparse.SUPPRESS,
                        help="file with lines `key = value` or `key value`")
    for flag in flags.values():
        _add_flag(parser, flag)
    return parser


def _add_flag(group: Any, flag: Flag) -> None:
    """Add a flag to a parser or a group of one."""
    options: dict[str, Any] = {"metavar": metavar(flag), "help": help_text(flag)}
    if flag.bare:
        options |= {"nargs": "?", "const": "1"}
    elif flag.many or isinstance(flag.default, tuple):
        options["nargs"] = "+"
    group.add_argument(*(f"--{name}" for name in (*flag.aliases, flag.name)), dest=flag.name,
                       default=configargparse.SUPPRESS, **options)


def parse_config(sections: Iterable[type], argv: Sequence[str] | None = None, *,
                 defaults: Mapping[str, Any] | None = None, names_run: bool = False) -> Config:
    """Read the command line and the config file that it names.

    Args:
        sections: section classes the script needs.
        argv: arguments; None: the program's own.
        defaults: a script's own defaults, by flag.
        names_run: whether a run without a name is named by its scene and the time.

    Returns:
        The configuration, complete and checked.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    sections = tuple(sections)
    flags = _flags_of_all(sections, defaults)
    given, sources = _read_given(build_parser(*sections, defaults=defaults), flags, argv)
    values = {name: given.get(name, flag.default) for name, flag in flags.items()}
    refuse_unsupported(values, sources)
    warn_of_no_effect(given, flags)
    if names_run and not values["experiment_name"]:
        values["experiment_name"] = _run_name(values["dataset_path"])
    for name, owners in REQUIRED.items():
        if set(owners) & set(sections) and not values[name]:
            raise ConfigError(f"--{name} is missing; add --{name} NAME to the command line, or a "
                              f"line `{name} = NAME` to the config file")
    _check_together(values)
    without_effect = {name: values[name] for name, flag in flags.items() if flag.no_effect}
    return Config(without_effect=without_effect, **{
        attribute: section(**{name: values[name] for name in declared_flags(section)})
        for attribute, section in SECTION_OF.items() if section in sections})


def _run_name(dataset_path: str) -> str:
    """Return a name for a run on a scene that begins now, and say how it is resumed."""
    scene = re.sub(r"[^\w.-]", "_", Path(dataset_path).name).lstrip(".")[:100] or "run"
    name = f"{scene}_{datetime.now():%Y-%m-%d_%H%M%S}"
    log.info("this run is %s; --experiment_name %s resumes it", name, name)
    return name


def _flags_of_all(sections: Iterable[type],
                  defaults: Mapping[str, Any] | None = None) -> dict[str, Flag]:
    """Return the flags of several sections by name, with a script's own defaults.

    Raises:
        ValueError: two sections share a flag, or a default is of no flag.
    """
    flags: dict[str, Flag] = {}
    for section in sections:
        for name, flag in flags_of(section).items():
            if name in flags:
                raise ValueError(f"two of the asked sections have a flag {name}")
            flags[name] = flag
    unknown = set(defaults or {}) - set(flags)
    if unknown:
        raise ValueError(f"defaults for flags of no asked section: {sorted(unknown)}")
    return flags | {name: dataclasses.replace(flags[name], default=default)
                    for name, default in (defaults or {}).items()}


def find_config_file(path: str) -> Path:
    """Return the path of a config file; a relative one is looked for in the project too."""
    found = here_or_in_project(path)
    if not os.path.isfile(found):
        if os.path.isdir(path):
            raise ConfigError(f"--{CONFIG_FLAG}: {path} is a folder; give the path of a file in it")
        raise ConfigError(f"--{CONFIG_FLAG}: there is no file {path}, nor {PROJECT_ROOT / path}; "
                          f"give the path of a config file, such as configs/nlrpp_dtu.txt")
    return found


def _open_config_file(path: str) -> io.StringIO:
    """Return the text of a config file as a file; ConfigError where it cannot be read."""
    found = find_config_file(path)
    file = io.StringIO(read_text(found, MAX_CONFIG_BYTES, error=ConfigError))
    file.name = str(found)             # from which the parser tells where a value comes from
    return file


def _read_given(parser: configargparse.ArgumentParser, flags: dict[str, Flag],
                argv: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that the user gave, with their types, and where each came from."""
    namespace, extra = parser.parse_known_args(
        list(sys.argv[1:] if argv is None else argv), env_vars={})
    sources = dict.fromkeys(flags, COMMAND_LINE)
    for origin, settings in parser.get_source_to_settings_dict().items():
        kind, _, path = origin.partition("|")
        if kind != "config_file":
            continue
        for key, (action, _) in settings.items():
            if action is None:
                raise ConfigError(_unknown(key, path, flags))
            sources[action.dest] = path
    if extra:
        raise ConfigError(_unknown(extra[0], COMMAND_LINE, flags))
    given = {name: value_of(flags[name], value, sources[name])
             for name, value in vars(namespace).items() if name in flags}
    return given, sources


def _unknown(key: str, source: str, flags: dict[str, Flag]) -> str:
    """Return the message for a key that is not known, with the nearest known one."""
    if not key.startswith("-") and source == COMMAND_LINE:
        return f"{source}: '{key}' stands alone; flags are written --flag VALUE"
    name = key.lstrip("-").split("=")[0]
    known = [*flags, *(alias for flag in flags.values() for alias in flag.aliases)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]}?" if near else "--help_all lists the flags of this script"
    return f"{source}: there is no flag {name}; {cure}"


def _check_together(values: dict[str, Any]) -> None:
    """Raise ConfigError for values that do not fit each other, before anything is read."""
    if "occ_threshold" in values:
        thresholds, starts = values["occ_threshold"], values["occ_threshold_steps"]
        if len(thresholds) != len(starts) + 1:
            raise ConfigError(
                f"occ_threshold has {len(thresholds)} values and occ_threshold_steps "
                f"{len(starts)}, needed one step less than values, such as "
                "--occ_threshold 1e-3,1e-4 --occ_threshold_steps 5000")
    mesh_formats(values.get("mesh_formats", ""))
    if values.get("test_spacetime_video"):
        video_streams(values["video_streams"])
