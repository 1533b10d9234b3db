"""Flow files, float maps and pictures: round trips, the real files, and every kind of damage."""
from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from support.flow_cases import shared_flow

from data_processing.flow import files as flow_files
from data_processing.flow.files import (
    read_flo,
    read_occlusion,
    read_pfm,
    read_picture,
    write_flo,
    write_occlusion,
    write_pfm,
)
from utils.errors import SceneError, WriteError

FLOW = np.random.default_rng(0).normal(0, 20, (5, 7, 2)).astype(np.float32)


def refused(read, path, *words, **options):
    with pytest.raises(SceneError) as caught:
        read(path, **options)
    told = str(caught.value)
    assert all(word in told for word in (str(path), "need", *words)), told


def test_flow_round_trip_keeps_bits_and_marks_unknown_pixels(tmp_path):
    known = np.ones((5, 7), bool)
    known[1, 2] = known[4, 6] = False
    write_flo(tmp_path / "deep" / "a.flo", FLOW, known)
    found = read_flo(tmp_path / "deep" / "a.flo")
    assert np.array_equal(found.known_mask, known)
    assert np.array_equal(found.flow[known], FLOW[known]) and (found.flow[~known] == 0).all()
    write_flo(tmp_path / "b.flo", FLOW)
    assert read_flo(tmp_path / "b.flo").known_mask.all()


@pytest.mark.parametrize("mark", [np.nan, np.inf, 1e10, -1.7e9])
def test_middleburys_marks_are_unknown_in_either_component(tmp_path, mark):
    flow = FLOW.copy()
    flow[2, 3, 0] = flow[0, 1, 1] = mark
    flow[4, 4] = 1e9                                      # the bound itself is still a number
    write_flo(tmp_path / "a.flo", flow)
    found = read_flo(tmp_path / "a.flo")
    assert np.argwhere(~found.known_mask).tolist() == [[0, 1], [2, 3]]
    assert np.isfinite(found.flow).all()


def test_the_layout_of_a_flow_file_is_middleburys(tmp_path):
    write_flo(tmp_path / "a.flo", FLOW)
    data = (tmp_path / "a.flo").read_bytes()
    assert data[:4] == b"PIEH" and struct.unpack("<ii", data[4:12]) == (7, 5)
    assert struct.unpack("<ff", data[12:20]) == tuple(FLOW[0, 0])


@pytest.mark.parametrize("change, words", [
    (lambda data: b"PIEJ" + data[4:], ["magic number", "202021.25"]),
    (lambda data: data[3::-1] + data[4:], ["big-endian"]),
    (lambda data: data[:-1], ["truncated", "279 bytes", "280", "7x5"]),
    (lambda data: data + b"\0", ["longer"]),
    (lambda data: data[:6], ["6 bytes", "header of 12"]),
    (lambda data: b"", ["0 bytes"]),
    (lambda data: data[:4] + struct.pack("<ii", 2**30, 2**30) + data[12:], ["1073741824x"]),
    (lambda data: data[:4] + struct.pack("<ii", -7, -5) + data[12:], ["-7x-5"]),
    (lambda data: data[:4] + struct.pack("<ii", 7000, 7000) + data[12:], ["truncated", "7000"]),
])
def test_damaged_flow_files_are_refused(tmp_path, change, words):
    path = tmp_path / "a.flo"
    write_flo(path, FLOW)
    path.write_bytes(change(path.read_bytes()))
    refused(read_flo, path, *words)


def test_absent_files_and_folders_are_refused(tmp_path):
    refused(read_flo, tmp_path / "no.flo", "no such file")
    refused(read_pfm, tmp_path / "no.pfm", "no such file")
    refused(read_picture, tmp_path / "no.ppm", "no such file")
    with pytest.raises(ValueError, match=r"need \(H, W, 2\)"):
        write_flo(tmp_path / "a.flo", FLOW[..., 0])
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        write_flo(tmp_path / "file" / "a.flo", FLOW)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3)])
def test_float_map_round_trip(tmp_path, shape):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    write_pfm(tmp_path / "a.pfm", values)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm", 3 if len(shape) == 3 else 1), values)


def test_float_maps_run_from_the_bottom_in_either_byte_order(tmp_path):
    rows = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])   # as stored: the first row is the lowest
    (tmp_path / "big.pfm").write_bytes(b"Pf\n3 2\n1.0\n" + rows.astype(">f4").tobytes())
    (tmp_path / "little.pfm").write_bytes(b"Pf 3 2 -2e0\r\n" + rows.astype("<f4").tobytes())
    for name in ("big.pfm", "little.pfm"):
        assert read_pfm(tmp_path / name).tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize("data, words", [
    (b"PF\n3 2\n-1\n" + bytes(72), ["3 channels (PF)", "need 1 (Pf)"]),
    (b"Pf\n3 2\n-1\n" + bytes(23), ["truncated", "23 bytes"]),
    (b"Pf\n3 2\n0\n" + bytes(24), ["header"]),
    (b"P6\n3 2\n255\n" + bytes(18), ["header", "P6"]),
    (b"Pf\n2 2\n1.2.3\n" + bytes(16), ["header"]),
    (b"Pf\n2 2\n.\n" + bytes(16), ["header"]),
    (b"Pf\n2 2\n-.e1\n" + bytes(16), ["header"]),
    (b"Pf\n" + b"9" * 100 + b" 2\n-1\n", ["header"]),
    (b"Pf\n99999 99999\n-1\n" + bytes(24), ["99999x99999"]),
    (b"Pf\n0 2\n-1\n", ["0x2"]),
    (b"", ["header"]),
])
def test_damaged_float_maps_are_refused(tmp_path, data, words):
    path = tmp_path / "a.pfm"
    path.write_bytes(data)
    refused(read_pfm, path, *words)


@pytest.mark.parametrize("scale", ["-.5", "-1.", "-1.5e+0"])
def test_scales_may_be_written_in_any_way(tmp_path, scale):
    (tmp_path / "a.pfm").write_bytes(f"Pf\n1 1\n{scale}\n".encode() + struct.pack("<f", 7))
    assert read_pfm(tmp_path / "a.pfm").tolist() == [[7]]


@pytest.mark.parametrize("read, head", [
    (read_flo, struct.pack("<fii", 202021.25, 7, 5)), (read_pfm, b"Pf\n7 5\n-1\n"),
    (read_flo, b"no flow at all"), (read_pfm, b"no map")])
def test_only_the_head_of_a_file_that_is_too_long_is_read(tmp_path, read, head):
    """64 GiB without blocks on the disk, more than fits into memory."""
    path = tmp_path / "a.bin"
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(2**36)
    refused(read, path)


def test_one_channel_where_three_are_needed(tmp_path):
    write_pfm(tmp_path / "a.pfm", np.zeros((2, 3), np.float32))
    refused(read_pfm, tmp_path / "a.pfm", "1 channels (Pf)", "need 3 (PF)", num_channels=3)


def test_occlusion_round_trip_as_picture_and_as_float_map(tmp_path):
    mask = np.random.default_rng(2).random((6, 5)) < 0.4
    write_occlusion(tmp_path / "a.png", mask)
    write_pfm(tmp_path / "a.pfm", mask.astype(np.float32))
    for name in ("a.png", "a.pfm"):
        assert np.array_equal(read_occlusion(tmp_path / name), mask)
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (6, 5, 3)


def test_pictures_of_all_formats(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8)
    for name in ("a.png", "a.ppm"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(read_picture(tmp_path / name), pixels)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - 90).max() <= 2
    (tmp_path / "b.ppm").write_bytes(b"P6 # a comment\n6 4\n255\n" + pixels.tobytes())
    assert np.array_equal(read_picture(tmp_path / "b.ppm"), pixels)


@pytest.mark.parametrize("name, data, words", [
    ("a.ppm", b"P6\n6 4\n65535\n" + bytes(144), ["16-bit"]),
    ("a.ppm", b"P6\n6 4\n255\n" + bytes(50), ["truncated"]),
    ("a.ppm", b"P5\n6 4\n255\n" + bytes(24), ["greyscale"]),
    ("a.png", b"no picture", ["unreadable"]),
    ("a.ppm", b"P6\n999999 999999\n255\n", ["too large"]),
])
def test_damaged_pictures_are_refused(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    refused(read_picture, tmp_path / name, *words)


def test_the_real_fixture_agrees_with_itself(project_root):
    """Its occlusion is there as a picture and as a float map: so the order of rows is right."""
    folder = shared_flow(project_root, "flyingchairs2_fixture")
    for direction in ("01", "10"):
        picture = read_occlusion(folder / f"0000000-occ_{direction}.png")
        weights = read_occlusion(folder / f"0000000-occ_weights_{direction}.pfm")
        assert picture.any() and np.array_equal(picture, weights)
        field = read_flo(folder / f"0000000-flow_{direction}.flo")
        assert field.flow.shape == (50, 50, 2) and field.known_mask.all()
    assert flow_files.read_picture(folder / "0000000-img_0.png").shape == (50, 50, 3)
