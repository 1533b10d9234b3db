"""The fuzzed readers of exported scenes, their pages and camera paths."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from support.exported_scenes import around, exported
from trust.reading import Reader, check_finite

from realtime.archive import DESCRIPTION, write_parts
from realtime.description import SUM
from realtime.glb import read_glb
from realtime.maps import decode
from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from realtime.web_page import framed_page
from realtime.writing import scene_parts
from utils.geometry.keyframes import keyframes_text, read_keyframes


def _parts() -> dict[str, bytes]:
    """A scene whose description has no sum of itself: else no damage would be looked at."""
    parts = scene_parts(exported("sphere", (16, 12), 2, mesh_resolution=8))
    content = json.loads(parts[DESCRIPTION])
    del content[SUM]
    return {**parts, DESCRIPTION: json.dumps(content).encode("ascii")}


def _make_exported(folder: Path) -> None:
    write_parts(folder / "scene", _parts())


def _read_part(path: Path) -> None:
    """Read a mesh or an image without the sums that scene.json has of them."""
    data = path.read_bytes()
    if path.suffix == ".glb":
        check_finite(torch.from_numpy(read_glb(data, path.name).vertices_obj))
    else:
        decode(data, path.name, is_lossless=path.stem != "poster")


def _make_zipped(folder: Path) -> None:
    write_parts(folder / "scene.zip", _parts())


def _check_exported(path: Path) -> None:
    """Read a scene; what it holds must be finite, and can be rendered."""
    scene = read_scene(path)
    check_finite(scene.features.values(), scene.cameras.object_to_clip,
                 torch.from_numpy(scene.mesh.vertices_obj), *scene.decoder.parameters())
    SceneRenderer(scene).render(scene.cameras[0])


def _make_keyframes(folder: Path) -> None:
    (folder / "path.json").write_text(keyframes_text(around(torch.arange(3.0), (16, 12))))


def _read_keyframes(folder: Path) -> None:
    cameras = read_keyframes(folder / "path.json", around(torch.arange(2.0), (32, 24)))
    check_finite(cameras.view, cameras.projection)


EXPORT_READERS = (
    Reader("exported", _make_exported, lambda folder: _check_exported(folder / "scene"),
           "**/*.json"),
    Reader("scene_parts", _make_exported, _read_part, "**/*.[gw]*", is_single=True),
    Reader("zipped", _make_zipped, _check_exported, is_single=True),
    Reader("page", _make_exported, lambda folder: framed_page(folder / "scene"), "**/*.json"),
    Reader("keyframes", _make_keyframes, _read_keyframes))
