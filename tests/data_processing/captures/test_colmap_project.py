"""COLMAP projects: the model that is read, its images, and text models of other tools."""
from __future__ import annotations

import pytest
from support.ball_scene import ball_scene
from support.foreign_captures import colmap_models, colmap_text

from data_processing.captures.masks import find_masks
from data_processing.captures.readers.colmap_project import read_colmap
from data_processing.captures.recognising import recognise
from utils.errors import SceneError

ALL = list(range(7))


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.6, num_views=7, resolution=(16, 12))


@pytest.mark.parametrize("places, chosen, others", [
    ({"sparse/0": ([0, 1], ".bin"), "sparse/1": (ALL, ".bin")}, "sparse/1 (binary)",
     ["sparse/0 (binary) with 2 images"]),
    ({"sparse/1": (ALL, ".txt")}, "sparse/1 (text)", []),
    ({"undistorted/sparse": (ALL, ".bin")}, "undistorted/sparse (binary)", []),
    ({"sparse": (ALL, ".bin")}, "sparse (binary)", []),
    ({"0": (ALL, ".bin"), "1": ([3, 4], ".bin")}, "0 (binary)", ["1 (binary) with 2 images"]),
    ({"sparse/0": (ALL, ".bin"), "dense/sparse": (ALL, ".bin")}, "sparse/0 (binary)",
     ["dense/sparse (binary) with 7 images"])])
def test_the_model_with_most_images_is_read(ball, tmp_path, places, chosen, others):
    """It is named, and so is what the others hold."""
    folder = colmap_models(ball, tmp_path / "c", places)
    assert recognise(folder) == "colmap"
    found = read_colmap(folder)
    assert len(found.views) == 7 and f"COLMAP model {chosen}" in found.source
    assert all(words in found.source for words in others)
    assert ("not read" in found.source) == bool(others)


def test_both_forms_of_a_model(ball, tmp_path):
    """The text of 7 views goes before the binary files of 3; of two alike, the binary ones."""
    folder = colmap_models(ball, tmp_path / "c", {"sparse/0": ([0, 1, 2], ".bin")})
    colmap_models(ball, folder, {"sparse/0": (ALL, ".txt")})
    found = read_colmap(folder)
    assert len(found.views) == 7
    assert "sparse/0 (text); not read: sparse/0 (binary) with 3 images" in found.source
    colmap_models(ball, folder, {"sparse/0": (ALL, ".bin")})
    assert "sparse/0 (binary); not read: sparse/0 (text) with 7" in read_colmap(folder).source


def test_images_that_are_gone_do_not_count(ball, tmp_path):
    folder = colmap_models(ball, tmp_path / "c", {"sparse/0": ([0, 1, 2, 3], ".bin"),
                                                  "sparse/1": ([4, 5, 6], ".bin")})
    for i in (1, 2, 3):
        (folder / "images" / f"{i:03d}.png").unlink()
    assert [view.name for view in read_colmap(folder).views] == ["004", "005", "006"]


def test_a_damaged_model_is_said(ball, tmp_path):
    folder = colmap_models(ball, tmp_path / "c", {"sparse/0": (ALL, ".bin"),
                                                  "sparse/1": (ALL, ".bin")})
    (folder / "sparse" / "0" / "images.bin").write_bytes(b"\1")
    found = read_colmap(folder)
    assert "sparse/1" in found.source and "damaged" in found.source
    (folder / "sparse" / "1" / "images.bin").write_bytes(b"\1")
    with pytest.raises(SceneError, match="truncated"):
        read_colmap(folder)


def test_undistorted_images_belong_to_their_model(ball, tmp_path):
    """Both folders have images of the same names: those beside the model are its own."""
    folder = colmap_models(ball, tmp_path / "c", {"undistorted/sparse": (ALL, ".bin")})
    (folder / "undistorted" / "images").mkdir()
    for path in (folder / "images").iterdir():
        (folder / "undistorted" / "images" / path.name).write_bytes(path.read_bytes())
    assert all(view.image.parent == folder / "undistorted" / "images"
               for view in read_colmap(folder).views)


@pytest.mark.parametrize("lines", ["none", "empty", "points"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_models_of_other_tools(ball, tmp_path, lines, line_end):
    """The line of points is absent, empty or full; every view is read in each case."""
    folder = colmap_text(ball, tmp_path / "c", lines, line_end,
                         "# Image list\n# Number of images: 7, mean observations per image: 0\n")
    found = read_colmap(folder)
    assert [view.name for view in found.views] == list(ball.view_names)


@pytest.mark.parametrize("stated", [6, 13])
def test_another_number_of_images_is_refused(ball, tmp_path, stated):
    folder = colmap_text(ball, tmp_path / "c", "none", head=f"# Number of images: {stated}\n")
    with pytest.raises(SceneError, match=f"states {stated} images, 7 follow.*export the model"):
        read_colmap(folder)


def test_names_with_spaces_and_of_numbers(ball, tmp_path):
    folder = colmap_text(ball, tmp_path / "c", "none")
    text = folder / "sparse" / "0" / "images.txt"
    text.write_text(text.read_text().replace("000.png", "Image at 10.00 (1).png")
                    .replace("001.png", "2 3.png"))
    (folder / "images" / "000.png").rename(folder / "images" / "Image at 10.00 (1).png")
    (folder / "images" / "001.png").rename(folder / "images" / "2 3.png")
    names = [view.image.name for view in read_colmap(folder).views]
    assert len(names) == 7 and {"Image at 10.00 (1).png", "2 3.png"} <= set(names)


def test_names_in_other_capitals(ball, tmp_path):
    """000.PNG is read for 000.png; of two that differ in capitals alone, neither is."""
    folder = colmap_models(ball, tmp_path / "c", {"sparse/0": (ALL, ".bin")})
    for path in sorted((folder / "images").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    found = read_colmap(folder)
    assert len(found.views) == 7 and not found.left_out
    assert None not in find_masks(found.root, found.views)
    data = (folder / "images" / "000.PNG").read_bytes()
    (folder / "images" / "000.Png").write_bytes(data)
    assert "000.png: no such file" in read_colmap(folder).left_out[0]
