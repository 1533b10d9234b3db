"""The start of a run: its folder, device, seed and log, and the checkpoint that it resumes from."""
from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from utils.checkpoints.checkpoint import Checkpoint
from utils.checkpoints.storage import checkpoints_in, set_aside_later
from utils.config.parser import Config
from utils.config.saving import save_config
from utils.devices import pick_device
from utils.errors import ConfigError
from utils.paths import PROJECT_ROOT
from utils.processors import advice_when_busy, waiting
from utils.runs.folder import RunFolder, RunLog
from utils.runs.lock import check_free
from utils.runs.seeds import seed_everything

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run whose folder is not touched before `begin`.

    Attributes:
        folder: of its files.
        start: the checkpoint from which it resumes, or which is evaluated; or None.
        device: where it computes.
        generator: on the CPU; everything random is drawn from it.
        config: all flags.
        log: what is logged; `begin` opens its file.
        is_training: False for evaluations, which never delete a run's files.
        found: the checkpoints that were there when it looked for its start.
    """

    folder: RunFolder
    start: Checkpoint | None
    device: torch.device
    generator: torch.Generator
    config: Config
    log: RunLog
    is_training: bool = True
    found: tuple[Path, ...] = ()

    def begin(self) -> None:
        """Open the folder and save the configuration there; called once all inputs are checked.

        An evaluation keeps the configuration with which the run was trained.

        Raises:
            ConfigError: another run is training into it, or did so since this one looked.
            WriteError: the folder cannot be written.
        """
        restart = self.is_training and bool(self.config.run.restart)
        self.log.write_to(self.folder.open(is_training=self.is_training, restart=restart))
        if self.is_training:
            if not restart and self.found != tuple(checkpoints_in(self.folder.checkpoints)):
                raise ConfigError(f"{self.folder.path}: another run has changed the checkpoints "
                                  "since this one looked; start it again, it resumes from theirs")
            set_aside_later(self.folder.checkpoints, self.start and self.start.path)
        path = self.folder.path / "config.txt"
        if self.is_training or not path.exists():
            # without restart: a run that is started from this file must not delete this one
            save_config(replace(self.config, run=replace(self.config.run, restart=0)), path)


def start_run(config: Config, *, is_training: bool = True, is_main: bool = True) -> Run:
    """Choose device and threads, seed everything, and look for a checkpoint to resume from.

    Args:
        config: all flags of the run.
        is_training: False for evaluations.
        is_main: False in the other processes of a run, which log only warnings.
    Raises:
        ConfigError: another run is training into the folder; see `RunFolder`, `pick_device`.
    """
    device = pick_device(config.run.device)
    if config.run.num_threads > 0:
        torch.set_num_threads(config.run.num_threads)
    folder = RunFolder(config.run.logging_root, config.run.experiment_name)
    run_log = RunLog()
    if is_training and is_main:            # the main rank alone opens the folder
        check_free(folder.path)
    found = tuple(checkpoints_in(folder.checkpoints))
    start = None
    if is_training or not config.test.checkpoint_path_test:      # else that file is evaluated
        start = folder.find_start(restart=is_training and bool(config.run.restart),
                                  resume=not is_training or bool(config.run.resume))
    if start is not None and not is_main:          # it is the main process that resumes
        start.release()
    level = logging.DEBUG if config.run.verbose_logging else logging.INFO
    logging.getLogger().setLevel(level if is_main else logging.WARNING)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else \
        f"{torch.get_num_threads()} threads{waiting()}"
    log.info("%s: seed %d, %s (%s), torch %s, revision %s", folder.path, config.run.seed, device,
             name, torch.__version__, revision())
    advice = advice_when_busy(torch.get_num_threads()) if is_main else None
    if advice:
        log.warning("%s", advice)
    return Run(folder, start, device, seed_everything(config.run.seed), config, run_log,
               is_training, found)


def revision() -> str:
    """Return the git revision of the checkout, or "unknown"."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT_ROOT,
                               check=False, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
