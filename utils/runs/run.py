"""One run, one folder: where its files lie, and how it starts afresh or goes on."""
from __future__ import annotations

import logging
import logging.handlers
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from utils.checkpoints.storage import checkpoints_in, latest_checkpoint, set_aside_later
from utils.config.parser import Config, save_config
from utils.errors import CheckpointError, ConfigError, UserError, WriteError
from utils.files.atomic import remove_parts
from utils.fast.memory import keep_freed_memory
from utils.runs.lock import LOCK_NAME, RunLock, check_free
from utils.runs.seeds import seed_everything
from utils.paths import PROJECT_ROOT

log = logging.getLogger(__name__)

#: All that a run writes into its folder; `--restart 1` deletes these names and nothing else.
RUN_FILES = ("config.txt", "train.log", "checkpoints", "summaries", "views", "pictures",
             "metrics.json", "metrics.csv", "curve.csv", "mesh.ply", "mesh.obj", "mesh.glb",
             "video.mp4", "video_frames", "report.html", "meta_start.pth", "encdec.pth", LOCK_NAME)


class RunFolder:
    """`LOGGING_ROOT/EXPERIMENT_NAME/`.

    Args:
        logging_root: folder of all runs.
        experiment_name: one folder name, no path.
    """

    def __init__(self, logging_root: str | Path, experiment_name: str) -> None:
        if Path(experiment_name).name != experiment_name or experiment_name in (".", ".."):
            raise ConfigError(f"experiment_name is {experiment_name!r}, need a plain folder name; "
                              "put folders into --logging_root")
        self.path = Path(logging_root).expanduser() / experiment_name
        self.checkpoints = self.path / "checkpoints"
        self.summaries = self.path / "summaries"
        self.pictures = self.path / "pictures"
        self.views = self.path / "views"

    def find_start(self, *, restart: bool = False, resume: bool = True) -> Path | None:
        """The checkpoint to go on from, or None; writes nothing.

        Args:
            restart: an earlier run's files are going to be deleted.
            resume: go on from the latest checkpoint when there is one.
        Raises:
            ConfigError: a run is there, and neither restart nor resume is set.
            CheckpointError: there are checkpoints, and none can be read.
        """
        start = None if restart else latest_checkpoint(self.checkpoints)
        if start is None and not restart and checkpoints_in(self.checkpoints):
            raise CheckpointError(f"{self.checkpoints}: none of the checkpoints can be read; put a "
                                  "good one there, or give --restart 1 to delete this run")
        if start is not None and not resume:
            raise ConfigError(f"{self.path} holds a run already; give --restart 1 to delete it, "
                              "--resume 1 to go on, or another --experiment_name")
        return start

    def open(self, *, is_training: bool = True, restart: bool = False) -> logging.Handler:
        """Make the folder; gives the log's handler, which keeps a training run's lock.

        Args:
            is_training: no other process may train into it at the same time.
            restart: the run's earlier files are deleted.
        Raises:
            ConfigError: another run is training into it.
            WriteError: the folder cannot be written.
        """
        lock = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = RunLock(self.path) if is_training else None
            if restart:
                self.clear()
            if is_training:
                self.remove_leftovers()
            return LogFile(self.path / "train.log", lock)
        except OSError as error:
            if lock is not None:
                lock.close()
            raise WriteError(f"{self.path}: {error.strerror}; choose another --logging_root, or "
                             "make it writable") from error

    def clear(self) -> None:
        """Delete what a run writes (RUN_FILES); other files, and the lock that is held, stay."""
        for name in set(RUN_FILES) - {LOCK_NAME}:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Delete halves of this run's files that a killed process left beside them."""
        remove_parts(self.path, RUN_FILES)
        for folder in (self.checkpoints, self.pictures, self.views, self.path / "video_frames"):
            remove_parts(folder)


class LogFile(logging.FileHandler):
    """A log that keeps still where the disk is full: the next file that matters says so.

    Args:
        path: of the file.
        lock: of the run, held as long as its log is open.
    """

    def __init__(self, path: Path, lock: RunLock | None = None) -> None:
        super().__init__(path, encoding="utf-8")
        self.run_lock = lock

    def close(self) -> None:
        """Close file and lock."""
        super().close()
        if self.run_lock is not None:
            self.run_lock.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing."""


class RunLog(logging.handlers.MemoryHandler):
    """Keeps what is logged until the run's folder is open; a new run's takes an old one's place."""

    def __init__(self) -> None:
        super().__init__(capacity=1, flushLevel=logging.NOTSET)
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if isinstance(handler, RunLog)]:
            root.removeHandler(handler)
            handler.close()
        root.addHandler(self)

    def write_to(self, file: logging.Handler) -> None:
        """From now on, and what was kept so far, into a file."""
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.setTarget(file)
        self.flush()

    def close(self) -> None:
        """Close the file too."""
        file = self.target
        super().close()
        if file is not None:
            file.close()


@dataclass(frozen=True)
class Run:
    """A run whose folder is not touched before `begin`.

    Attributes:
        folder: its files.
        start: the checkpoint that it goes on from, or None.
        device: where it computes.
        generator: on the CPU; everything random is drawn from it.
        config: all flags.
        log: goes into the folder.
        is_training: False for evaluations, which never delete a run's files.
        found: the checkpoints that were there when it looked for its start.
    """

    folder: RunFolder
    start: Path | None
    device: torch.device
    generator: torch.Generator
    config: Config
    log: RunLog
    is_training: bool = True
    found: tuple[Path, ...] = ()

    def begin(self) -> None:
        """Open the folder, and save the configuration there; called once all inputs are sound.

        An evaluation leaves the configuration that the run was trained with.

        Raises:
            ConfigError: another run is training into it, or did so since this one looked.
            WriteError: the folder cannot be written.
        """
        restart = self.is_training and bool(self.config.run.restart)
        self.log.write_to(self.folder.open(is_training=self.is_training, restart=restart))
        if self.is_training:
            if not restart and self.found != tuple(checkpoints_in(self.folder.checkpoints)):
                raise ConfigError(f"{self.folder.path}: another run has changed the checkpoints "
                                  "since this one looked; start it again, it goes on from theirs")
            set_aside_later(self.folder.checkpoints, self.start)
        path = self.folder.path / "config.txt"
        if self.is_training or not path.exists():
            # without restart: what starts again from this file must not delete the run
            save_config(replace(self.config, run=replace(self.config.run, restart=0)), path)


def start_run(config: Config, *, is_training: bool = True, is_main: bool = True) -> Run:
    """Choose device and threads, seed everything, and look for a checkpoint to go on from.

    Args:
        config: of the run.
        is_training: False for evaluations.
        is_main: False in the other processes of a run, which log warnings alone.
    Raises:
        ConfigError: another run is training into the folder; see `RunFolder`, `pick_device`.
    """
    device = pick_device(config.run.device)
    if config.run.num_threads > 0:
        torch.set_num_threads(config.run.num_threads)
    if config.tracing is not None and config.tracing.tracer == "fast" and device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(config.run.logging_root, config.run.experiment_name)
    run_log = RunLog()
    if is_training and is_main:            # the main rank alone opens the folder
        check_free(folder.path)
    found = tuple(checkpoints_in(folder.checkpoints))
    start = folder.find_start(restart=is_training and bool(config.run.restart),
                              resume=not is_training or bool(config.run.resume))
    level = logging.DEBUG if config.run.verbose_logging else logging.INFO
    logging.getLogger().setLevel(level if is_main else logging.WARNING)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else \
        f"{torch.get_num_threads()} threads"
    log.info("%s: seed %d, %s (%s), torch %s, revision %s", folder.path, config.run.seed, device,
             name, torch.__version__, revision())
    return Run(folder, start, device, seed_everything(config.run.seed), config, run_log,
               is_training, found)


def pick_device(name: str) -> torch.device:
    """auto, cpu or cuda to a device; ConfigError where CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu, or install "
                          "a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def revision() -> str:
    """The checkout's git revision, or "unknown"."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT_ROOT,
                               check=False, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; what the user can mend is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except (UserError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command without --restart goes on from the last "
                         "checkpoint\n")
        sys.exit(130)
