"""The folder of a run: which files it holds, who may write there, and its log."""
from __future__ import annotations

import logging.handlers
import shutil
from pathlib import Path

from utils.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from utils.checkpoints.storage import checkpoints_in
from utils.errors import CheckpointError, ConfigError, WriteError
from utils.files.atomic import remove_parts
from utils.files.text import VisibleFormatter
from utils.runs.lock import LOCK_NAME, RunLock
from utils.runs.stopping import PAUSE_NAME

#: A mesh's stem; the point to which it is relative, where the world is far from 0.
MESH, MESH_ORIGIN = "mesh", "mesh_origin.txt"
#: All that a run writes into its folder; `--restart 1` deletes these and nothing else.
RUN_FILES = ("config.txt", "train.log", "checkpoints", "summaries", "views", "pictures",
             "metrics.json", "metrics.csv", "curve.csv", "mesh.ply", "mesh.obj", "mesh.glb",
             MESH_ORIGIN, "video.mp4", "video_normals.mp4", "video_shaded.mp4",
             "video_depth.mp4", "video_mask.mp4", "video_poses.json", "video_frames",
             "report.html", "meta_start.pth", "encdec.pth", "joint_start.pth", "surfaces",
             LOCK_NAME, PAUSE_NAME)


class RunFolder:
    """The folder `LOGGING_ROOT/EXPERIMENT_NAME` of one run.

    Args:
        logging_root: folder of all runs.
        experiment_name: the name of a folder, not a path.
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

    def find_start(self, *, restart: bool = False, resume: bool = True) -> Checkpoint | None:
        """Return the checkpoint to resume from, or None; nothing is written.

        Args:
            restart: an earlier run's files are going to be deleted.
            resume: whether to resume from the latest checkpoint if there is one.
        Raises:
            ConfigError: a run is there, and neither restart nor resume is set.
            CheckpointError: there are checkpoints, and none can be read, or the latest is of a
                later version.
        """
        start = None if restart else latest_checkpoint(self.checkpoints)
        if start is None and not restart and checkpoints_in(self.checkpoints):
            raise CheckpointError(f"{self.checkpoints}: none of the checkpoints can be read; put a "
                                  "good one there, or give --restart 1 to delete this run")
        if start is not None and not resume:
            raise ConfigError(f"{self.path} holds a run already; give --restart 1 to delete it, "
                              "--resume 1 to resume it, or another --experiment_name")
        return start

    def open(self, *, is_training: bool = True, restart: bool = False) -> logging.Handler:
        """Make the folder, and lock it for training.

        Args:
            is_training: whether to lock it, so that no other process trains into it.
            restart: whether to delete the run's earlier files.
        Returns:
            The handler of the log file, which holds the lock.
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
        """Delete what a run writes (RUN_FILES); other files and the lock itself stay."""
        for name in set(RUN_FILES) - {LOCK_NAME}:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Delete unfinished files that a killed process of this run left."""
        remove_parts(self.path, RUN_FILES)
        for folder in (self.checkpoints, self.pictures, self.views, self.path / "video_frames",
                       self.path / "surfaces"):
            remove_parts(folder)
        for folder in self.path.glob(".video_*"):        # frames that wait for their encoder
            shutil.rmtree(folder, ignore_errors=True)


class LogFile(logging.FileHandler):
    """A log file that ignores a full disk, which is reported when a checkpoint or result fails.

    Args:
        path: of the file.
        lock: of the run, held as long as the log is open.
    """

    def __init__(self, path: Path, lock: RunLock | None = None) -> None:
        super().__init__(path, encoding="utf-8")
        self.run_lock = lock

    def close(self) -> None:
        """Close the file and release the lock."""
        super().close()
        if self.run_lock is not None:
            self.run_lock.close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore an error of writing, where logging would print a traceback."""


class RunLog(logging.handlers.MemoryHandler):
    """Keeps what is logged until the run's folder is open; it replaces that of an earlier run."""

    def __init__(self) -> None:
        super().__init__(capacity=1, flushLevel=logging.NOTSET)
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if isinstance(handler, RunLog)]:
            root.removeHandler(handler)
            handler.close()
        root.addHandler(self)

    def write_to(self, file: logging.Handler) -> None:
        """Write what was kept so far, and all that is logged from now on, into a file."""
        file.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.setTarget(file)
        self.flush()

    def close(self) -> None:
        """Close this handler and its file."""
        file = self.target
        super().close()
        if file is not None:
            file.close()
