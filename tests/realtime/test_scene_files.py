"""An exported scene is the same after writing and reading; damaged ones end in a clear error."""
from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
import trimesh
from support.exported_scenes import exported

from realtime import description
from realtime.archive import write_parts
from realtime.glb import read_glb, write_glb
from realtime.maps import (
    decode,
    depth_image,
    depth_of,
    encode_lossless,
    encode_picture,
    feature_images,
    features_of,
    quantise_depths,
    quantise_features,
)
from realtime.reading import read_scene
from realtime.scene import TriangleMesh
from realtime.writing import scene_parts, write_scene
from utils.errors import ExportedSceneError, WriteError

SCENE = exported()
PARTS = scene_parts(SCENE)


@pytest.fixture
def folder(tmp_path):
    return write_parts(tmp_path / "scene", PARTS)


def changed(folder, change, name="scene.json"):
    """Let `change` alter a JSON part in place."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256", None)                            # which a test of its own is about
    path.write_text(json.dumps(content))


def replaced(folder, name, data):
    """Write other data for a part, with its length and sum in scene.json."""
    (folder / name).write_bytes(data)

    def restate(content):
        part = next(part for part in content["parts"] if part["name"] == name)
        part |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    changed(folder, restate)


@pytest.mark.parametrize("name", ["scene", "scene.zip"])
def test_a_scene_is_the_same_after_writing_and_reading(name, tmp_path):
    found = read_scene(write_scene(SCENE, tmp_path / name))
    assert (found.name, found.made_by, found.view_names) == (
        SCENE.name, SCENE.made_by, SCENE.view_names)
    assert (found.background, found.up) == (SCENE.background, SCENE.up)
    for one, other in ((found.photographs, SCENE.photographs), (found.masks, SCENE.masks),
                       (found.features.codes, SCENE.features.codes),
                       (found.features.low, SCENE.features.low),
                       (found.features.high, SCENE.features.high),
                       (found.depths.codes, SCENE.depths.codes),
                       (found.depths.ranges, SCENE.depths.ranges),
                       *zip(found.aggregation.parameters(), SCENE.aggregation.parameters()),
                       *zip(found.decoder.parameters(), SCENE.decoder.parameters())):
        assert torch.equal(one, other)
    # intrinsics go through float64 text and back: float32 rounding of numbers below 4
    assert torch.allclose(found.cameras.object_to_clip, SCENE.cameras.object_to_clip, atol=2e-6)
    assert np.array_equal(found.mesh.vertices_obj, SCENE.mesh.vertices_obj)
    assert np.array_equal(found.mesh.faces, SCENE.mesh.faces)
    # 8-bit linear colours of a vertex are coarser than sRGB where it is dark, at most 13 of 255
    assert np.abs(found.mesh.colours.astype(int) - SCENE.mesh.colours).max() <= 13


def test_no_flipped_bit_of_the_description_gives_another_scene(folder):
    """As the weights' files, whose sums it holds: it is refused, or says the same."""
    path, generator = folder / "scene.json", torch.Generator().manual_seed(0)
    whole = path.read_bytes()
    told, num_refused = json.loads(whole), 0
    for bit in torch.randint(8 * len(whole), (200,), generator=generator).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            description.parse_description(bytes(flipped), "scene.json")
        except ExportedSceneError:
            num_refused += 1
            continue
        found = json.loads(flipped)
        assert all(found[key] == value for key, value in told.items() if key != "sha256")
    assert num_refused > 190                               # the others change the sum's own key


def test_a_changed_description_is_told_and_one_without_a_sum_is_read(folder):
    path = folder / "scene.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))                   # laid out otherwise
    read_scene(folder)
    content["depth_tolerance"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ExportedSceneError, match="scene.json: its SHA-256 is not the one"):
        read_scene(folder)
    del content["sha256"]
    path.write_text(json.dumps(content))
    read_scene(folder)


def test_equal_scenes_are_equal_archives(tmp_path):
    paths = [write_scene(SCENE, tmp_path / f"{name}.zip") for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.namelist()[0] == "scene.json"


def test_an_earlier_scene_is_kept_unless_told_otherwise(tmp_path):
    for name in ("scene", "scene.zip"):
        path = write_scene(SCENE, tmp_path / name)
        with pytest.raises(WriteError, match="exists already"):
            write_scene(SCENE, path)
        write_scene(SCENE, path, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").write_text("mine")
    with pytest.raises(WriteError, match="something else"):
        write_scene(SCENE, tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "file.txt").read_text() == "mine"


def test_features_lose_half_a_step():
    features = torch.randn(2, 5, 8, 9)
    mask = torch.rand(2, 1, 8, 9) > 0.3
    found = quantise_features(features, mask)
    step = (found.high - found.low) / 255
    error = ((found.values() - features).abs() * mask).amax((0, 2, 3))
    assert (error <= 0.5001 * step).all()                  # rounding of float32 beside half a step
    assert (found.codes * ~mask).sum() == 0
    assert torch.equal(features_of(feature_images(found.codes[0]), 5), found.codes[0])


def test_depths_lose_half_a_step():
    depth, mask = 2 + torch.rand(2, 1, 8, 9), torch.rand(2, 1, 8, 9) > 0.3
    found = quantise_depths(depth, mask)
    step = (found.ranges[:, 1] - found.ranges[:, 0])[:, None, None, None] / 65_534
    values = found.values()
    assert torch.equal(values.isnan(), ~mask)
    # float32 of a depth below 4 has steps of 2.4e-7, 1.6 % of one of the code
    assert ((values - depth).abs()[mask] <= (0.6 * step).expand_as(depth)[mask]).all()
    codes, seen = depth_of(depth_image(found.codes[0], mask[0]))
    assert torch.equal(codes, found.codes[0]) and torch.equal(seen, mask[0])


def test_maps_without_range_are_kept():
    flat = quantise_features(torch.full((1, 3, 4, 4), 7.0), torch.ones(1, 1, 4, 4).bool())
    assert torch.equal(flat.values(), torch.full((1, 3, 4, 4), 7.0))
    none = quantise_depths(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4).bool())
    assert none.values().isnan().all()


def test_the_mesh_opens_elsewhere_upright():
    mesh = TriangleMesh(np.float32([[0, 0, 0], [1, 0, 0], [0, 0, 1]]), np.int64([[0, 1, 2]]),
                        np.uint8([[255, 0, 0], [0, 128, 0], [0, 0, 10]]))
    found = read_glb(write_glb(mesh, (0.0, 0.0, 1.0)), "mesh.glb")
    assert np.array_equal(found.vertices_obj, mesh.vertices_obj)
    with trimesh.util.wrap_as_stream(write_glb(mesh, (0.0, 0.0, 1.0))) as stream:
        scene = trimesh.load(stream, file_type="glb")
    shown = scene.to_geometry() if hasattr(scene, "to_geometry") else scene.dump(True)
    # what points along "up" in object space points along y in the viewer
    assert np.allclose(shown.vertices[2], [0, 1, 0], atol=1e-6)


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8)])
def test_the_turn_is_a_rotation(up):
    content = write_glb(SCENE.mesh, up)
    start = content.index(b'"rotation":') + len(b'"rotation":')
    quaternion = json.loads(content[start:content.index(b"]", start) + 1])
    matrix = trimesh.transformations.quaternion_matrix([quaternion[3], *quaternion[:3]])[:3, :3]
    assert np.allclose(matrix @ up, [0, 1, 0], atol=1e-6)


DAMAGE = {
    "later version": (lambda c: c.update(version=3), "made by a later version"),
    "no version": (lambda c: c.pop("version"), "version"),
    "other format": (lambda c: c.update(format="splat"), "format"),
    "name leaves": (lambda c: c["parts"][0].update(name="../mesh.glb"), "plain relative name"),
    "absolute name": (lambda c: c["parts"][0].update(name="/etc/passwd"), "plain relative name"),
    "part not listed": (lambda c: c.update(mesh="other.glb"), "name of one of the parts"),
    "too large": (lambda c: c["parts"][0].update(bytes=2 ** 40), "whole number"),
    "size lies": (lambda c: c["parts"][0].update(bytes=5), "more than 5 bytes"),
    "too short": (lambda c: c["parts"][0].update(bytes=10 ** 6), "truncated"),
    "wrong sum": (lambda c: c["parts"][0].update(sha256="0" * 64), "SHA-256"),
    "no views": (lambda c: c.update(views=[]), "views"),
    "wide images": (lambda c: c.update(resolution=[16000, 16000]), "at most 64,000,000 pixels"),
    "other size": (lambda c: c.update(resolution=[33, 24]), "32x24 pixels, need 33x24"),
    "a scale": (lambda c: c["views"][0]["object_to_camera"][0].__setitem__(0, 5), "rotation"),
    "a NaN": (lambda c: c.update(depth_tolerance=float("nan")), "depth_tolerance"),
    "a bool": (lambda c: c["views"][0]["intrinsics"].update(fx=True), "intrinsics.fx"),
    "layer widths": (lambda c: c["decoder"]["layers"][1].update(shape=[3, 17, 3, 3]), "shape"),
    "weights beyond": (lambda c: c["decoder"]["layers"][1].update(weight=10 ** 6), "numbers"),
    "other network": (lambda c: c["aggregation"].update(kind="transformer"), "aggregation.kind"),
    "other prior": (lambda c: c["aggregation"].update(prior=["angle"]), "aggregation.prior"),
    "missing image": (lambda c: c["views"][0]["features"].pop(), "features"),
    "deep": (lambda c: c.update(views=[[[[]]]] * 3), "table"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_description_that_is_wrong_is_told(kind, folder):
    change, message = DAMAGE[kind]
    changed(folder, change)
    with pytest.raises(ExportedSceneError, match=message):
        read_scene(folder)


def test_an_older_version_is_brought_up_to_date(folder, monkeypatch):
    monkeypatch.setattr(description, "VERSION", 3)
    monkeypatch.setattr(description, "MIGRATIONS", {
        1: lambda c: {**c, "label": c["name"]}, 2: lambda c: {**c, "name": c["label"] + "!"}})
    assert read_scene(folder).name == SCENE.name + "!"


def test_a_part_that_is_missing_or_short_is_named(folder):
    path = folder / "views/1/features_2.webp"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ExportedSceneError, match=r"views/1/features_2.webp.*truncated"):
        read_scene(folder)
    path.unlink()
    with pytest.raises(ExportedSceneError, match=r"views/1/features_2.webp.*missing"):
        read_scene(folder)
    (folder / "scene.json").unlink()
    with pytest.raises(ExportedSceneError, match=r"scene.json.*missing"):
        read_scene(folder)
    shutil.rmtree(folder)
    with pytest.raises(ExportedSceneError, match="no such folder"):
        read_scene(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    outside = tmp_path / "outside.webp"
    outside.write_bytes((folder / "poster.webp").read_bytes())
    (folder / "poster.webp").unlink()
    (folder / "poster.webp").symlink_to(outside)
    with pytest.raises(ExportedSceneError, match="leaves the folder"):
        read_scene(folder)


@pytest.mark.parametrize("name, data, message", [
    ("views/0/depth.webp", encode_lossless(np.zeros((24, 33, 3), np.uint8)), "33x24 pixels"),
    ("views/0/depth.webp", encode_picture(np.zeros((24, 32, 3), np.uint8)), "lossy"),
    ("views/0/depth.webp", b"\x89PNG\r\n\x1a\n" + bytes(40), "not a simple WebP"),
    ("views/0/depth.webp", PARTS["views/0/depth.webp"][:60], "damaged WebP"),
    ("weights.bin", PARTS["weights.bin"][:-4], "numbers"),
    ("weights.bin", PARTS["weights.bin"][:-1], "whole float32"),
    ("weights.bin", b"\xff" * len(PARTS["weights.bin"]), "not finite"),
    ("mesh.glb", PARTS["mesh.glb"][:-9], "states"),
    ("mesh.glb", PARTS["mesh.glb"].replace(b'"count":', b'"Count":'), "no readable GLB"),
    ("mesh.glb", PARTS["mesh.glb"].replace(b'VEC3', b'VEC2'), "kind VEC2")])
def test_a_part_of_another_kind_is_told(name, data, message, folder):
    replaced(folder, name, data)
    with pytest.raises(ExportedSceneError, match=message):
        read_scene(folder)


def test_an_image_that_states_a_huge_size_is_not_decoded():
    head = bytearray(PARTS["views/0/depth.webp"])
    head[21:25] = (0xFFFFFFF).to_bytes(4, "little")        # 16,384 x 16,384
    with pytest.raises(ExportedSceneError, match="16384x16384"):
        decode(bytes(head), "depth.webp", size=(32, 24))


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "a//b", ""])
def test_an_archive_with_paths_that_leave_it_is_refused(name, tmp_path):
    path = write_parts(tmp_path / "scene.zip", PARTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(ExportedSceneError, match="no plain name"):
        read_scene(path)


def test_archives_that_are_damaged_or_packed_otherwise_are_refused(tmp_path):
    path = write_parts(tmp_path / "scene.zip", PARTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ExportedSceneError, match="not a readable zip"):
        read_scene(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in PARTS.items():
            archive.writestr(name, data)
    with pytest.raises(ExportedSceneError, match="stored or deflated"):
        read_scene(path)


def test_names_are_data(tmp_path):
    name = "<img src=x onerror=alert(1)>\x1b[31m\ud800"
    found = read_scene(write_scene(
        exported("sphere", (16, 12), 1).__class__(**{**vars(SCENE), "name": name}),
        tmp_path / "s"))
    assert found.name == name
