"""Files made to do harm end in our own error: nothing runs, nothing large is allocated, no path
leads out of its folder."""
from __future__ import annotations

import io
import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hostile_files import (
    Evil,
    checkpoint_of,
    checkpoint_program,
    lying_flo,
    nested_keys,
    npy_of_shape,
    object_npz,
    old_checkpoint,
    ply_head,
    png_of_size,
    png_with_text_bomb,
    shared_lists,
    yaml_laughs,
    zip_of,
    zip_that_lies,
)
from trust.fuzz_readers import raise_hidden
from trust.readers import READERS

from data_processing.captures.paths import check_inside
from data_processing.scenes import scene as scenes
from utils.checkpoints.inspection import check_checkpoint
from utils.errors import SceneError, UserError
from utils.files import limits, pickles as safe_pickle

#: What a refusal may map beside what is mapped already. Sound files of the tests need under 1 MB,
#: and Pillow unpacks up to 64 MB of comments; each bomb here would take gigabytes.
MEMORY_BYTES = 256 * 2**20


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Allocations of more than MEMORY_BYTES fail in the block."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


needs_linux = pytest.mark.skipif(not Path("/proc/self/statm").is_file(),
                                 reason="the mapped memory is read from Linux's /proc")


def npy(content: object) -> bytes:
    """As numpy.save writes an object, which is not looked into."""
    array = np.empty((), object)
    array[()] = content
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def torch_saved(content: object, **how) -> bytes:
    """As torch.save writes an object."""
    out = io.BytesIO()
    torch.save(content, out, **how)
    return out.getvalue()


Content = bytes | str | Callable[[Path], bytes]

PICKLES: list[tuple[str, str, str, Content, str]] = [
    (reader, name, f"code-{name}", content, "system") for reader, name, content in (
        ("processed", "001_rgb_meta.npy", lambda m: npy({"view": Evil(m)})),
        ("processed", "model_matrix.npy", lambda m: npy(Evil(m))),
        ("pickle", "p4.pkl", lambda m: pickle.dumps([Evil(m)])),
        ("pickle", "p0.pkl", lambda m: pickle.dumps({"a": Evil(m)}, 0)),
        ("pickle", "dict.npy", lambda m: pickle.dumps(Evil(m))),
        ("lpips", "a.ckpt", lambda m: pickle.dumps({"AlexNet_0": Evil(m)})),
        ("lpips", "b.pth", lambda m: torch_saved({"lin0.model.1.weight": Evil(m)})),
        ("checkpoint", "run.pth", lambda m: torch_saved({"task": Evil(m)})),
        ("checkpoint", "net.pth", lambda m: torch_saved({"sdf": Evil(m)}, pickle_protocol=4)),
        ("checkpoint", "old.pth", lambda m: torch_saved(
            {"sdf": Evil(m)}, _use_new_zipfile_serialization=False)),
        ("checkpoint", "release.pth", lambda m: pickle.dumps(Evil(m))))]
PICKLES += [
    ("npz", "scene/cameras_sphere.npz", "code-npz", object_npz, "pickled objects"),
    ("yaml", "scene.yaml", "code-yaml",
     lambda m: f"!!python/object/apply:os.system ['touch {m}']".encode(), "not readable as yaml")]

BOMBS: list[tuple[str, str, str, Content, str]] = [
    ("processed", "001_rgb_meta.npy", "shared-lists", npy({"view": shared_lists()}), "multiply"),
    ("processed", "model_matrix.npy", "shared-text", npy({"a": ["x" * 10**5] * 10**5}), "multiply"),
    ("pickle", "p4.pkl", "keys-that-take-2**60-steps", nested_keys(), "as key"),
    ("pickle", "plain.bin", "npy-shape", npy_of_shape("(1000000000000,)"), "damaged"),
    ("pickle", "plain.bin", "npy-deep", npy_of_shape("(" * 90 + "1" + ",)" * 90), "damaged"),
    ("pickle", "plain.bin", "npy-subarray", npy_of_shape("(1,)", "V8"), "damaged|holds"),
    ("npz", "scene/cameras_sphere.npz", "npz-shape",
     zip_of(world_mat_0_dot_npy=npy_of_shape("(1000000000000,)")), "damaged"),
    ("npz", "scene/cameras_sphere.npz", "npz-entry-lie", zip_that_lies(),
     "says 4,294,967,167 bytes"),
    ("npz", "scene/cameras_sphere.npz", "npz-zeros",
     zip_of(zipfile.ZIP_DEFLATED, world_mat_0_dot_npy=npy_of_shape("(4, 4)", data=bytes(2**27))),
     "bytes unpacked"),
    ("yaml", "scene.yaml", "yaml-aliases", yaml_laughs(), "aliases"),
    ("yaml", "scene.yaml", "yaml-deep", "center: " + "[" * 50_000, "not readable as yaml"),
    ("yaml", "scene.yaml", "yaml-digits", f"center: [0, 0, 0]\nradius: 0x{'f' * 5000}",
     "of thousands of digits"),
    ("yaml", "scene.yaml", "yaml-long", "a" * 2**17, "bytes, need at most"),
    ("transforms", "transforms.json", "json-deep", "[" * 100_000 + "]" * 100_000, "as JSON"),
    ("transforms", "transforms.json", "json-wide",
     '{"frames": [' + ",".join(["{}"] * 100_001) + "]}", "need a list of 1 to 100,000"),
    ("tables", "metrics.json", "json-deep-metrics", '{"a":' * 100_000, "no results"),
    ("tables", "curve.csv", "csv-field", "step,psnr\n1," + "9" * 200_000, "no results"),
    ("manifest", "checkpoints/manifest.json", "json-deep-manifest", "[" * 100_000,
     "not a manifest"),
    ("images", "d.png", "png-huge", png_of_size(60_000, 60_000), "too large"),
    ("images", "d.png", "png-beyond-int", png_of_size(2**31 - 1, 2**31 - 1), "too large"),
    ("images", "d.png", "png-large-and-empty", png_of_size(4000, 3000), "unreadable or truncated"),
    ("images", "d.png", "png-chunk-lie",
     png_of_size(5, 4, bytes(64)).replace(b"IEND", b"IDAT").replace(
         b"\0\0\0\0IDAT", b"\xf0\0\0\0IDAT"), "a chunk of 4,026,531,840 bytes"),
    ("images", "d.png", "png-no-pixels", png_of_size(0, 5), "unreadable or truncated"),
    ("images", "d.png", "png-comment", png_with_text_bomb(), "unreadable or truncated"),
    ("images", "c.ppm", "ppm-huge", b"P6\n100000 100000\n255\n",
     "need 8-bit|too large|unreadable|in the format"),
    ("tables", "views/004_error.png", "png-huge-result", png_of_size(60_000, 60_000), "too large"),
    ("tables", "views/004_error.png", "png-long-result",
     png_of_size(16, 40_000, bytes(17 * 40_000)), "times the other"),
    ("flow", "a.flo", "flo-huge", lying_flo(2**31 - 1, 2**31 - 1), "need 1 to"),
    ("flow", "a.flo", "flo-lie", lying_flo(8000, 8000), "truncated"),
    ("flow", "a.flo", "flo-negative", lying_flo(-8, -8), "need 1 to"),
    ("flow", "b.pfm", "pfm-lie", b"Pf\n8000 8000\n-1\n", "truncated|channels"),
    ("ply", "cloud1.ply", "ply-count", ply_head(
        "element vertex 999999999999", "property float x", "property float y", "property float z"),
     "more than 64,000,000"),
    ("ply", "cloud1.ply", "ply-count-below-limit", ply_head(
        "element vertex 20000000", "property float x", "property float y", "property float z"),
     "truncated"),
    ("ply", "cloud0.ply", "ply-ascii-count", ply_head(
        "element vertex 20000000", "property float x", "property float y", "property float z",
        encoding="ascii"), "truncated"),
    ("ply", "cloud1.ply", "ply-no-head-end", b"ply\n" + b"comment x\n" * 100_000, "no head"),
    ("colmap_bin", "sparse/0/cameras.bin", "colmap-count", b"\xff" * 8, "truncated"),
    ("colmap_bin", "sparse/0/points3D.bin", "colmap-points", (2**40).to_bytes(8, "little"),
     "truncated"),
    ("checkpoint", "run.pth", "storage-larger-than-entry",
     checkpoint_of(checkpoint_program(10**9, (4,), (1,))), "needed 4,000,000,000"),
    ("checkpoint", "run.pth", "tensor-larger-than-storage",
     checkpoint_of(checkpoint_program(4, (10**9,), (1,))), "in a storage of 4"),
    ("checkpoint", "run.pth", "tensor-of-stride-0",
     checkpoint_of(checkpoint_program(4, (10**5, 10**5), (0, 0))), "in a storage of 4"),
    ("checkpoint", "run.pth", "zip-of-nothing", zip_of(), "data.pkl|empty|damaged"),
    ("checkpoint", "run.pth", "zip-zeros", checkpoint_of(
        checkpoint_program(2**26, (4,), (1,)), bytes(2**28), zipfile.ZIP_DEFLATED), "compressed"),
    ("checkpoint", "run.pth", "bytearray", checkpoint_of(
        b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85Rs."),
     "bytearray"),
    ("checkpoint", "run.pth", "empty-tensor-by-size", checkpoint_of(
        b"\x80\x02}X\x01\x00\x00\x00actorch\nTensor\nJ\xff\xff\xff\x7f\x85Rs."), "torch.Tensor"),
    ("checkpoint", "run.pth", "hash-keys", checkpoint_of(b"\x80\x02" + nested_keys()), "as key"),
    ("checkpoint", "run.pth", "shared-lists-checkpoint",
     torch_saved({"curve": shared_lists()}), "multiply"),
    ("checkpoint", "old.pth", "old-storage", old_checkpoint(2**31 - 1), "need"),
    ("config", "run.txt", "config-long", "a = 1\n" * 300_000, "bytes, need at most"),
]


def transforms_with(**changes) -> Callable[[Path], bytes]:
    """The sound transforms.json beside the marker, its first frame changed."""
    def content(marker: Path) -> bytes:
        found = json.loads((marker.parent / "place" / "transforms.json").read_text())
        found["frames"][0] |= changes
        return json.dumps(found).encode()
    return content


def first_word(name: str, word: str, column: int) -> Callable[[Path], bytes]:
    """The sound text file with a word of its last lines replaced."""
    def content(marker: Path) -> bytes:
        lines = (marker.parent / "place" / name).read_text().split("\n")
        at = next(i for i, line in enumerate(lines) if len(line.split()) > 9 and line[0] != "#")
        words = lines[at].split()
        words[column] = word
        return "\n".join([*lines[:at], " ".join(words), *lines[at + 1:]]).encode()
    return content


def manifest_with(**changes) -> Callable[[Path], bytes]:
    """The sound manifest, its first entry changed."""
    def content(marker: Path) -> bytes:
        path = marker.parent / "place" / "checkpoints" / "manifest.json"
        found = json.loads(path.read_text())
        found["files"][0] |= changes
        return json.dumps(found).encode()
    return content


NAN = [[float("nan")] * 4] * 4
ESCAPES: list[tuple[str, str, str, Content, str]] = [
    ("transforms", "transforms.json", "up", transforms_with(file_path="../images/000.png"),
     r"frame 0, file_path: '../images/000.png' leads out of .*move or copy the images"),
    ("transforms", "transforms.json", "absolute", transforms_with(file_path="/etc/passwd"),
     "leads out"),
    ("transforms", "transforms.json", "backslashes", transforms_with(file_path="..\\..\\x.png"),
     "leads out"),
    ("transforms", "transforms.json", "mask", transforms_with(mask_path="../../mask.png"),
     "frame 0, mask_path.*leads out"),
    ("transforms", "transforms.json", "zero", transforms_with(file_path="a\0.png"),
     "need the path"),
    ("transforms", "transforms.json", "surrogate", transforms_with(file_path="\ud800"),
     "need the path"),
    ("transforms", "transforms.json", "long-name", transforms_with(file_path="n" * 5000),
     "need the path"),
    ("colmap_text", "sparse/0/images.txt", "colmap-up",
     first_word("sparse/0/images.txt", "../../000.png", 9), "leads out"),
    ("middlebury", "a/ball_par.txt", "par-up", first_word("a/ball_par.txt", "../000.png", 0),
     "leads out"),
    ("manifest", "checkpoints/manifest.json", "manifest-name", manifest_with(name="../w.pth"),
     "not sound"),
    ("manifest", "checkpoints/manifest.json", "manifest-address",
     manifest_with(address="../../../etc/passwd"), "not sound"),
    ("manifest", "checkpoints/manifest.json", "manifest-zero", manifest_with(address="a\0"),
     "not sound"),
    ("manifest", "checkpoints/manifest.json", "manifest-size", manifest_with(size=10**400),
     "not sound"),
    ("transforms", "transforms.json", "nan", transforms_with(transform_matrix=NAN), "NaN"),
    ("transforms", "transforms.json", "huge-number", transforms_with(fl_x=10**400), "NaN"),
    ("processed", "001_rgb_meta.npy", "nan-meta",
     npy({"view": np.full((4, 4), np.nan), "projection": np.eye(4)}), "NaN"),
    ("processed", "model_matrix.npy", "inf-model",
     npy({"model_matrix": np.diag([np.inf, 1, 1, 1])}), "infinity"),
    ("processed", "model_matrix.npy", "beyond-float32",
     npy({"model_matrix": np.diag([1e300, 1e300, 1e300, 1])}), "need numbers up to"),
    ("processed", "model_matrix.npy", "vanishing",
     npy({"model_matrix": np.diag([1e-200, 1e-200, 1e-200, 1])}), "singular"),
    ("middlebury", "a/ball_par.txt", "par-nan", first_word("a/ball_par.txt", "nan", 5),
     "not finite"),
    ("ply", "cloud0.ply", "ply-nan", ply_head(
        "element vertex 1", "property float x", "property float y", "property float z",
        encoding="ascii") + b"nan 0 0\n", "not finite"),
]


@needs_linux
@pytest.mark.parametrize("reader, name, content, words", [
    pytest.param(reader, name, content, words, id=f"{reader}-{case}")
    for reader, name, case, content, words in PICKLES + BOMBS + ESCAPES])
def test_hostile_files_are_refused(tmp_path, reader, name, content, words):
    marker, place = tmp_path / "marker", tmp_path / "place"
    place.mkdir()
    READERS[reader].make(place)
    data = content(marker) if callable(content) else content
    (place / name).write_bytes(data.encode() if isinstance(data, str) else data)
    target = place / name if READERS[reader].is_single else place
    with bounded_memory(), pytest.raises(UserError, match=f"(?s){words}") as caught:
        READERS[reader].read(target)
    raise_hidden(caught.value)                        # no error of ours that hides a MemoryError
    assert not marker.exists()
    assert name.rsplit("/", 1)[-1].split(".")[0].strip("a") in str(caught.value)


def test_the_pickles_of_these_tests_do_run_where_nobody_looks(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


def test_pickles_of_more_operations_than_any_file_has_are_refused(monkeypatch):
    """A byte each makes a dict of 64: within the bound of bytes they would be 32 GB."""
    monkeypatch.setattr(safe_pickle, "MAX_OPERATIONS", 100)
    assert len(safe_pickle.load_restricted_pickle(io.BytesIO(b"(" + b"}" * 90 + b"t."), "a")) == 90
    with pytest.raises(UserError, match="more than 100 operations"):
        safe_pickle.load_restricted_pickle(io.BytesIO(b"(" + b"}" * 200 + b"t."), "a")


def test_the_checkpoint_made_by_hand_is_sound_but_for_its_lies(tmp_path):
    (tmp_path / "a.pth").write_bytes(checkpoint_of(checkpoint_program(4, (2, 2), (2, 1))))
    with (tmp_path / "a.pth").open("rb") as stream:
        check_checkpoint(stream)
    assert torch.load(tmp_path / "a.pth", weights_only=True)["sdf"].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("reader, name", [("transforms", "images/000.png"),
                                          ("colmap_text", "images/000.png"),
                                          ("middlebury", "a/000.png")])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, reader, name):
    place = tmp_path / "place"
    place.mkdir()
    READERS[reader].make(place)
    (place / name).rename(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", place / name)
    with pytest.raises(SceneError, match=r"000.png.*leads out of"):
        READERS[reader].read(place)


def test_a_suffix_that_is_added_does_not_lead_out(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    READERS["transforms"].make(place)
    content = json.loads((place / "transforms.json").read_text())
    content["frames"][0]["file_path"] = "images/000"
    (place / "transforms.json").write_text(json.dumps(content))
    READERS["transforms"].read(place)
    (place / "images" / "000.png").rename(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", place / "images" / "000.png")
    with pytest.raises(SceneError, match=r"images/000.png.*leads out of"):
        READERS["transforms"].read(place)


def test_links_in_a_circle_are_refused(tmp_path):
    os.symlink(tmp_path / "b", tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "b")
    try:
        check_inside(tmp_path / "a", tmp_path, "x")   # newer Pythons resolve it to itself
    except SceneError as error:
        assert "cannot be followed" in str(error)


def test_a_scene_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    READERS["processed"].make(tmp_path / "scene")
    monkeypatch.setattr(limits, "free_memory", lambda: 20_000)
    with pytest.raises(SceneError, match=r"5 views of 24x16.*--load_im_scale"):
        scenes.load_scene(tmp_path / "scene")
    monkeypatch.setattr(limits, "free_memory", lambda: None)
    assert len(scenes.load_scene(tmp_path / "scene")) == 5
