"""Binary glTF: read back byte by byte, its colours in linear light."""
from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from support.browser import find_browser
from support.browser_session import Session
from support.three_page import write_three_page

from utils.files.glb import linear_from_srgb, write_glb

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
COLOURS = np.array([[145, 120, 103], [0, 10, 255], [1, 2, 3], [128, 128, 128]], np.uint8)
KINDS = {5123: "<u2", 5125: "<u4", 5126: "<f4"}
SIZES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def read_glb(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The head, and the arrays by attribute; `faces` for the indices."""
    data = path.read_bytes()
    magic, version, length, head_length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    head = json.loads(data[20:20 + head_length])
    binary_length, kind = struct.unpack_from("<I4s", data, 20 + head_length)
    binary = data[28 + head_length:]
    assert kind == b"BIN\0" and binary_length == len(binary) and not (20 + head_length) % 4

    def array(number: int) -> np.ndarray:
        accessor = head["accessors"][number]
        view = head["bufferViews"][accessor["bufferView"]]
        dtype = np.dtype(KINDS[accessor["componentType"]])
        count = accessor["count"] * SIZES[accessor["type"]]
        assert not view["byteOffset"] % 4 and count * dtype.itemsize == view["byteLength"]
        return np.frombuffer(binary, dtype, count, view["byteOffset"]).reshape(
            accessor["count"], -1)
    primitive = head["meshes"][0]["primitives"][0]
    named = {**primitive["attributes"], "faces": primitive["indices"]}
    return head, {name: array(number) for name, number in named.items()}


def test_colours_are_linear_and_the_material_is_not_metallic(tmp_path):
    """(145, 120, 103) is (0.283, 0.188, 0.136) of full light; 16 bits keep each of 256 levels."""
    write_glb(tmp_path / "a.glb", CORNERS, FACES, normals=CORNERS - 0.2, colours=COLOURS)
    head, arrays = read_glb(tmp_path / "a.glb")
    light = arrays["COLOR_0"] / 65535
    np.testing.assert_allclose(light[0], [0.2832, 0.1878, 0.1356, 1], atol=1e-4)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_array_equal(np.round(shown[:, :3] * 255), COLOURS)
    assert head["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert head["accessors"][3]["normalized"] and head["accessors"][1]["max"] == [1, 2, 3]
    np.testing.assert_array_equal(arrays["faces"].reshape(-1, 3), FACES)
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, rtol=1e-6)


def test_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8)
    light = np.round(linear_from_srgb(levels) * 65535)
    assert len(set(light)) == 256 and light[0] == 0 and light[-1] == 65535


@pytest.mark.parametrize("colours", [None, COLOURS])
def test_other_programs_read_it(tmp_path, colours):
    write_glb(tmp_path / "a.glb", CORNERS, FACES, normals=np.zeros((4, 3)), colours=colours)
    mesh = trimesh.load(tmp_path / "a.glb", process=False, force="mesh")
    np.testing.assert_allclose(mesh.vertices, CORNERS)
    np.testing.assert_array_equal(mesh.faces, FACES)


@pytest.mark.skipif(find_browser() is None, reason="no Chromium; make browser installs it")
def test_three_js_shows_the_colours_that_went_in(tmp_path):
    """A row of squares, each of one colour, lit evenly: the sRGB bytes of the mesh are on screen.

    To one level: 16 bits and the renderer's float32 both lie far below half of it.
    """
    colours = np.array([[145, 120, 103], [0, 10, 255], [20, 3, 60], [250, 128, 1]], np.uint8)
    square = np.array([[0, -1, 0], [0.5, -1, 0], [0.5, 1, 0], [0, 1, 0]]) - [1, 0, 0]
    corners = np.concatenate([square + [i / 2, 0, 0] for i in range(4)])
    faces = np.concatenate([np.array([[0, 1, 2], [0, 2, 3]]) + 4 * i for i in range(4)])
    write_glb(tmp_path / "a.glb", corners, faces, normals=np.tile([0.0, 0, 1], (16, 1)),
              colours=colours.repeat(4, 0))
    page = write_three_page(tmp_path / "a.glb", tmp_path / "a.html", (64, 32))
    with Session(tmp_path) as session:
        if not session.has_webgl2():
            pytest.skip("Chromium has no WebGL2")
        session.open(page.as_uri())
        session.wait("window.shown || window.failed")
        assert session.run("window.failed") is None
        picture = session.picture("window.shown")
    for i, colour in enumerate(colours):
        patch = picture[4:28, 16 * i + 2:16 * i + 14].reshape(-1, 3).astype(int)
        np.testing.assert_allclose(patch, np.broadcast_to(colour, patch.shape), atol=1)
