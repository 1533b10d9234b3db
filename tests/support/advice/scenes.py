"""Cases of scene folders: matrices, the IDR and the processed format, images, masks, clouds."""
from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import imageio.v3 as imageio
import numpy as np
from PIL import Image

from data_processing.scenes import scene as scene_module
from data_processing.scenes.opening import load_point_cloud
from data_processing.scenes.scene import check_training_views, load_scene, outline_scene
from data_processing.scenes.splits import Split
from support import scene_files
from support.advice.table import Case, Step, again, scene, steps
from utils.config.sections import DataConfig

IDR, PROCESSED = scene_files.write_idr, scene_files.write_processed
CAMERAS, CLOUD = "cameras_sphere.npz", "cloud.ply"
FLIP_Z = np.diag([1.0, 1, -1, 1])


def cameras(change: Callable[[dict], dict]) -> Step:
    """Change the arrays of an IDR folder's cameras."""
    def do(folder: Path) -> None:
        with np.load(folder / CAMERAS) as found:
            arrays = dict(found)
        np.savez(folder / CAMERAS, **change(arrays))
    return do


def worlds(change: Callable[[np.ndarray], np.ndarray], only: int | None = None) -> Step:
    """Change the world matrices, or one."""
    return cameras(lambda arrays: {
        key: change(value.copy()) if key.startswith("world") and (
            only is None or key == f"world_mat_{only}") else value
        for key, value in arrays.items()})


def idr(*changes: Step) -> Step:
    """An IDR folder, changed."""
    return steps(lambda folder: IDR(folder), *changes)


def processed(*changes: Step) -> Step:
    """A folder of the processed format, changed."""
    return steps(lambda folder: PROCESSED(folder), *changes)


def take_out(view: int) -> Step:
    """Take a view out of an IDR folder: its files, its matrix; the others are numbered again."""
    def renumbered(arrays: dict) -> dict:
        kept = [i for i in range(scene_files.NUM_VIEWS) if i != view]
        return {f"{kind}_mat_{new}": arrays[f"{kind}_mat_{old}"] for kind in ("world", "scale")
                for new, old in enumerate(kept)}
    return steps(without(f"image/{view:03d}.png", f"mask/{view:03d}.png"), cameras(renumbered))


def number_again(view: int) -> Step:
    """Take the matrix out of a view whose files are missing."""
    return steps(lambda folder: [(folder / kind / f"{view:03d}.png").touch()
                                 for kind in ("image", "mask")], take_out(view))


def without(*names: str) -> Step:
    """Take files out."""
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def renamed(names: dict[str, str]) -> Step:
    """Rename files."""
    return lambda folder: [(folder / old).rename(folder / new) for old, new in names.items()]


def pickled(name: str, content: object) -> Step:
    """Write a pickled object."""
    return lambda folder: scene_files.save_dict(folder / name, content)


def meta(view: int = 1, **changes: object) -> Step:
    """Write a view's camera of the processed format."""
    return pickled(f"{view:03d}_rgb_meta.npy", scene_files.meta(view) | changes)


def picture(name: str, pixels: np.ndarray | Image.Image) -> Step:
    """Write a picture."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return lambda folder: image.save(folder / name)


def text(name: str, content: str) -> Step:
    """Write a text file."""
    return lambda folder: (folder / name).write_text(content)


def converted(name: str, mode: str) -> Step:
    """What the command of ImageMagick does that is named: 8 bits, RGB or grey, on black."""
    def do(folder: Path) -> None:
        pixels = Image.open(folder / name)
        if pixels.mode.startswith("I"):
            pixels = Image.fromarray((np.asarray(pixels) // 257).astype(np.uint8))
        pixels.convert(mode).save(folder / name)
    return do


def lying_archive(at: int) -> Step:
    """State 4 GB for the first array: packed (20 bytes into its entry) or unpacked (24)."""
    def do(folder: Path) -> None:
        data = bytearray((folder / CAMERAS).read_bytes())
        start = data.index(b"PK\x01\x02") + at
        data[start:start + 4] = (4_000_000_000).to_bytes(4, "little")
        (folder / CAMERAS).write_bytes(data)
    return do


def without_k(arrays: dict) -> dict:
    """[R|t] in world_mat, K in camera_mat, as DVR has them."""
    out = dict(arrays)
    for i in range(scene_files.NUM_VIEWS):
        k = np.eye(4)
        k[:3, :3] = scene_files.intrinsics(i)
        out |= {f"world_mat_{i}": np.linalg.inv(k) @ arrays[f"world_mat_{i}"],
                f"camera_mat_{i}": k}
    return out


def with_k(arrays: dict) -> dict:
    """camera_mat @ world_mat."""
    return {key: arrays[key.replace("world", "camera")] @ value if key.startswith("world") else
            value for key, value in arrays.items() if not key.startswith("camera")}


def one_scale(arrays: dict) -> dict:
    """The scale matrix of view 0 for all."""
    return {key: arrays["scale_mat_0"] if key.startswith("scale") else value
            for key, value in arrays.items()}


def grown(factor: float) -> Step:
    """Scale world space."""
    def change(arrays: dict) -> dict:
        return {key: value * ([[1, 1, 1, factor]] * 3 + [[1] * 4] if key.startswith("world")
                              else [[factor] * 4] * 3 + [[1] * 4]) for key, value in arrays.items()}
    return cameras(change)


def one_view(folder: Path) -> None:
    """A photograph, and its camera."""
    IDR(folder)
    without(*(f"image/{i:03d}.png" for i in range(1, scene_files.NUM_VIEWS)))(folder)


def both_formats(folder: Path) -> None:
    """Files of both formats in one folder."""
    PROCESSED(IDR(folder))


def away(matrix: np.ndarray) -> np.ndarray:
    """A world matrix whose camera looks the other way; twice, it is as it was."""
    matrix[:3] = -matrix[:3] @ FLIP_Z
    return matrix


def photograph_as_mask(folder: Path) -> None:
    """The photograph on black, without alpha."""
    cut = scene_files.picture(1) * (scene_files.mask(1) > 0)[..., None]
    imageio.imwrite(folder / "mask" / "001.png", cut)


def cutout(folder: Path) -> None:
    """The same with alpha."""
    imageio.imwrite(folder / "mask" / "001.png",
                    np.dstack([scene_files.picture(1), scene_files.mask(1)]))


def white_mask(folder: Path) -> None:
    """White on the object."""
    imageio.imwrite(folder / "mask" / "001.png", scene_files.mask(1))


def with_cloud(folder: Path, **flags: int) -> object:
    """Read the points of a scene's folder."""
    found = load_scene(folder, load_pcd=False)
    data = DataConfig(dataset_path=str(folder), load_pcd=1, **{"use_pcd": 1, **flags})
    return load_point_cloud(found, data)


def cloud(site: str, name: str, content: str, good: str) -> Case:
    """A bad file of points; exported again, and removed."""
    return Case(site, idr(text(name, content), with_cloud),
                (steps(text(name, good), has_points), steps(without(name), with_cloud)))


def has_points(folder: Path) -> None:
    """The three points of `PLY` are read."""
    found = with_cloud(folder)
    assert found is not None and len(found.points_obj) == 3


def ply(*points: str) -> str:
    """A PLY file in text."""
    return "\n".join(["ply", "format ascii 1.0", f"element vertex {len(points)}",
                      *(f"property float {axis}" for axis in "xyz"), "end_header", *points, ""])


PLY, XYZ = ply("0 0 0", "1 0 0", "0 1 0"), "0 0 0\n1 0 0\n0 1 0\n"


def training(*views: int) -> Step:
    """Check the masks of the views that are trained on."""
    return lambda folder: check_training_views(load_scene(folder), Split(views, ()))


def unreadable(folder: Path) -> None:
    """A folder that the system does not let us list; as root one can list any."""
    with mock.patch.object(scene_module, "is_processed_folder", side_effect=PermissionError(
            13, "Permission denied", str(folder))):
        load_scene(folder)


def without_yaml(order: str) -> Step:
    """PyYAML is not installed."""
    def do(folder: Path) -> None:
        with mock.patch.dict(sys.modules, {"yaml": None}):
            load_scene(folder, scene_normalization=order)
    return do


def from_yaml(site: str, make: Step, *cures: Step) -> Case:
    """A case of the ball in a yaml file."""
    return scene(site, make, *cures, scene_normalization="yaml")


SPHERE = text("scene.yaml", "center: [2, -1, 5]\nradius: 1.5\n")
SECOND = "image/001.png"

MATRICES = (
    scene("{} views found ({}), need at least", one_view, again(IDR)),
    Case("{} views found ({}), need at least", lambda folder: [IDR(folder / "own"), one_view(
        folder), load_scene(folder)], (lambda folder: load_scene(folder / "own"),)),
    scene("append the row 0 0 0 1", idr(worlds(lambda m: m[:3])),
          worlds(lambda m: np.vstack([m, [0, 0, 0, 1]]))),
    scene("folder: {}: holds NaN", idr(worlds(lambda m: m * np.nan, 1)), again(IDR), take_out(1),
          views=(5, 4)),
    scene("folder: {}: holds {}, need numbers up to", idr(grown(1e16)), again(IDR), grown(1e-16)),
    scene("singular, need a matrix", idr(worlds(lambda m: m * 0, 1)), again(IDR), take_out(1),
          views=(5, 4)),
    scene("need K[R|t] with OpenCV", idr(worlds(lambda m: -m)), worlds(lambda m: -m)))

IDR_CASES = (
    scene("images are missing", idr(without("image/002.png", "mask/002.png")), again(IDR),
          number_again(2), views=(5, 4)),
    scene("idr_format: {}: no mask for", idr(without("mask/001.png")), white_mask,
          lambda folder: shutil.rmtree(folder / "mask")),
    scene("need one for each image in the order", idr(cameras(
        lambda a: {key: value for key, value in a.items() if not key.endswith("_4")})),
        again(IDR), without("image/004.png", "mask/004.png"), views=(5, 4)),
    scene("copy the camera file there", idr(renamed({CAMERAS: "old"})), renamed({"old": CAMERAS})),
    scene("bytes unpacked", idr(lying_archive(24)), again(IDR)),
    scene("says {} bytes, the file has", idr(lying_archive(20)), again(IDR)),
    scene("save the file with camera_mat_i", idr(cameras(without_k)), cameras(with_k)),
    scene("idr_format: {}: there is {} too, need one image", idr(
        picture("image/001.jpg", scene_files.picture(1))), without("image/001.jpg")),
    scene("need numbers padded with zeros", idr(renamed({
        "image/001.png": "image/10.png", "image/002.png": "image/2.png"})),
        renamed({"image/10.png": "image/001.png", "image/2.png": "image/002.png"})),
    scene("holding pickled objects", idr(lambda folder: (folder / CAMERAS).write_bytes(
        (folder / CAMERAS).read_bytes()[:300])), again(IDR)),
    scene("write the same scale_mat", idr(cameras(
        lambda a: {**a, "scale_mat_2": np.diag([3.0, 3, 3, 1])})), cameras(one_scale)),
    scene("need one mask a view", idr(picture("mask/00001.png", scene_files.mask(1))),
          without("mask/00001.png")))

PROCESSED_CASES = (
    scene("views have none, need masks for all", processed(without("001_mask.png")),
          picture("001_mask.png", scene_files.mask(1)),
          lambda folder: [path.unlink() for path in folder.glob("*_mask.png")]),
    scene("no camera file for", processed(without("001_rgb_meta.npy")), meta(),
          without("001_rgb.png", "001_mask.png"), views=(5, 4)),
    scene("need 0 0 -1 0", processed(meta(projection=scene_files.meta(1)["projection"].T)), meta()),
    scene("it mirrors the image", processed(meta(
        projection=np.diag([-1.0, 1, 1, 1]) @ scene_files.meta(1)["projection"])), meta()),
    scene("resolution is {}, need [W, H]", processed(meta(resolution="large")), meta()),
    scene("processed_format: {}: a camera for", processed(picture(
        "001_rgb.png", np.rot90(scene_files.picture(1)))),
        picture("001_rgb.png", scene_files.picture(1))),
    scene("processed_format: {}: a camera for", processed(meta(resolution=[100, 10])), meta()),
    scene("processed_format: {}: holds a", processed(pickled("001_rgb_meta.npy", [1])), meta()),
    scene("need {} too; export it again", processed(pickled("001_rgb_meta.npy", {"view": 1})),
          meta()),
    scene("the view has {} too", processed(picture("001_rgb.jpg", scene_files.picture(1))),
          without("001_rgb.jpg")),
    scene("no such image (nor .jpg)", processed(without("001_rgb.png", "001_mask.png")),
          again(PROCESSED), without("001_rgb_meta.npy"), views=(5, 4)))

FOLDERS = (
    Case("scene: {}: no views found", lambda folder: [IDR(folder / "own"), load_scene(folder)],
         (lambda folder: load_scene(folder / "own"),)),
    scene("is behind every camera", idr(worlds(away)), worlds(away)),
    scene("pixels, need {}x{} as {} has", idr(picture(
        SECOND, Image.fromarray(scene_files.picture(1)).resize((12, 8)))),
        lambda folder: Image.open(folder / SECOND).resize((24, 16)).save(folder / SECOND)),
    Case("is empty at", idr(picture("mask/001.png", scene_files.mask(1) * 0), training(0, 1, 2)),
         (steps(white_mask, training(0, 1, 2)), training(0, 2, 3))),
    Case("need a scene folder; check", lambda folder: load_scene(folder),
         (steps(IDR, load_scene),)),
    scene("has files of both scene formats", both_formats,
          lambda folder: [path.unlink() for path in folder.glob("*.*") if path.suffix != ".npz"]),
    Case("need read permission", idr(unreadable), (load_scene,)),
    Case("scene_clouds: {}: holds a", idr(text(CLOUD, PLY), pickled("cloud_meta.npy", [1]),
                                          with_cloud),
         (steps(pickled("cloud_meta.npy", {"view": np.eye(4)}), has_points),
          steps(without("cloud_meta.npy"), has_points))),
    cloud("points of shape", CLOUD, ply("0 0 0", "1 0 0", "nan 0 0"), PLY),
    cloud("not readable as PLY", CLOUD, "x", PLY),
    cloud("numbers a line, need 3", "cloud.xyz", "0 0\n1 0\n", XYZ),
    cloud("not readable as lines of numbers", "cloud.xyz", "a b c\n", XYZ),
    Case("opening: {}; or give --{} 0", idr(text(CLOUD, "x"), with_cloud),
         (lambda folder: with_cloud(folder, use_pcd=0),)))

PICTURES = (
    scene("need 8-bit RGB", idr(picture(SECOND, scene_files.picture(1)[..., 0])),
          converted(SECOND, "RGB")),
    scene("need 8-bit RGB", idr(picture(SECOND, scene_files.picture(1)[..., 0].astype(np.uint16)
                                        * 257)), converted(SECOND, "RGB")),
    scene("need 8-bit RGB", idr(picture(SECOND, np.dstack([scene_files.picture(1),
                                                           scene_files.mask(1)]))),
          converted(SECOND, "RGB")),
    scene("need an 8-bit mask", idr(picture("mask/001.png", scene_files.mask(1).astype(np.uint16)
                                            * 257)), converted("mask/001.png", "L")),
    Case("need a whole PNG or", idr(lambda folder: (folder / SECOND).write_bytes(
        (folder / SECOND).read_bytes()[:-12]), outline_scene),
        (steps(picture(SECOND, scene_files.picture(1)), outline_scene),)),
    scene("without alpha that varies", idr(photograph_as_mask), white_mask, cutout))

BALLS = (
    from_yaml("three finite numbers up to", idr(text("scene.yaml", "center: [2, -1, 5]\nradius: 0")
                                                ), SPHERE),
    from_yaml("no center and radius", idr(text("scene.yaml", "a: 1")), SPHERE),
    Case("no center and radius", idr(text("scene.yaml", "a: 1"), lambda folder: load_scene(
        folder, scene_normalization="yaml,cache")),
        (lambda folder: load_scene(folder, scene_normalization="cache"),)),
    from_yaml("need three numbers and one", idr(text("scene.yaml", "center: far\nradius: 1")),
              SPHERE),
    from_yaml("yaml files ({}), need one", idr(text("a.yaml", "a: 1"), SPHERE, renamed(
        {"scene.yaml": "b.yaml"})), renamed({"b.yaml": "scene.yaml"})),
    Case("reading it needs PyYAML", idr(SPHERE, without_yaml("yaml,cache")),
         (without_yaml("cache"),)),
    from_yaml("not readable as yaml", idr(text("scene.yaml", "[")), SPHERE, without("scene.yaml")))

CASES = (*MATRICES, *IDR_CASES, *PROCESSED_CASES, *FOLDERS, *PICTURES, *BALLS)
