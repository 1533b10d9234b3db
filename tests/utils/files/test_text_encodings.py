"""Text files as editors and programs of Windows leave them: marks are left out, encodings named."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.ball_scene import ball_scene
from support.capture_files import write_colmap, write_middlebury, write_transforms

from data_processing.captures.readers.colmap_project import read_colmap
from data_processing.captures.readers.middlebury_format import read_middlebury
from data_processing.captures.readers.transforms_format import read_transforms
from data_processing.scenes.normalization import sphere_from_yaml
from utils.config.parser import parse_config
from utils.config.tool_sections import ImportConfig
from utils.errors import ConfigError, SceneError
from utils.files.limits import each_line, read_json, read_text


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=3, resolution=(16, 12))


def encode(path: Path, encoding: str) -> Path:
    """Write a text file again in another encoding."""
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    return path


def test_marks_are_left_out(ball, tmp_path):
    """transforms.json, COLMAP's text, *_par.txt, scene.yaml and config files."""
    for kind, write, read, pattern in (
            ("t", write_transforms, read_transforms, "transforms.json"),
            ("c", lambda scene, folder: write_colmap(scene, folder, ".txt"), read_colmap,
             "sparse/0/*.txt"),
            ("m", write_middlebury, read_middlebury, "*_par.txt")):
        folder = write(ball, tmp_path / kind)
        views = read(folder).views
        for path in folder.glob(pattern):
            encode(path, "utf-8-sig")
        for ours, theirs in zip(read(folder).views, views, strict=True):
            np.testing.assert_array_equal(ours.view, theirs.view)
    (tmp_path / "scene.yaml").write_text("center: [1, 2, 3]\nradius: 2\n", encoding="utf-8-sig")
    assert sphere_from_yaml(tmp_path).radius == 2
    config = tmp_path / "import.txt"
    config.write_text("# Notepad\r\ninput = a\r\nmax_size = 64\r\n", encoding="utf-8-sig")
    found = parse_config([ImportConfig], ["--config_filepath", str(config), "--output", "b"])
    assert found.importing.max_size == 64


@pytest.mark.parametrize("encoding, message", [
    ("utf-16", "it is UTF-16, need UTF-8.*iconv -f utf-16"),
    ("utf-16-be", "not readable"),
    ("cp1252", r"Windows-1252 \(ü\), need UTF-8.*iconv -f cp1252 -t utf-8")])
def test_other_encodings_are_named(tmp_path, encoding, message):
    path = tmp_path / "a.json"
    path.write_bytes('{"file": "B\u00fcste.png"}'.encode(encoding))
    for read in (lambda: read_text(path, 1000, error=SceneError),
                 lambda: list(each_line(path, 1000, error=SceneError)),
                 lambda: read_json(path, error=SceneError)):
        with pytest.raises(SceneError, match=message):
            read()
    with pytest.raises(ConfigError, match=message):
        parse_config([ImportConfig], ["--config_filepath", str(path)])
