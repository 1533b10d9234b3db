"""Configs times scenes times seeds as runs: their commands, and which of them are finished.

A run is a process of a command of this project, and a folder. Whether it is finished is read from
its metrics.json, so that runs that a scheduler started elsewhere count as well. A digest of its
flags and its config's text is kept beside the folder: a run with other flags is neither used nor
overwritten.
"""
from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.checkpoints.storage import STEP_NAME, checkpoints_in
from utils.config.parser import META_SECTIONS, TRAIN_SECTIONS, find_config_file, parse_config
from utils.config.sections import RunConfig, ViewsConfig
from utils.config.tool_sections import RunTableConfig
from utils.errors import ConfigError, UserError
from utils.files.atomic import write_text_atomic
from utils.files.limits import MAX_CONFIG_BYTES, read_json, read_text
from utils.paths import PROJECT_ROOT
from utils.results.evaluation import file_name

log = logging.getLogger(__name__)

#: Runs are started by it, as an installation has no scripts.
PROGRAM = PROJECT_ROOT / "metanlr.py"
#: A table needs no pictures or videos, and each run traces for itself: points that another run left
#: on the disk would save it seconds that count. `--run_flags` takes precedence.
QUIET = ("--test_spacetime_video", "0", "--test_rt", "0", "--test_plot", "0", "--test_cameras", "0",
         "--steps_til_pictures", "0", "--mesh_formats", "none",
         "--load_3D_point_buffers", "0", "--save_3D_point_buffers", "0")
#: Steps that are scored where the PSNR at a time is asked for; later ones every LATER_INTERVAL.
EARLY_STEPS = (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 125, 200)
LATER_INTERVAL = 100
MAX_TIMED_STEPS = 3000    # the last that is scored where time alone ends a run
FAILED = "failed with exit code"
_META_KEY = re.compile(r"^\s*(meta_initialization|meta_parts)\b", re.MULTILINE)


@dataclass(frozen=True)
class ListedRun:
    """One run of a table.

    Attributes:
        config, scene: names in the table.
        seed: of everything random.
        folder: of the run; its log is beside it.
        command: program and arguments, paths absolute.
        num_steps: with which it is finished; -1: time alone ends it.
        time_limit: seconds of training that end it too; 0: none.
        digest: of all that determines its metrics, its length excepted; '': not known.
    """

    config: str
    scene: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    num_steps: int
    time_limit: float
    digest: str = ""

    @property
    def log(self) -> Path:
        """Return the file that holds the output of the run's process."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def digest_file(self) -> Path:
        """Return the file that holds the digest with which the run's folder was begun."""
        return self.folder.with_name(f"{self.folder.name}.digest")

    def has_other_flags(self) -> bool:
        """Return whether its folder was begun with another digest.

        A folder without a digest counts as begun with this one.
        """
        if not (self.digest and self.folder.exists() and self.digest_file.is_file()):
            return False
        return self.digest_file.read_text(encoding="utf-8", errors="replace").strip() != self.digest

    def write_digest(self) -> None:
        """Write the digest beside the folder, which may not exist yet.

        Raises:
            WriteError: it cannot be written.
        """
        write_text_atomic(self.digest_file, f"{self.digest}\n")

    def metrics(self) -> dict[str, Any] | None:
        """Return the content of metrics.json of a finished run, else None."""
        metrics = self.last_metrics()
        if not metrics or self.has_other_flags():
            return None
        is_out_of_time = 0 < self.time_limit <= metrics["train_seconds"]
        return metrics if metrics["steps"] == self.num_steps or is_out_of_time else None

    def last_metrics(self) -> dict[str, Any] | None:
        """Return the content of metrics.json, finished or not; None where it cannot be read."""
        try:
            metrics = read_json(self.folder / "metrics.json", error=UserError)
            is_whole = isinstance(metrics["mean"], dict) and isinstance(metrics["steps"], int) \
                and isinstance(metrics["train_seconds"], (int, float))
        except (UserError, KeyError, TypeError):
            return None
        return metrics if is_whole else None

    def gap(self) -> str:
        """Return why a run is not finished."""
        if self.has_other_flags():
            return f"ran with other flags; delete {self.folder} or use another --output"
        lines = last_lines(self.log, 2)
        if lines and lines[-1].startswith(FAILED):
            return f"{lines[-1]}: {lines[0]}"
        metrics = self.last_metrics()
        if metrics and metrics["steps"] > self.num_steps >= 0:
            return (f"has {metrics['steps']} steps already, needed {self.num_steps}; take another "
                    "--output, or delete its folder")
        steps = [int(match[1]) for path in checkpoints_in(self.folder / "checkpoints")
                 if (match := STEP_NAME.fullmatch(path.name))]
        if not steps:
            return "not begun" if not self.folder.exists() else "begun, no checkpoint yet"
        return f"at step {steps[-1]}" + (f" of {self.num_steps}" if self.num_steps >= 0 else "")


def list_runs(table: RunTableConfig) -> list[ListedRun]:
    """Return all runs of a table, config by config.

    Raises:
        ConfigError: a list is empty or has two of one name, or a config cannot be used.
    """
    for name in ("configs", "scenes", "seeds"):
        values = getattr(table, name)
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"--{name} has {len(values)} entries, {len(set(values))} of them "
                              f"different; give at least one, and each once, as --{name} A B")
    configs = [find_config_file(path).resolve() for path in table.configs]
    scenes = [Path(path).expanduser().resolve() for path in table.scenes]
    runs = []
    for config, config_name in zip(configs, names_of(configs), strict=True):
        is_meta = bool(_META_KEY.search(read_text(config, MAX_CONFIG_BYTES, error=ConfigError)))
        expected = _expected_length(table, config, is_meta)
        for scene, scene_name in zip(scenes, names_of(scenes), strict=True):
            for seed in table.seeds:
                folder = Path(table.output).expanduser().resolve() / "runs" \
                    / f"{config_name}-{scene_name}-seed{seed}"
                command = _command(table, config, is_meta, scene=scene, seed=seed, folder=folder,
                                   num_steps=expected[0])
                digest = _digest(table, config, is_meta, scene=scene, seed=seed)
                runs.append(ListedRun(config_name, scene_name, seed, folder, command, *expected,
                                      digest))
    return runs


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names of files and folders, with the name of their folder where needed.

    Raises:
        ConfigError: two have one name even so.
    """
    names = [file_name(path.stem if path.is_file() else path.name) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{file_name(path.parent.name)}_{name}"
                 for path, name in zip(paths, names, strict=True)]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of {', '.join(map(str, paths))} have one name; rename one, or its "
                          "folder, as the table names them so")
    return names


def _command(table: RunTableConfig, config: Path, is_meta: bool, *, scene: Path, seed: int,
             folder: Path, num_steps: int) -> tuple[str, ...]:
    """Return the program and arguments of one run."""
    arguments = ["--config_filepath", config, "--dataset_path", scene, "--logging_root",
                 folder.parent, "--experiment_name", folder.name, "--seed", seed,
                 *_flags(table, is_meta, num_steps)]
    command = "specialize" if is_meta else "train"
    return (sys.executable, str(PROGRAM), command, *map(str, arguments))


def _digest(table: RunTableConfig, config: Path, is_meta: bool, *, scene: Path, seed: int) -> str:
    """Return a digest of all that determines a run's metrics, its length excepted.

    How long it trains and where it is scored are left out: a finished run resumes for more steps.
    """
    start = str(Path(table.meta_initialization).resolve()) \
        if is_meta and table.meta_initialization else ""
    parts = [QUIET, config.read_text(encoding="utf-8"), str(scene), seed, start,
             shlex.split(table.run_flags)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _flags(table: RunTableConfig, is_meta: bool, num_steps: int) -> list[str]:
    """Return the flags that all runs of a config have; `num_steps` says how far they are scored."""
    flags = list(QUIET)
    if table.num_steps >= 0:
        flags += ["--num_steps", str(table.num_steps)]
    if table.time_limit > 0:
        flags += ["--time_limit", repr(table.time_limit)]
    steps = scored_steps(table, num_steps)
    if steps:
        flags += ["--eval_steps", ",".join(map(str, steps))]
    if is_meta and table.meta_initialization:
        flags += ["--meta_initialization", str(Path(table.meta_initialization).resolve())]
    try:
        return flags + shlex.split(table.run_flags)
    except ValueError as error:
        raise ConfigError(f"--run_flags is '{table.run_flags}': {error}; put all flags into one "
                          "pair of quotes, such as --run_flags \"--device cpu\"") from error


def scored_steps(table: RunTableConfig, num_steps: int) -> list[int]:
    """Return the steps at which held-out views are scored: those asked for, and close ones."""
    steps = set(table.at_steps)
    if table.at_seconds:
        last = num_steps if num_steps >= 0 else MAX_TIMED_STEPS
        later = range(EARLY_STEPS[-1], last + 1, LATER_INTERVAL)
        steps |= {step for step in (*EARLY_STEPS, *later) if step <= last}
    return sorted(steps)


def _expected_length(table: RunTableConfig, config: Path, is_meta: bool) -> tuple[int, float]:
    """Return what ends a run: steps (-1: time alone) and seconds (0: no limit).

    The config is checked too.

    Raises:
        ConfigError: the config cannot be used, or how long it goes on is not known.
    """
    argv = ["--config_filepath", str(config), "--experiment_name", "x",
            *_flags(table, is_meta, table.num_steps)]
    parsed = parse_config(META_SECTIONS if is_meta else TRAIN_SECTIONS, argv)
    if is_meta and not parsed.meta.meta_initialization:
        raise ConfigError(f"{config} begins with a meta-learned start; give --meta_initialization "
                          "FILE")
    return _num_steps(config, parsed.run, parsed.views), parsed.run.time_limit


def _num_steps(config: Path, run: RunConfig, views: ViewsConfig) -> int:
    """Return the steps that a run's flags ask for."""
    if run.num_steps >= 0 or run.time_limit > 0:
        return run.num_steps
    if views.total_number_source_views > 0:
        return run.num_epochs * views.total_number_source_views
    raise ConfigError(f"{config} does not say after how many steps it ends; give --num_steps or "
                      "--time_limit")


def command_lines(runs: Sequence[ListedRun]) -> list[str]:
    """Return a shell command for each run that is not finished.

    Runs whose folders have other flags are named in the log instead.

    Raises:
        WriteError: the digest of a run cannot be written.
    """
    lines = []
    for run in runs:
        if run.has_other_flags():
            log.warning("%s: %s", run.folder.name, run.gap())
        elif run.metrics() is None:
            if run.digest:
                run.write_digest()
            lines.append(shlex.join(run.command))
    return lines


def last_lines(path: Path, count: int, num_bytes: int = 4096) -> list[str]:
    """Return the last lines of a text file that are not empty, without reading all of it.

    A progress bar overwrites its line; what it showed last counts.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - num_bytes, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()][-count:]
