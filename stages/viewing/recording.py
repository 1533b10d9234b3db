"""Keyframes of a window, the path through them, and its video."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from stages.viewing.subjects import Subject
from stages.viewing.windows import Pose, pose_of, window_camera
from utils.geometry.camera_paths import interpolate_cameras
from utils.geometry.cameras import Cameras
from utils.geometry.keyframes import read_keyframes, write_keyframes
from utils.results.pictures import to_uint8
from utils.results.video import write_video

FPS = 30.0
#: Files in the folder of the viewer.
PATH_FILE, VIDEO_FILE = "camera_path.json", "view.mp4"


class Recording:
    """Keyframes of one window, in order.

    Args:
        size: of the video, (W, H).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.poses: list[Pose] = []

    @property
    def keyframes(self) -> Cameras:
        """The keyframes as cameras straight from object space."""
        found = [window_camera(pose, self.size) for pose in self.poses]
        return Cameras(torch.cat([camera.view for camera in found]),
                       torch.cat([camera.projection for camera in found]), torch.eye(4), self.size)

    def path(self, seconds: float) -> Cameras:
        """Return the cameras of all frames; there must be a keyframe."""
        return interpolate_cameras(self.keyframes, max(round(seconds * FPS), 1), is_in_order=True)

    def save(self, folder: Path) -> Path:
        """Write the keyframes; returns their file."""
        write_keyframes(folder / PATH_FILE, self.keyframes)
        return folder / PATH_FILE

    def load(self, path: Path) -> None:
        """Replace the keyframes by those of a file; PathError where it is none."""
        like = Cameras(torch.eye(4)[None], torch.eye(4)[None], torch.eye(4), self.size)
        found = read_keyframes(path, like)
        self.poses = [pose_of(found[i]) for i in range(len(found))]


def record(subject: Subject, path: Cameras, file: Path, progress: Callable[[float], None]) -> None:
    """Write the video of a path with full quality.

    Args:
        subject: what is shown.
        path: cameras straight from object space.
        file: ends in .mp4.
        progress: called with the share that is done.
    """
    def frames() -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8, one a camera."""
        for index in range(len(path)):
            yield to_uint8(subject.draw(path[index], is_quick=False).picture)
            progress((index + 1) / len(path))

    write_video(file, frames(), FPS)
