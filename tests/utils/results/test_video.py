"""Videos are read back and compared with the frames that went in."""
import builtins
import logging

import numpy as np
import pytest

import utils.results.video as module
from utils.errors import WriteError
from utils.results.video import write_video

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg",
                                     reason="imageio-ffmpeg, an extra, is not installed")
NUM_FRAMES, FPS = 6, 10


def moving_frames(height, width, num_frames=NUM_FRAMES):
    """Red left, blue right, a green bar that moves."""
    for i in range(num_frames):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, :width // 2, 0] = 200
        frame[:, width // 2:, 2] = 200
        frame[4 * i:4 * i + 8] = (0, 180, 0)
        yield frame


def read_back(path):
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]


def check_frames(frames, height, width):
    assert len(frames) == NUM_FRAMES
    for i, (found, expected) in enumerate(zip(frames, moving_frames(height, width))):
        assert found.shape == (height + height % 2, width + width % 2, 3)
        # away from edges: lossy codec and 4:2:0 colours leave a few levels; swapped ones leave 200
        for row, column in [(4 * i + 3, 10), (height - 5, 8), (height - 5, width - 8)]:
            difference = found[row, column].astype(int) - expected[row, column]
            assert np.abs(difference).max() < 16, (i, row, column)


@pytest.mark.parametrize("height, width", [(48, 64), (47, 63)])
def test_h264_keeps_frames_sizes_and_colours(tmp_path, height, width):
    path = tmp_path / "video.mp4"
    assert write_video(path, moving_frames(height, width), FPS) == "h264"
    meta, frames = read_back(path)
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == FPS
    check_frames(frames, height, width)
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_index_stands_before_the_frames_so_that_a_page_can_start_early(tmp_path):
    write_video(tmp_path / "video.mp4", moving_frames(48, 64), FPS)
    content = (tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_without_the_package_opencv_writes_vp9(tmp_path, monkeypatch, caplog):
    real_import = builtins.__import__

    def no_ffmpeg(name, *args, **kwargs):
        if name == "imageio_ffmpeg":
            raise ImportError("No module named 'imageio_ffmpeg'")
        return real_import(name, *args, **kwargs)

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(builtins, "__import__", no_ffmpeg)
        assert write_video(tmp_path / "video.mp4", moving_frames(47, 63), FPS) == "vp9"
    assert "pip install imageio-ffmpeg" in caplog.text
    meta, frames = read_back(tmp_path / "video.mp4")
    assert meta["codec"] == "vp9"
    check_frames(frames, 47, 63)


@pytest.mark.parametrize("frames, message", [
    ([], "got none"),
    ([np.zeros((8, 8, 3), np.float32)], "need uint8"),
    ([np.zeros((8, 8), np.uint8)], "need uint8"),
    ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "the first was")])
def test_bad_frames_are_refused_and_an_earlier_video_stays(tmp_path, frames, message):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(ValueError, match=message):
        write_video(path, frames)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mp4"):
        write_video(tmp_path / "video.gif", moving_frames(8, 8))


def test_file_cut_short_on_a_full_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_count_frames", lambda path: 2)
    with pytest.raises(WriteError, match="only 2 of 6"):
        write_video(tmp_path / "video.mp4", moving_frames(48, 64), FPS)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="video.mp4"):
        write_video(tmp_path / "file" / "video.mp4", moving_frames(48, 64), FPS)
