"""Every bad scene folder ends in one error that names the file; nothing is written."""
from __future__ import annotations

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image
from support.scene_files import (
    HEIGHT,
    NUM_VIEWS,
    WIDTH,
    idr_matrices,
    mask,
    meta,
    picture,
    save_dict,
    write_idr,
    write_processed,
)

from data_processing.scenes.scene import check_training_views, load_scene
from data_processing.scenes.splits import Split
from utils.errors import SceneError, UserError
from utils.files import limits

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@pytest.fixture
def processed(tmp_path):
    return write_processed(tmp_path / "scene")


@pytest.fixture
def idr(tmp_path):
    return write_idr(tmp_path / "scene")


@pytest.fixture(params=["processed", "idr"])
def any_scene(request, tmp_path):
    """(folder, image of view 1, mask of view 1) of either format."""
    if request.param == "processed":
        folder = write_processed(tmp_path / "scene")
        return folder, folder / "001_rgb.png", folder / "001_mask.png"
    folder = write_idr(tmp_path / "scene")
    return folder, folder / "image" / "001.png", folder / "mask" / "001.png"


def assert_refused(folder, *words, error=SceneError, **options):
    """Loading fails with all the words, says what was needed, and leaves the folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(error) as caught:
        load_scene(folder, **options)
    for word in (*words, "need"):
        assert word in str(caught.value), str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_meta(folder, **changes):
    save_dict(folder / "001_rgb_meta.npy", meta(1) | changes)


def change_idr(folder, **changes):
    arrays = idr_matrices() | changes
    np.savez(folder / "cameras_sphere.npz", **{k: v for k, v in arrays.items() if v is not None})


def rgb16(path):
    assert cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint16))


def transparent_colour(path):
    Image.fromarray(picture(1)).save(path, transparency=(1, 2, 3))


@pytest.mark.parametrize("write, words", [
    (lambda p: imageio.imwrite(p, np.zeros((HEIGHT, WIDTH), np.uint8)), "greyscale"),
    (lambda p: imageio.imwrite(p, np.zeros((HEIGHT, WIDTH), np.uint16)), "16-bit"),
    (rgb16, "16-bit"),
    (lambda p: imageio.imwrite(p, np.zeros((HEIGHT, WIDTH, 4), np.uint8)), "alpha"),
    (lambda p: imageio.imwrite(p, np.zeros((HEIGHT, WIDTH, 2), np.uint8)), "alpha"),
    (lambda p: Image.fromarray(picture(1)).quantize(8).save(p), "palette"),
    (lambda p: Image.new("1", (WIDTH, HEIGHT)).save(p), "black and white"),
    (lambda p: Image.new("CMYK", (WIDTH, HEIGHT)).save(p, "JPEG"), "CMYK"),
    (transparent_colour, "alpha"),
])
def test_images_other_than_8_bit_rgb_are_refused_with_the_command_that_mends(any_scene, write,
                                                                            words):
    folder, image, _ = any_scene
    write(image)
    assert_refused(folder, image.name, words, "8-bit RGB", "magick")


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.9])
def test_truncated_images_and_masks_are_refused(any_scene, fraction):
    for path in any_scene[1:]:
        whole = path.read_bytes()
        path.write_bytes(whole[:int(fraction * len(whole))])
        assert_refused(any_scene[0], path.name, "unreadable or truncated")
        path.write_bytes(whole)
    load_scene(any_scene[0])


def test_truncated_jpeg_and_damaged_png(any_scene):
    folder, image, _ = any_scene
    Image.fromarray(picture(1)).save(image, "JPEG", quality=95)
    load_scene(folder)                                   # found by content, not by its ending
    image.write_bytes(image.read_bytes()[:-300])
    assert_refused(folder, image.name, "truncated")
    imageio.imwrite(image, picture(1))
    damaged = bytearray(image.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    image.write_bytes(bytes(damaged))
    assert_refused(folder, image.name, "unreadable")
    image.write_text("no image at all")
    assert_refused(folder, image.name, "unreadable")


def test_huge_images_are_refused_before_decoding(any_scene, monkeypatch):
    folder, image, _ = any_scene
    monkeypatch.setattr(limits, "MAX_PIXELS", WIDTH * HEIGHT)
    load_scene(folder)
    imageio.imwrite(image, np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    assert_refused(folder, image.name, "too large", f"{WIDTH + 1}x{HEIGHT}", "at most")


def test_sizes_that_differ(any_scene):
    folder, image, mask_file = any_scene
    imageio.imwrite(mask_file, np.zeros((HEIGHT - 1, WIDTH), np.uint8))
    assert_refused(folder, mask_file.name, f"{WIDTH}x{HEIGHT - 1}", f"{WIDTH}x{HEIGHT}")
    imageio.imwrite(mask_file, mask(1))
    imageio.imwrite(image, picture(1)[:-1])
    assert_refused(folder, image.name, f"{WIDTH}x{HEIGHT - 1}", f"{WIDTH}x{HEIGHT}")


def test_16_bit_masks_are_refused(any_scene):
    folder, _, mask_file = any_scene
    imageio.imwrite(mask_file, mask(1).astype(np.uint16) * 257)
    assert_refused(folder, mask_file.name, "16-bit", "8-bit", "magick")


def test_masks_for_some_views_only(any_scene):
    folder, _, mask_file = any_scene
    mask_file.unlink()
    assert_refused(folder, "001", "mask", "all views")


def test_empty_mask_matters_in_training_views_only(any_scene):
    folder, _, mask_file = any_scene
    imageio.imwrite(mask_file, np.zeros((HEIGHT, WIDTH), np.uint8))
    scene = load_scene(folder)
    check_training_views(scene, Split((0, 2, 3), (1,)))
    with pytest.raises(SceneError, match=f"{mask_file}.*view 1.*empty.*--train_views"):
        check_training_views(scene, Split((0, 1), ()))


def test_no_folder_no_scene_both_formats(tmp_path, processed):
    with pytest.raises(SceneError, match="nowhere.*no such folder.*--dataset_path"):
        load_scene(tmp_path / "nowhere")
    with pytest.raises(SceneError, match="a file"):
        load_scene(processed / "000_rgb.png")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "no views found", "cameras.npz", "_rgb.png")
    (processed / "image").mkdir()
    assert_refused(processed, "both scene formats")


@pytest.mark.parametrize("left", [0, 1])
def test_no_or_one_view(any_scene, left):
    folder = any_scene[0]
    for path in folder.rglob("*.*"):
        if path.name[:3].isdigit() and int(path.name[:3]) >= left:
            path.unlink()
    if left or (folder / "image").is_dir():
        assert_refused(folder, f"{left} views found", "at least 2")
    else:
        assert_refused(folder, "no views found")


def test_missing_image(processed, tmp_path):
    (processed / "001_rgb.png").unlink()
    assert_refused(processed, "001_rgb.png", "no such image")
    for number in (0, 1, NUM_VIEWS - 1):
        folder = write_idr(tmp_path / f"idr{number}")
        (folder / "image" / f"{number:03d}.png").unlink()
        assert_refused(folder, f"{number:03d}.png", "images are missing")


def test_missing_camera_file(processed, tmp_path):
    (processed / "001_rgb_meta.npy").unlink()
    assert_refused(processed, "001_rgb_meta.npy", "no camera file")
    folder = write_idr(tmp_path / "idr")
    (folder / "cameras_sphere.npz").unlink()
    assert_refused(folder, "no cameras_sphere.npz or cameras.npz")


BAD_MATRICES = [
    (np.eye(4)[:3], "shape (3, 4)"), (np.full((4, 4), np.nan), "NaN"),
    (np.diag([1.0, 1, np.inf, 1]), "infinity"), (np.diag([1.0, 1, 0, 1]), "singular"),
    (np.zeros((4, 4)), "000"), (MIRROR @ np.array(meta(1)["view"]), "left-handed"),
    (np.array("text"), "numbers")]


@pytest.mark.parametrize("matrix, word", BAD_MATRICES)
def test_bad_view_matrices(processed, matrix, word):
    change_meta(processed, view=matrix)
    assert_refused(processed, "001_rgb_meta.npy: view", word if word != "000" else "last row")


@pytest.mark.parametrize("matrix, word", [
    (np.eye(3), "shape (3, 3)"), (np.full((4, 4), np.nan), "NaN"), (np.eye(4), "last row"),
    (np.diag([0.0, 1, 1, 1]) @ meta(1)["projection"], "singular"),
    (MIRROR @ meta(1)["projection"], "left-handed"),
    (meta(1)["projection"].T, "projection")])
def test_bad_projection_matrices(processed, matrix, word):
    change_meta(processed, projection=matrix)
    assert_refused(processed, "001_rgb_meta.npy: projection", word)


def test_views_that_shear_scale_or_are_transposed(processed):
    view = meta(1)["view"]
    for wrong, word in ((np.diag([1, 1.2, 1, 1]) @ view, "sheared"), (view.T, "last row"),
                        (np.diag([2.0, 2, 2, 1]) @ view, "scales by 2")):
        change_meta(processed, view=wrong)
        assert_refused(processed, "001_rgb_meta.npy: view", word)


def test_opencv_axes_in_every_view_are_noticed(processed):
    for i in range(NUM_VIEWS):
        flipped = np.diag([1.0, -1, -1, 1]) @ meta(i)["view"]
        save_dict(processed / f"{i:03d}_rgb_meta.npy", meta(i) | {"view": flipped})
    assert_refused(processed, "behind every camera", "OpenGL axes")


@pytest.mark.parametrize("content, word", [
    ({"view": np.eye(4)}, "projection"), ("text", "str"), (np.eye(4), "ndarray")])
def test_camera_files_with_other_content(processed, content, word):
    save_dict(processed / "001_rgb_meta.npy", content)
    assert_refused(processed, "001_rgb_meta.npy", word)


@pytest.mark.parametrize("resolution, word", [
    ([HEIGHT, WIDTH], "same shape"), ([0, 0], "[W, H]"), ("big", "[W, H]"), ([1, 2, 3], "[W, H]")])
def test_resolution_of_another_shape(processed, resolution, word):
    change_meta(processed, resolution=resolution)
    assert_refused(processed, "001_rgb_meta.npy", word)
    change_meta(processed, resolution=np.array([10 * WIDTH, 10 * HEIGHT]))
    load_scene(processed)                                # a downscaled image of the same shape


def test_code_and_damage_in_camera_files(processed):
    path = processed / "001_rgb_meta.npy"
    np.save(path, np.array(meta(1) | {"view": print}, dtype=object))
    assert_refused(processed, "001_rgb_meta.npy", "builtins.print")
    change_meta(processed)
    path.write_bytes(path.read_bytes()[:200])
    assert_refused(processed, "001_rgb_meta.npy", "damaged or truncated")


@pytest.mark.parametrize("matrix, word", [
    (np.eye(4)[:3], "shape (3, 4)"), (np.full((4, 4), np.nan), "NaN"),
    (np.diag([1.0, 0, 1, 1]), "singular"), (np.diag([-1.0, 1, 1, 1]), "left-handed"),
    (None, "world_mat_1"), (np.array([["a"] * 4] * 4), "numbers")])
def test_bad_idr_matrices(idr, matrix, word):
    change_idr(idr, world_mat_1=matrix)
    assert_refused(idr, "cameras_sphere.npz", "world_mat_1", word)


@pytest.mark.parametrize("matrix, word", [
    (np.diag([1.0, 2, 3, 1]), "sheared"), (np.diag([-1.0, -1, -1, 1]), "left-handed"),
    (np.full((4, 4), np.nan), "NaN")])
def test_bad_scale_matrices(idr, matrix, word):
    change_idr(idr, **{f"scale_mat_{i}": matrix for i in range(NUM_VIEWS)})
    assert_refused(idr, "cameras_sphere.npz: scale_mat_0", word)


def test_scale_matrices_that_differ(idr):
    change_idr(idr, scale_mat_3=np.diag([2.0, 2, 2, 1]))
    assert_refused(idr, "cameras_sphere.npz: scale_mat_3", "differs")


def test_damaged_npz_and_pickles_in_it(idr, monkeypatch):
    path = idr / "cameras_sphere.npz"
    whole = path.read_bytes()
    for damaged in (whole[:len(whole) // 2], b"", b"no archive", whole[:100] + whole[101:]):
        path.write_bytes(damaged)
        assert_refused(idr, "cameras_sphere.npz", "damaged")
    change_idr(idr, world_mat_1=np.array({"a": 1}, dtype=object))
    assert_refused(idr, "cameras_sphere.npz", "pickled objects")
    change_idr(idr)
    np.savez_compressed(path, world_mat_0=np.zeros((4, 4, 1000)))
    monkeypatch.setattr(limits, "MAX_NPZ_BYTES", 16000)
    assert_refused(idr, "cameras_sphere.npz", "bytes unpacked")
    monkeypatch.setattr(limits, "MAX_NPZ_BYTES", 100)
    assert_refused(idr, "cameras_sphere.npz", "at most 100")


def test_two_images_of_one_view_and_unpadded_numbers(any_scene):
    folder, image, _ = any_scene
    imageio.imwrite(image.with_suffix(".jpg"), picture(1))
    assert_refused(folder, image.name, image.with_suffix(".jpg").name, "one image a view")
    image.with_suffix(".jpg").unlink()
    if image.parent.name == "image":
        image.rename(image.with_name("10.png"))
        (folder / "image" / "002.png").rename(image.with_name("9.png"))
        assert_refused(folder, "9.png", "padded with zeros")


@pytest.mark.parametrize("stats, order", [
    ({"pcd_center": [0, 0], "pcd_radius": 1}, "pcd"),
    ({"pcd_center": [0, 0, 0], "pcd_radius": np.nan}, "pcd"),
    ({"camera_intersection": [0, 0, 0], "camera_radius": 0.0}, "camera"),
    ({"camera_intersection": [0, 0, np.nan], "camera_radius": 1}, "camera"),
    ({"camera_intersection": [0, 0, "x"], "camera_radius": 1}, "camera")])
def test_bad_stats(processed, stats, order):
    save_dict(processed / "scene_stats.npy", stats)
    assert_refused(processed, "scene_stats.npy", "three", scene_normalization=order)


@pytest.mark.parametrize("text, words", [
    ("center: [0, 0, 0]", "no center and radius"), ("[", "not readable as yaml"),
    ("{center: [0, 0, 0], radius: 0}", "radius over 0"),
    ("!!python/object/apply:os.system ['true']", "not readable as yaml")])
def test_bad_yaml(processed, text, words):
    (processed / "scene.yaml").write_text(text)
    assert_refused(processed, "scene.yaml", words, scene_normalization="yaml")


def test_several_yaml_files_none_of_them_named_scene(processed):
    (processed / "a.yaml").write_text("")
    (processed / "b.yaml").write_text("")
    assert_refused(processed, "a.yaml, b.yaml", "name", scene_normalization="yaml")


@pytest.mark.parametrize("name, order", [("merged/point_cloud_world.ply", "pcd"),
                                         ("surface_points_world.ply", "cache")])
@pytest.mark.parametrize("content", [b"", b"no ply", b"ply\nformat ascii 1.0\nend_header\n"])
def test_bad_point_clouds(any_scene, name, order, content):
    path = any_scene[0] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert_refused(any_scene[0], path.name, scene_normalization=order, error=UserError)
