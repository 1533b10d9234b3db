"""The video of new views: its camera path, its streams, and the cameras of all frames.

A frame is rendered once for all streams. Colours go to the encoder at once; frames of the other
streams wait on disk until it is done.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stages.evaluation import TrainedScene
from stages.view_rendering import Rendering
from utils.config.sections import DataConfig
from utils.config.stage_sections import TestConfig
from utils.config.values import video_streams
from utils.files.atomic import write_text_atomic
from utils.geometry.camera_paths import interpolate_cameras, make_path
from utils.geometry.cameras import Cameras
from utils.geometry.keyframes import keyframes_text, read_keyframes
from utils.results.pictures import (
    depth_to_rgb,
    mask_to_rgb,
    normals_to_rgb,
    save_png,
    shaded,
    to_uint8,
)
from utils.results.video import write_video
from utils.runs.folder import RunFolder

#: The cameras of all frames, in a run's folder.
POSES_FILE = "video_poses.json"
COLOUR = "color"


def write_videos(trained: TrainedScene, folder: RunFolder, test: TestConfig,
                 data: DataConfig) -> list[Path]:
    """Write novel views along the path that the flags name: a file a stream, and its cameras.

    Returns:
        video.mp4 (colours) and video_STREAM.mp4, as far as they are asked for, and the cameras.
    """
    cameras, streams = video_cameras(trained, test, data), video_streams(test.video_streams)
    folder.path.mkdir(parents=True, exist_ok=True)
    for stream in PICTURES.keys() - streams:                   # of an earlier evaluation
        video_of(folder.path, stream).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".video_", dir=folder.path) as waiting:
        kept = folder.path / "video_frames" if test.video_save_frames else None
        frames = _frames(trained, cameras, streams, Path(waiting), kept=kept)
        paths = []
        if COLOUR in streams:
            paths.append(video_of(folder.path, COLOUR))
            write_video(paths[0], frames, test.video_fps)
        else:
            for _ in frames:
                pass
        for stream in streams:
            if stream != COLOUR:
                paths.append(video_of(folder.path, stream))
                files = sorted(Path(waiting).glob(f"*_{stream}.png"))
                write_video(paths[-1], map(iio.imread, files), test.video_fps)
    poses = folder.path / POSES_FILE
    write_text_atomic(poses, keyframes_text(cameras, fps=test.video_fps,
                                            model_matrix=cameras.model.tolist()))
    return [*paths, poses]


def video_of(folder: Path, stream: str) -> Path:
    """Return where a stream's video lies in a run's folder."""
    return folder / ("video.mp4" if stream == COLOUR else f"video_{stream}.mp4")


def _frames(trained: TrainedScene, cameras: Cameras, streams: Sequence[str], waiting: Path, *,
            kept: Path | None) -> Iterator[np.ndarray]:
    """Yield the colours of each frame, (H, W, 3) uint8; its other streams go to `waiting`.

    Args:
        kept: folder in which all pictures stay; None: they do not.
    """
    for index in tqdm(range(len(cameras)), desc="video", unit="frame", dynamic_ncols=True):
        camera = cameras[index]
        rendering = trained.render(camera, None)
        for stream in streams:
            picture = PICTURES[stream](rendering, camera)
            if kept is not None:
                end = "" if stream == COLOUR else f"_{stream}"
                save_png(kept / f"{index:04d}{end}.png", picture)
            if stream == COLOUR:
                yield picture
            else:
                save_png(waiting / f"{index:06d}_{stream}.png", picture)


def video_cameras(trained: TrainedScene, test: TestConfig, data: DataConfig) -> Cameras:
    """Return the video's cameras: path by video_path or video_path_type, im_scale times the views'
    size."""
    cameras = trained.scene.cameras
    width, height = (max(round(side * data.im_scale), 1) for side in cameras.resolution)
    x, y, z = test.video_pivot_offset
    guides = cameras if test.video_path_type != "interpolate" else cameras[list(trained.train)]
    if test.video_path:
        keyframes = read_keyframes(test.video_path, cameras.resized(width, height))
        return interpolate_cameras(keyframes, test.video_num_frames, pivot_obj=(x, y, z),
                                   is_in_order=True)
    path = make_path(test.video_path_type, guides, test.video_num_frames,
                     reference=reference_index(data, len(cameras)), yaw_degrees=test.video_yaw,
                     pivot_obj=(x, y, z))
    return path.resized(width, height)


def reference_index(data: DataConfig, num_views: int) -> int:
    """Return the index of `--reference_view`, the middle view where it names none."""
    return num_views // 2 if data.reference_view < 0 else data.reference_view


def _coverage(rendering: Rendering) -> Tensor:
    """Return (1, H, W), how much of each pixel the surface covers, on the CPU."""
    covered = rendering.hit_mask if rendering.coverage is None else rendering.coverage
    return covered[0].cpu().float()


def _colours(rendering: Rendering, camera: Cameras) -> np.ndarray:
    """Return the image before white."""
    image, covered = rendering.images[0].cpu().clamp(0, 1), _coverage(rendering)
    return to_uint8(torch.where(covered > 0, covered * image + (1 - covered), torch.ones(())))


def _depth(rendering: Rendering, camera: Cameras) -> np.ndarray:
    """Return the depth with one scale for all frames: the unit sphere from front to back."""
    middle = float(-camera.object_to_camera[0, 2, 3])
    return depth_to_rgb(rendering.depth[0].cpu(), rendering.hit_mask[0].cpu(),
                        (middle - camera.model_scale, middle + camera.model_scale))


#: Pictures (H, W, 3) uint8 of a frame by `--video_streams`, from its rendering and its camera.
PICTURES: dict[str, Callable[[Rendering, Cameras], np.ndarray]] = {
    COLOUR: _colours,
    "normals": lambda rendering, _: normals_to_rgb(rendering.normals_obj[0].cpu(),
                                                   rendering.hit_mask[0].cpu()),
    "shaded": lambda rendering, camera: shaded(
        rendering.normals_obj[0].cpu(), rendering.points_obj[0].cpu(),
        rendering.hit_mask[0].cpu(), camera.centers_obj[0].cpu()),
    "depth": _depth,
    "mask": lambda rendering, _: mask_to_rgb(_coverage(rendering)),
}
