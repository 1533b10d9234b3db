"""What processes that run the tests beside each other share is made once."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.shared_folder import SharedFolder


def test_a_part_is_written_once_whoever_asks(tmp_path):
    """Each of four askers opens the folder itself, as processes do."""
    written = []

    def write(folder):
        written.append(folder)
        (folder / "file.txt").write_text("whole")

    def ask(_):
        return (SharedFolder(tmp_path).once("part", write) / "file.txt").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(8))) == ["whole"] * 8
    assert len(written) == 1


def test_an_error_leaves_nothing_and_the_next_tries_again(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        SharedFolder(tmp_path).once("part", fail)
    part = SharedFolder(tmp_path).once("part", lambda folder: (folder / "whole.txt").touch())
    assert [path.name for path in part.iterdir()] == ["whole.txt"]
