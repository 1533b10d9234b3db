"""The configuration: one parser builder, typed frozen sections, saving and loading.

A script names the sections it needs, `parse_config` reads command line and config file into a
`Config`. Values of the command line go over the file's, the file's over the script's own
defaults, those over the sections'. Nothing writes to a config afterwards.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configargparse

from utils.config.released_flags import refuse_unsupported, warn_of_no_effect
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
    ImportConfig,
    MakeFlowConfig,
    MakeSceneConfig,
    RunTableConfig,
)
from utils.config.values import mesh_formats
from utils.errors import ConfigError
from utils.files.atomic import write_text_atomic
from utils.files.limits import MAX_CONFIG_BYTES, read_text
from utils.paths import PROJECT_ROOT

log = logging.getLogger(__name__)
CONFIG_FLAG = "config_filepath"
COMMAND_LINE = "the command line"
MOST = 2**53                      # of a number: whole ones up to it are exact as floats

@dataclass(frozen=True)
class Config:
    """The sections that a script asked for; the others are None."""

    run: RunConfig | None = None
    rates: RatesConfig | None = None
    sdf: SdfConfig | None = None
    cnn: CnnConfig | None = None
    views: ViewsConfig | None = None
    data: DataConfig | None = None
    tracing: TracingConfig | None = None
    parts: TrainedPartsConfig | None = None
    loss: LossConfig | None = None
    meta: MetaConfig | None = None
    test: TestConfig | None = None
    pretrain: PretrainConfig | None = None
    make_scene: MakeSceneConfig | None = None
    make_flow: MakeFlowConfig | None = None
    benchmark: BenchmarkConfig | None = None
    table: RunTableConfig | None = None
    compare: CompareConfig | None = None
    importing: ImportConfig | None = None
    check: CheckConfig | None = None


SECTION_OF = {
    "run": RunConfig, "rates": RatesConfig, "sdf": SdfConfig, "cnn": CnnConfig,
    "views": ViewsConfig, "data": DataConfig, "tracing": TracingConfig,
    "parts": TrainedPartsConfig, "loss": LossConfig, "meta": MetaConfig, "test": TestConfig,
    "pretrain": PretrainConfig, "make_scene": MakeSceneConfig, "make_flow": MakeFlowConfig,
    "benchmark": BenchmarkConfig, "table": RunTableConfig, "compare": CompareConfig,
    "importing": ImportConfig, "check": CheckConfig}
TRAIN_SECTIONS = tuple(SECTION_OF[name] for name in (
    "run", "rates", "sdf", "cnn", "views", "data", "tracing", "parts", "loss", "test"))
META_SECTIONS = (*TRAIN_SECTIONS, MetaConfig)
PRETRAIN_SECTIONS = (RunConfig, RatesConfig, CnnConfig, DataConfig, PretrainConfig)
REQUIRED = {"experiment_name": (RunConfig,), "input": (ImportConfig,),
            "output": (MakeSceneConfig, MakeFlowConfig, ImportConfig)}


class _Parser(configargparse.ArgumentParser):
    """A parser whose errors are `ConfigError`s instead of an exit with the usage."""

    def error(self, message: str) -> None:
        raise ConfigError(message)


def build_parser(*sections: type) -> configargparse.ArgumentParser:
    """Builds the parser of the given sections; it collects text, `parse_config` gives it types.

    Args:
        sections: section classes of this module.

    Returns:
        A parser whose namespace holds only what the user gave.

    Raises:
        ValueError: two sections share a flag.
    """
    parser = _Parser(allow_abbrev=False, config_file_open_func=_open_config_file,
                     formatter_class=configargparse.HelpFormatter)
    parser.add_argument(f"--{CONFIG_FLAG}", is_config_file=True, metavar="FILE",
                        default=configargparse.SUPPRESS,
                        help="file with lines `key = value` or `key value`")
    for field in _fields_of(sections).values():
        meta = field.metadata
        several = meta.get("many") or isinstance(field.default, tuple)
        names = (*meta.get("aliases", ()), field.name)
        count = {"nargs": "?", "const": "1"} if meta.get("bare") else {
            "nargs": "+" if several else None}
        parser.add_argument(*(f"--{name}" for name in names), dest=field.name,
                            default=configargparse.SUPPRESS, **count, metavar=_metavar(field),
                            help=_help_text(field))
    return parser


def parse_config(sections: Iterable[type], argv: Sequence[str] | None = None, *,
                 defaults: dict[str, Any] | None = None) -> Config:
    """Reads the command line and the config file it names.

    Args:
        sections: section classes the script needs.
        argv: arguments; None: the program's own.
        defaults: a script's own defaults, by flag.

    Returns:
        The configuration, complete and checked.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    sections = tuple(sections)
    fields = _fields_of(sections)
    given, sources = _read_given(build_parser(*sections), fields, argv)
    own = defaults or {}
    unknown = set(own) - set(fields)
    if unknown:
        raise ValueError(f"defaults for flags of no asked section: {sorted(unknown)}")
    values = {name: given.get(name, own.get(name, field.default))
              for name, field in fields.items()}
    refuse_unsupported(values, sources)
    warn_of_no_effect(given, fields)
    for name, owners in REQUIRED.items():
        if set(owners) & set(sections) and not values[name]:
            raise ConfigError(f"--{name} is missing; add --{name} NAME to the command line, or a "
                              f"line `{name} = NAME` to the config file")
    _check_together(values)
    return Config(**{
        attribute: section(**{f.name: values[f.name] for f in dataclasses.fields(section)})
        for attribute, section in SECTION_OF.items() if section in sections})


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Writes every value to `path`, so that `--config_filepath path` gives the same config.

    Args:
        config: what to write.
        path: the file; replaced in one go.
    """
    lines = ["# Every value of this run; start another with --config_filepath THIS_FILE."]
    for attribute, values in config_to_dict(config).items():
        lines += ["", f"# {attribute}"]
        fields = _fields_of([SECTION_OF[attribute]])
        lines += [_line(fields[name], value) for name, value in values.items()]
    write_text_atomic(path, "\n".join(lines) + "\n")


def config_to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Gives the config as plain dicts, lists, strings and numbers, for checkpoints and JSON."""
    return {attribute: {name: list(value) if isinstance(value, tuple) else value
                        for name, value in dataclasses.asdict(section).items()}
            for attribute in SECTION_OF if (section := getattr(config, attribute)) is not None}


def config_from_dict(stored: dict[str, dict[str, Any]]) -> Config:
    """Rebuilds the config of a checkpoint; flags it lacks take their defaults.

    Args:
        stored: what `config_to_dict` gave; flags of other versions are left out with a warning.

    Returns:
        The configuration.
    """
    sections = {}
    for attribute, values in stored.items():
        section = SECTION_OF.get(attribute)
        names = {f.name for f in dataclasses.fields(section)} if section else set()
        foreign = sorted(set(values) - names)
        if foreign:
            log.warning("stored settings that this version does not know: %s", ", ".join(foreign))
        if section:
            sections[attribute] = section(**{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items() if name in names})
    return Config(**sections)


def _fields_of(sections: Iterable[type]) -> dict[str, dataclasses.Field]:
    """Gathers the fields of several sections by name; a shared name is a mistake of ours."""
    fields: dict[str, dataclasses.Field] = {}
    for section in sections:
        for field in dataclasses.fields(section):
            if field.name in fields:
                raise ValueError(f"two of the asked sections have a flag {field.name}")
            fields[field.name] = field
    return fields


def find_config_file(path: str) -> Path:
    """Finds a config file; a relative path is looked for in the project too."""
    found = Path(path)
    in_project = PROJECT_ROOT / found
    if not os.path.exists(found) and os.path.exists(in_project):
        found = in_project
    if not os.path.isfile(found):
        raise ConfigError(f"--{CONFIG_FLAG}: there is no file {path}, nor {in_project}; give the "
                          f"path of a config file, such as configs/nlrpp_dtu.txt")
    return found


def _open_config_file(path: str) -> io.StringIO:
    """The text of a config file, as a file; ConfigError where it cannot be read."""
    found = find_config_file(path)
    file = io.StringIO(read_text(found, MAX_CONFIG_BYTES, error=ConfigError))
    file.name = str(found)                         # the parser tells by it where a value is from
    return file


def _read_given(parser: configargparse.ArgumentParser, fields: dict[str, dataclasses.Field],
                argv: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Gives the values that the user gave, typed, and where each came from."""
    namespace, extra = parser.parse_known_args(
        list(sys.argv[1:] if argv is None else argv), env_vars={})
    sources = dict.fromkeys(fields, COMMAND_LINE)
    for origin, settings in parser.get_source_to_settings_dict().items():
        kind, _, path = origin.partition("|")
        if kind != "config_file":
            continue
        for key, (action, _) in settings.items():
            if action is None:
                raise ConfigError(_unknown(key, path, fields))
            sources[action.dest] = path
    if extra:
        raise ConfigError(_unknown(extra[0], COMMAND_LINE, fields))
    given = {name: _typed(fields[name], value, sources[name])
             for name, value in vars(namespace).items() if name in fields}
    return given, sources


def _unknown(key: str, source: str, fields: dict[str, dataclasses.Field]) -> str:
    """Says that a key is not known, and which known one is nearest."""
    if not key.startswith("-") and source == COMMAND_LINE:
        return f"{source}: '{key}' stands alone; flags are written --flag VALUE"
    name = key.lstrip("-").split("=")[0]
    known = [*fields, *(a for f in fields.values() for a in f.metadata.get("aliases", ()))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}?" if near else "--help lists the flags of this script"
    return f"{source}: there is no flag {name}; {mend}"


def _typed(field: dataclasses.Field, raw: str | list[str], source: str) -> Any:
    """Gives text from the user the flag's type, or says what was needed."""
    if isinstance(raw, list) and field.metadata.get("element") is str:
        return tuple(raw)                  # words of the command line, spaces and commas kept
    text = " ".join(raw) if isinstance(raw, list) else raw
    text = text.strip()
    if text.lower() == "none" and "none" not in field.metadata.get("choices", ()):
        text = ""
    try:
        value = _converted(field, text)
    except ValueError:
        value = None
    if value is None or not _admitted(field, value):
        raise ConfigError(f"{source}: {field.name} is '{text}', needed {_needed(field)}")
    return value


def _converted(field: dataclasses.Field, text: str) -> Any:
    """Converts text to the type of the flag's default; ValueError where it cannot be."""
    if isinstance(field.default, tuple):
        words = text.strip("[]()").replace(",", " ").split()
        return tuple(field.metadata["element"](word) for word in words)
    if isinstance(field.default, str) and "\n" in text:
        raise ValueError("a line break would break the saved config file")
    return type(field.default)(text)


def _admitted(field: dataclasses.Field, value: Any) -> bool:
    """Tells whether a value of the right type is among the admitted ones."""
    meta = field.metadata
    items = value if isinstance(value, tuple) else (value,)
    if "length" in meta and len(items) not in {len(field.default), meta["length"]}:
        return False
    if "choices" in meta and value not in meta["choices"]:
        return False
    numbers = [item for item in items if isinstance(item, (int, float))]
    return all(abs(n) <= MOST and n >= meta.get("minimum", -MOST) for n in numbers)


def _needed(field: dataclasses.Field) -> str:
    """Says in a few words what a flag takes."""
    meta = field.metadata
    if "choices" in meta:
        return "|".join(str(choice) or "none" for choice in meta["choices"])
    kind = meta.get("element", type(field.default))
    word = {int: "whole number", float: "number", str: "line of text"}[kind]
    words = f"a {word}"
    if isinstance(field.default, tuple):
        words = f"{meta['length']} {word}s" if "length" in meta else f"{word}s"
    return words + (f" of at least {meta['minimum']}" if "minimum" in meta else "")


def _metavar(field: dataclasses.Field) -> str:
    """Names a flag's value in the usage."""
    choices = field.metadata.get("choices")
    kind = field.metadata.get("element", type(field.default))
    return f"{{{','.join(map(str, choices))}}}" if choices else kind.__name__.upper()


def _help_text(field: dataclasses.Field) -> str:
    """Puts help, unit, default and what does it here into one line."""
    meta = field.metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    idle = f"; without effect: {meta['no_effect']}" if "no_effect" in meta else ""
    text = f"{meta['help']}{unit} (default: {_as_text(field.default) or 'none'}){idle}"
    return text.replace("%", "%%")


def _as_text(value: Any) -> str:
    """Writes a value so that the config file's reader gives it back."""
    if isinstance(value, (tuple, list)):
        return ",".join(repr(item) for item in value) or "None"
    text = str(value)
    if any(mark in text for mark in (" #", " ;", "'", '"')):
        quote = "'" if '"' in text else '"'
        return f"{quote}{text}{quote}"
    return text


def _line(field: dataclasses.Field, value: Any) -> str:
    """Writes one flag; one without effect is left a comment, so that reading it warns of none."""
    idle = "no_effect" in field.metadata and value == field.default
    return f"{'# ' if idle else ''}{field.name} = {_as_text(value)}"


def _check_together(values: dict[str, Any]) -> None:
    """Raises for values that do not fit each other, before anything is read or written."""
    thresholds, starts = values.get("occ_threshold"), values.get("occ_threshold_steps")
    if thresholds is not None and len(thresholds) != len(starts) + 1:
        raise ConfigError(f"occ_threshold has {len(thresholds)} values and occ_threshold_steps "
                          f"{len(starts)}, needed one step less than values, such as "
                          "--occ_threshold 1e-3,1e-4 --occ_threshold_steps 5000")
    mesh_formats(values.get("mesh_formats", ""))
