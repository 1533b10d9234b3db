"""Cases of flags: splits, object space, pools of scenes, folders that are written, commands."""
from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from commands import command_line
from data_processing.checks import folder_checks
from data_processing.scenes import writing
from data_processing.scenes.images import scaled_size
from data_processing.scenes.normalization import Sphere, model_from_sphere
from data_processing.scenes.opening import open_scene
from data_processing.scenes.pool import ScenePool, open_pool
from data_processing.scenes.scene import load_scene
from data_processing.scenes.splits import resolve_split
from data_processing.synthetic import scenes as synthetic
from data_processing.synthetic.analytic_sdf import sphere
from support import scene_files
from support.advice.captures import add_masks, write
from support.advice.table import Case, Step, again, imported, steps, tiny
from support.capture_files import write_colmap
from utils.config.sections import DataConfig
from utils.config.stage_sections import MetaConfig
from utils.config.tool_sections import CheckConfig, MakeSceneConfig

IDR = scene_files.write_idr


def split(site: str, refused: dict, *cures: dict, views: int = 10) -> Case:
    """A case of `resolve_split`, from its arguments."""
    def with_flags(flags: dict) -> Step:
        return lambda _: resolve_split(views, **flags)
    return Case(site, with_flags(refused), tuple(map(with_flags, cures)))


SPLITS = (
    split("are both 'all'", {"train_views": "all", "test_views": "all"},
          {"train_views": "all", "test_views": "0-5,9"}, {"train_views": "0-5,9",
                                                          "test_views": "all"}),
    split("as there are so many training views", {"num_train_views": 50}, {"num_train_views": 2},
          {"num_train_views": 0}),
    split("--dataset_name is", {"dataset_name": "dtux"}, {"dataset_name": "dtu"}, views=49),
    split("splits {} views, but", {"dataset_name": "dtu"},
          {"dataset_name": "dtu", "train_views": "all", "test_views": "4"}),
    split("--train_views and --test_views share", {"train_views": "0-5", "test_views": "5"},
          {"train_views": "0-4", "test_views": "5"}, {"train_views": "all", "test_views": "5"}),
    split("training views, need at least", {"train_views": "0"}, {"train_views": "0,1"}),
    split("training views, need at least", {"test_views": "0-8"}, {"test_views": "0-7"}),
    split("is 'all' without --train_views", {"test_views": "all"},
          {"test_views": "all", "train_views": "0-5,9"}),
    split("need view numbers and ranges", {"train_views": "a"}, {"train_views": "0-5,9"},
          {"train_views": "all"}),
    split("that runs backwards", {"train_views": "5-2"}, {"train_views": "2-5"}),
    split("numbered from 0", {"train_views": "0-10"}, {"train_views": "0-9"}))


def scene_flags(folder: Path, **flags: object) -> object:
    """Open the scene with flags."""
    return open_scene(DataConfig(**{"dataset_path": str(folder), **flags}))


def with_flags(**flags: object) -> Step:
    """The same as a step."""
    return functools.partial(scene_flags, **flags)


def idr(folder: Path) -> Path:
    """An IDR folder."""
    return IDR(folder)


def ball(folder: Path, **flags: float) -> object:
    """The model matrix of a ball, with flags."""
    return model_from_sphere(Sphere(np.zeros(3), 1.0), **flags)


def check(folder: Path, path: str) -> object:
    """What `check_scene.py` reads."""
    return folder_checks.fix_folder(DataConfig(dataset_path=path), CheckConfig(
        fix=str(folder.parent / "fixed"))) if not path else load_scene(path)


def without_masks(folder: Path) -> None:
    """A capture without masks."""
    write(folder)
    shutil.rmtree(folder / "masks")


def parallel(folder: Path) -> None:
    """Cameras that look the same way from places side by side, and no masks."""
    without_masks(folder)
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for i, frame in enumerate(content["frames"]):
        pose = np.eye(4)
        pose[:2, 3], pose[2, 3] = [0.2 * i - 0.3, 0.1 * i], 3
        frame["transform_matrix"] = pose.tolist()
    path.write_text(json.dumps(content))


def parallel_masks(folder: Path) -> None:
    """What those cameras see of a ball of 0.6 about the middle, in closed form."""
    (folder / "masks").mkdir()
    rows, columns = np.mgrid[:12, :16] + 0.5
    for frame in json.loads((folder / "transforms.json").read_text())["frames"]:
        ray = np.stack([(columns - frame["cx"]) / frame["fl_x"],
                        (frame["cy"] - rows) / frame["fl_y"], -np.ones((12, 16))], -1)
        eye = np.array(frame["transform_matrix"])[:3, 3]
        apart = np.linalg.norm(np.cross(ray, eye), axis=-1) / np.linalg.norm(ray, axis=-1)
        Image.fromarray((apart < 0.6).astype(np.uint8) * 255).save(
            folder / "masks" / Path(frame["file_path"]).name)


def with_points(folder: Path) -> object:
    """A COLMAP model with forty points about the middle."""
    points = np.random.default_rng(0).normal(0, 0.2, (40, 3))
    return by("points")(write_colmap(tiny(), folder, ".bin", points))


def by(word: str) -> Step:
    """The import with --normalization."""
    return lambda folder: imported(folder, normalization=word)


def space(word: str, make: Step, *cures: Step) -> Case:
    """A case of a word that has nothing to go by."""
    return Case("no object space from --normalization", steps(make, by(word)), cures)


SPACES = (
    Case("--load_im_scale is", lambda _: scaled_size((8, 8), 0), (
        lambda _: scaled_size((8, 8), 1),)),
    Case("need a number over 0; 1 is usual", lambda folder: ball(folder, work_radius=0), (
        lambda folder: ball(folder, work_radius=1),)),
    Case("--scene_normalization has", steps(idr, with_flags(scene_normalization="yml")),
         (with_flags(scene_normalization="yaml"),)),
    space("masks", without_masks, steps(add_masks, by("masks")), by("auto")),
    space("points", without_masks, again(with_points), by("auto")),
    space("given", without_masks, by("auto")),
    space("cameras", parallel, steps(parallel_masks, by("masks"))),
    space("auto", parallel, steps(parallel_masks, by("auto"))),
    Case("--normalization is", steps(write, lambda folder: imported(folder, normalization="mask")),
         (lambda folder: imported(folder, normalization="auto"),)),
    Case("opening: --dataset_path is missing", with_flags(dataset_path=""), (steps(
        IDR, scene_flags),)),
    Case("--reference_view", steps(idr, with_flags(reference_view=5)), (
        with_flags(reference_view=4), with_flags(reference_view=-1))),
    Case("give the folder of a scene: {} DIR", lambda folder: check(folder, ""), (steps(
        IDR, lambda folder: check(folder, str(folder))),)))


def pool(folder: Path, flag: str = "dataset_path") -> ScenePool:
    """Open a folder of scenes; all of them are read."""
    found = open_pool(DataConfig(), MetaConfig(), path=str(folder), flag=flag)
    for entry in found.entries:
        found.read(entry)
    return found


def two_scenes(folder: Path) -> None:
    """A folder of two scenes."""
    for name in ("a", "b"):
        IDR(folder / name)


def damage(folder: Path) -> None:
    """The second of two scenes without cameras."""
    two_scenes(folder)
    (folder / "b" / "cameras_sphere.npz").unlink()


def move_away(folder: Path) -> None:
    """The second scene is moved elsewhere."""
    (folder / "b").rename(folder.parent / "elsewhere")


def empty_masks(folder: Path) -> None:
    """The second scene with masks that are empty."""
    two_scenes(folder)
    for path in (folder / "b" / "mask").iterdir():
        Image.new("L", (scene_files.WIDTH, scene_files.HEIGHT)).save(path)


def mend(folder: Path) -> None:
    """The second scene as it should be."""
    shutil.rmtree(folder / "b")
    IDR(folder / "b")


POOLS = (
    Case("such as {} --num_scenes 20 makes",
         lambda _: open_pool(DataConfig(), MetaConfig()), (steps(two_scenes, pool),)),
    Case("need a folder of scenes; check", pool, (steps(two_scenes, pool),)),
    Case("no scene folders in it", steps(Path.mkdir, pool), (steps(two_scenes, pool),)),
    Case("a scene itself, need a folder that holds", lambda folder: pool(IDR(folder / "one")),
         (pool,)),
    Case("scene folders cannot be used", steps(damage, pool), (steps(mend, pool), steps(
        move_away, pool))),
    Case("the masks of all but", steps(empty_masks, pool), (steps(mend, pool), steps(
        move_away, pool))))


def written(name: str = "", **flags: object) -> Step:
    """Write the tiny scene into a folder below the case's."""
    return lambda folder: writing.write_scene(tiny(), folder / name if name else folder,
                                              str(flags.get("kind", "processed")),
                                              overwrite=bool(flags.get("overwrite")))


def taken(name: str) -> Step:
    """A folder with a file of this name."""
    def do(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_text("mine")
    return do


def unlisted(folder: Path) -> None:
    """A folder that the system does not let us list; as root one can list any."""
    folder.mkdir()
    with mock.patch.object(Path, "iterdir", side_effect=PermissionError(13, "Permission denied")):
        writing.check_target(folder, "processed")


FOLDERS = (
    Case("which no scene has, and which would", steps(taken("notes.txt"), written()),
         (written("other"), steps(lambda folder: (folder / "notes.txt").rename(
             folder.parent / "notes.txt"), written()))),
    Case("holds a scene already", steps(written(), written()),
         (lambda folder: written()(folder.parent / "other"), written(overwrite=True))),
    Case("--scene_format is", written(kind="nerf"), (written(kind="processed"),
                                                     written(kind="idr"))),
    Case("could not write the scene", steps(lambda folder: folder.write_text(""),
                                            written("below/scene")),
         (lambda folder: written()(folder.parent / "other"),)),
    Case("is a file, need a folder; give another", steps(lambda folder: folder.write_text(""),
                                                         written()),
         (lambda folder: written()(folder.parent / "other"),)),
    Case("cannot be listed", unlisted, (written(),
                                        lambda folder: written()(folder.parent / "other"))),
    Case("are one folder or lie in each other",
         lambda folder: writing.check_apart(folder, folder / "scene"),
         (lambda folder: writing.check_apart(folder, folder.parent / "scene"),)))


def made(**flags: object) -> Step:
    """make_scene.py with flags, of a scene that takes no time to render."""
    def do(folder: Path) -> object:
        settings = MakeSceneConfig(**{"output": str(folder), "resolution": "8x6", **flags})
        with mock.patch.object(synthetic, "make_scene", return_value=tiny()):
            return synthetic.make_scene_set(settings)
    return do


def rendered(**flags: object) -> Step:
    """A synthetic scene of a few pixels, of a ball, as other solids take seconds to be fitted."""
    def do(_: Path) -> object:
        with mock.patch.object(synthetic, "make_solid", return_value=sphere(0.8)):
            return synthetic.make_scene("blobs", num_points=50, resolution=(8, 6),
                                        **{"num_views": 2, "supersampling": 1, **flags})
    return do


def command(*words: str) -> Step:
    """`metanlr` with words; processes are not started."""
    def do(_: Path) -> None:
        with mock.patch.object(command_line, "launch", return_value=0):
            try:
                command_line.main(list(words))
            except SystemExit as end:
                assert not end.code
    return do


COMMANDS = (
    Case("--output is empty, need the folder", made(output=""), (made(),)),
    Case("--num_scenes is", made(num_scenes=0), (made(num_scenes=1),)),
    Case("scenes: --{} is {}, need one of", made(kind="blob"), (made(kind="blobs"),)),
    Case("scenes: --{} is {}, need at least", rendered(num_views=1), (rendered(num_views=2),)),
    Case("needed a number of processes", command("launch"), (command(
        "launch", "4", "meta-train", "--help"),)),
    Case("needed one of {}: metanlr completion bash", command("completion"), (command(
        "completion", "bash"),)),
    Case("metanlr has no command", command("trian"), (command("train", "--help"),
                                                      command("--help"))))

CASES = (*SPLITS, *SPACES, *POOLS, *FOLDERS, *COMMANDS)
