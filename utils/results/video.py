"""Frames to a video file that browsers play."""
from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from utils.errors import MissingExtraError
from utils.files.atomic import whole_file

log = logging.getLogger(__name__)

INSTALL_COMMAND = "pip install imageio-ffmpeg"
#: RGB is turned into BT.709 YUV and marked so: players take unmarked files for one or the other.
COLOUR_OPTIONS = ("-vf", "scale=in_range=full:out_range=tv:out_color_matrix=bt709",
                  "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
                  "-color_range", "tv")
#: The index goes first, so that a page can start to play before all is loaded.
STREAM_OPTIONS = ("-movflags", "+faststart")
#: imageio-ffmpeg's scale from 0 (worst) to 10.
QUALITY = 8


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> str:
    """Write frames as H.264 (imageio-ffmpeg) or, without that package, as VP9 (OpenCV), in .mp4.

    Frames are taken one by one. Sides are padded to even numbers by repeating the last row or
    column, as 4:2:0 colours need. An earlier file stays until the new one is whole.

    Args:
        path: ends in .mp4.
        frames: (H, W, 3) uint8 RGB arrays of one size.
        fps: frames a second.
    Returns:
        the codec that was used, `h264` or `vp9`.
    Raises:
        ValueError: no frame, frames that differ in size or are not uint8 RGB.
        WriteError: the file cannot be written.
        MissingExtraError: neither encoder works here.
    """
    path = Path(path)
    if path.suffix != ".mp4" or fps <= 0:
        raise ValueError(f"need a path ending in .mp4 and fps > 0, got {path} and {fps}")
    frames = _even_frames(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame, got none")
    frames = itertools.chain([first], frames)
    encode, codec = (_encode_h264, "h264") if _has_ffmpeg() else (_encode_vp9, "vp9")
    with whole_file(path) as part:
        num_frames = encode(part, frames, (first.shape[1], first.shape[0]), fps)
    log.info("%s: %d frames of %dx%d, %s", path, num_frames, first.shape[1], first.shape[0], codec)
    return codec


def _even_frames(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the frames, checked, with sides padded to even numbers."""
    shape = None
    for frame in frames:
        frame = np.asarray(frame)
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}, need uint8 (H, W, 3)")
        if frame.shape != shape:
            raise ValueError(f"a frame is {frame.shape} but the first was {shape}")
        odd = (shape[0] % 2, shape[1] % 2)
        yield np.ascontiguousarray(np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge"))


def _has_ffmpeg() -> bool:
    """Return whether imageio-ffmpeg and its program are here; says so in the log where not."""
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        log.info("imageio-ffmpeg is not available (%s): the video is encoded as VP9 by OpenCV, "
                 "which takes longer; `%s` gives H.264", error, INSTALL_COMMAND)
        return False
    return True


def _encode_h264(path: Path, frames: Iterator[np.ndarray], size: tuple[int, int],
                 fps: float) -> int:
    """Feed ffmpeg; returns the number of frames, which are counted again in the file."""
    import imageio_ffmpeg
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps,  # pyright: ignore[reportArgumentType] a fraction serves too
        codec="libx264", pix_fmt_in="rgb24", pix_fmt_out="yuv420p",
        quality=QUALITY, macro_block_size=1, output_params=[*COLOUR_OPTIONS, *STREAM_OPTIONS])
    writer.send(None)
    num_frames = 0
    try:
        for frame in frames:
            writer.send(frame)
            num_frames += 1
    finally:
        writer.close()
    # ffmpeg closes a pipe quietly on a full disk; only the file can say whether all went well
    written = _count_frames(path)
    if written != num_frames:
        raise OSError(f"only {written} of {num_frames} frames reached the disk")
    return num_frames


def _count_frames(path: Path) -> int:
    """Return the number of frames in a video file; 0 for one that cannot be read."""
    import imageio_ffmpeg
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0] or 0
    except RuntimeError:
        return 0


def _encode_vp9(path: Path, frames: Iterator[np.ndarray], size: tuple[int, int],
                fps: float) -> int:
    """Encode with OpenCV; returns the number of frames."""
    import cv2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"vp09"), fps, size)
    if not writer.isOpened():
        if not path.exists():
            path.touch()     # no permission or no space shows itself here, as an OSError
        raise MissingExtraError(f"{path} cannot be encoded: this OpenCV has no VP9 encoder; "
                                f"install one with `{INSTALL_COMMAND}`")
    num_frames = 0
    try:
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            num_frames += 1
    finally:
        writer.release()
    if not path.is_file() or not path.stat().st_size:
        raise OSError("the encoder left no file")
    return num_frames
