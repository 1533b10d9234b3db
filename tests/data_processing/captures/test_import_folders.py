"""The folders of an import: what is read is never what is written."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.ball_scene import ball_scene
from support.capture_files import write_pictures, write_transforms

from data_processing.captures.importing import import_capture, import_scene
from data_processing.scenes.writing import check_apart, write_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import ConfigError


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=4, resolution=(24, 18))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


def refuse(source: Path, target: Path, kept: Path, **more) -> None:
    """The import is refused whatever the flags, and nothing below `kept` has changed."""
    before = content(kept)
    for overwrite in (0, 1):
        with pytest.raises(ConfigError, match="two apart.*give another --output"):
            import_scene(ImportConfig(input=str(source), output=str(target), max_size=12,
                                      overwrite=overwrite, **more))
    assert content(kept) == before


@pytest.mark.parametrize("kind", ["processed", "idr"])
def test_a_scene_is_not_imported_onto_itself(ball, tmp_path, monkeypatch, kind):
    """The same folder, also through a link and by other spellings of its path."""
    folder = write_scene(ball, tmp_path / "data" / "scene", kind)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "above").symlink_to(folder.parent)
    monkeypatch.chdir(tmp_path)
    for target in (folder, tmp_path / "link", tmp_path / "above" / "scene", Path("data/../link"),
                   Path("data/scene")):
        refuse(folder, target, folder)
        refuse(target, folder, folder, scene_format="idr")


def test_folders_that_lie_in_each_other(ball, tmp_path):
    folder = write_scene(ball, tmp_path / "scene", "idr")
    refuse(folder, folder / "image", folder)
    refuse(folder, folder / "new" / "scene", folder)
    refuse(folder / "image", folder, folder)
    check_apart(folder, tmp_path / "scene_2")             # a name that begins alike is no problem


def test_photographs_behind_a_link_of_the_capture(ball, tmp_path):
    """images/ is a link into the folder that would be replaced."""
    scene = write_scene(ball, tmp_path / "scene", "idr")
    capture = write_transforms(ball, tmp_path / "capture")
    for path in (capture / "images").iterdir():
        path.unlink()
    (capture / "images").rmdir()
    os.symlink(scene / "image", capture / "images")
    before = content(scene)
    with pytest.raises(ValueError):                       # a UserError of either check
        import_scene(ImportConfig(input=str(capture), output=str(scene), overwrite=1))
    assert content(scene) == before


def test_copies_do_not_go_among_the_photographs(ball, tmp_path):
    """OUTPUT_colmap is where copies are written, so it cannot be what is read."""
    write_pictures(ball, tmp_path / "scene_colmap", None)
    for source in ("scene_colmap", "scene_colmap/images"):
        with pytest.raises(ConfigError, match="COLMAP's folder of --output"):
            import_capture(ImportConfig(input=str(tmp_path / source),
                                        output=str(tmp_path / "scene")))
