"""Many scenes of a folder: all checked at the start, each read when it is needed.

What was read stays in memory up to a bound; the scenes used least recently leave first. A thread
can read the next scene while one is trained on. The bound holds for the pixels of all scenes that
are alive: those kept, the one in use, and the one being read with the copy that reading makes. What
training makes of a scene (traced surfaces, feature maps, copies on a GPU) is not counted.
"""
from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_processing.scenes import normalization
from data_processing.scenes.opening import PointCloud, load_point_cloud, with_noise
from data_processing.scenes.scene import SceneOutline, load_scene, outline_scene
from data_processing.scenes.splits import MIN_TRAIN_VIEWS, Split, meta_views, resolve_split
from utils.command_names import typed
from utils.config.sections import DataConfig
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError, SceneError, UserError
from utils.files.text import visible
from utils.views.training_views import TrainingViews, views_of

log = logging.getLogger(__name__)

NUM_NAMED = 10               # bad scenes that one error names
FLOAT_BYTES, MASK_BYTES = 4, 1


@dataclass(frozen=True)
class PoolScene:
    """One scene ready to be trained on, on the CPU.

    Attributes:
        name: of its folder.
        views: the views that are trained on.
        cloud: points that supervise the shape, where they are asked for and there are any.
        scene, split: the whole scene and its split, where it is scored.
        numbers: of the training views among all views of the folder.
    """

    name: str
    views: TrainingViews
    cloud: PointCloud | None = None
    scene: Any = None
    split: Split | None = None
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class PoolEntry:
    """A scene folder that passed its check, the views to use and the scale to read it at.

    `is_scored`: the whole scene is kept beside the views that are trained on.
    """

    outline: SceneOutline
    split: Split
    im_scale: float
    is_scored: bool = False

    @property
    def num_bytes(self) -> int:
        """Return the memory of its pixels once it has been read."""
        return self._bytes_of(len(self.split.train)) + self.is_scored * self.reading_bytes

    @property
    def reading_bytes(self) -> int:
        """Return the memory of all its views, which are there while it is read."""
        return self._bytes_of(self.outline.num_views)

    @property
    def peak_bytes(self) -> int:
        """Return the memory while it is read: all views, and a copy of those trained on."""
        return self._bytes_of(len(self.split.train)) + self.reading_bytes

    def _bytes_of(self, num_views: int) -> int:
        """Return the memory of some views' images and masks."""
        width, height = self.outline.resolution
        return num_views * width * height * (3 * FLOAT_BYTES + MASK_BYTES)


class ScenePool:
    """Scenes by number, read when they are asked for.

    The scene asked for last is in use, and stays until another is asked for; whoever holds it, or
    anything made of it, lets go before that. A scene too large for the bound is read alone.

    Args:
        entries: from `check_scenes`.
        read: entry to scene.
        memory_bytes: bound of the pixels of all scenes that are alive.
    """

    def __init__(self, entries: Sequence[PoolEntry], read: Callable[[PoolEntry], PoolScene],
                 memory_bytes: int) -> None:
        self.entries, self.read, self.memory_bytes = tuple(entries), read, memory_bytes
        self._kept: OrderedDict[int, Future[PoolScene]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scenes")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> PoolScene:
        """Return a scene, from memory or read now; raise SceneError if its files are bad."""
        if index not in self._kept:
            wait(self._kept.values())          # the thread reads one after the other anyway
            self._make_room(self.entries[index].peak_bytes, in_use=0)
            self._begin(index)
        self._kept.move_to_end(index)
        try:
            return self._kept[index].result()
        except Exception:
            del self._kept[index]              # once it is fixed, it may be read again
            raise

    def read_ahead(self, index: int) -> None:
        """Start to read a scene in the background, if it fits beside the scene in use."""
        is_reading = any(not found.done() for found in self._kept.values())
        if index not in self._kept and not is_reading and self._make_room(
                self.entries[index].peak_bytes, in_use=1):
            in_use = next(reversed(self._kept), index)
            self._begin(index)
            self._kept.move_to_end(in_use)

    def _begin(self, index: int) -> None:
        """Start to read a scene."""
        self._kept[index] = self._thread.submit(self.read, self.entries[index])

    def _make_room(self, num_bytes: int, *, in_use: int) -> bool:
        """Drop scenes, except for the last `in_use` ones; return whether there is room then."""
        taken = sum(self.entries[index].num_bytes for index in self._kept)
        while len(self._kept) > in_use and taken + num_bytes > self.memory_bytes:
            index, _ = self._kept.popitem(last=False)
            taken -= self.entries[index].num_bytes
        return taken + num_bytes <= self.memory_bytes


def open_pool(data: DataConfig, meta: MetaConfig, *, path: str = "", flag: str = "dataset_path",
              is_scored: bool = False, seed: int = 0) -> ScenePool:
    """Check the scenes of a folder and return them as a pool.

    Args:
        data: how scenes are read, and which of their views are used.
        meta: the bounds of memory and size.
        path: the folder of scenes, or one scene; empty: `data.dataset_path`.
        flag: that names it, for messages.
        is_scored: scenes keep held-out views, as in the training of single scenes; else all views
            are trained on.
        seed: of the noise that randomize_cameras adds.
    Raises:
        ConfigError: no folder is given, or options are out of range.
        SceneError: there are no scenes, or some are bad; all bad ones are named.
    """
    path = path or data.dataset_path
    if not path:
        raise ConfigError(f"--{flag} is missing: give a folder that holds a folder for each scene, "
                          f"such as {typed('make-scene')} --num_scenes 20 makes")
    entries = check_scenes(scene_folders(path, flag), data, meta, is_scored=is_scored)

    def read(entry: PoolEntry) -> PoolScene:
        return read_scene(entry, data, seed=seed)

    return ScenePool(entries, read, meta.scene_memory_mb * 2**20)


def scene_folders(path: str | Path, flag: str = "dataset_path") -> list[Path]:
    """Return the visible folders inside a folder, by name; the folder itself where it is a scene.

    Raises:
        SceneError: there is no such folder, or nothing in it.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise SceneError(f"{path}: {what}, need a folder of scenes; check --{flag}")
    folders = sorted(entry for entry in path.iterdir()
                     if entry.is_dir() and not entry.name.startswith("."))
    if any(path.glob("*_rgb_meta.npy")) or any(path.glob("cameras*.npz")):
        if flag == "dataset_path":
            raise SceneError(f"{path}: a scene itself, need a folder that holds a folder for each "
                             f"scene; give its parent {path.resolve().parent} to --{flag}")
        return [path]
    if not folders:
        raise SceneError(f"{path}: no scene folders in it, need a folder for each scene; make some "
                         f"with {typed('make-scene')} --output {path} --num_scenes 20, "
                         f"or check --{flag}")
    return folders


def check_scenes(folders: Sequence[Path], data: DataConfig, meta: MetaConfig, *,
                 is_scored: bool = False) -> list[PoolEntry]:
    """Check all scenes without decoding their images.

    Raises:
        SceneError: some are bad; up to NUM_NAMED of them are named with their reasons.
    """
    entries, problems = [], []
    for folder in folders:
        try:
            entries.append(_entry(folder, data, meta, is_scored))
        except UserError as error:
            text = str(error)
            problems.append(text if str(folder) in text else f"{folder}: {text}")
    if problems:
        shown = "\n  ".join(map(visible, problems[:NUM_NAMED]))
        more = f"\n  and {len(problems) - NUM_NAMED} more" if len(problems) > NUM_NAMED else ""
        raise SceneError(f"{len(problems)} of {len(folders)} scene folders cannot be used; fix "
                         f"them or move them elsewhere:\n  {shown}{more}")
    sizes = sum(entry.num_bytes for entry in entries) / 2**20
    log.info("%d scenes, %d views, %.0f MiB", len(entries),
             sum(len(entry.split.train) for entry in entries), sizes)
    return entries


def _entry(folder: Path, data: DataConfig, meta: MetaConfig, is_scored: bool) -> PoolEntry:
    """Check one scene folder and return its entry."""
    with _quietly():
        outline = outline_scene(folder, **_options(data, data.load_im_scale))
    longest = max(outline.resolution)
    scale = data.load_im_scale
    if 0 < meta.max_image_side < longest:
        scale *= meta.max_image_side / longest
        size = tuple(max(1, round(side * meta.max_image_side / longest))
                     for side in outline.resolution)
        outline = replace(outline, resolution=size)
    asked = {"train_views": data.train_views, "test_views": data.test_views,
             "num_train_views": data.num_train_views}
    if is_scored:
        split = resolve_split(outline.num_views, data.dataset_name, **asked)
    else:
        split = Split(meta_views(outline.num_views, data.dataset_name, **asked), ())
    return PoolEntry(outline, split, scale, is_scored)


def _options(data: DataConfig, im_scale: float) -> dict[str, Any]:
    """Return the flags that say how a scene is read, as `load_scene` takes them."""
    return {"im_scale": im_scale, "scene_normalization": data.scene_normalization,
            "work_radius": data.work_radius, "scene_radius_scale": data.scene_radius_scale,
            "load_pcd": bool(data.load_pcd)}


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out the line of each scene that says where its object space came from."""
    level = normalization.log.level
    normalization.log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        normalization.log.setLevel(level)


def read_scene(entry: PoolEntry, data: DataConfig, *, seed: int = 0) -> PoolScene:
    """Read one scene; training views whose mask is empty are left out with a warning.

    Raises:
        SceneError: its images are bad, or fewer than two views are left.
    """
    with _quietly():
        scene = load_scene(entry.outline.path, **_options(data, entry.im_scale))
    scene = with_noise(scene, entry.split, data, seed)
    train = tuple(view for view in entry.split.train if scene.masks[view].any())
    empty = [scene.view_names[view] for view in entry.split.train if view not in train]
    if len(train) < MIN_TRAIN_VIEWS:
        raise SceneError(f"{scene.path}: the masks of all but {len(train)} training views are "
                         f"empty, need {MIN_TRAIN_VIEWS} views with some foreground; fix them, or "
                         "move the scene elsewhere")
    if empty:
        log.warning("%s: left out, as their masks are empty: views %s", scene.path,
                    ", ".join(empty[:NUM_NAMED]))
    kept = (scene, replace(entry.split, train=train)) if entry.is_scored else (None, None)
    return PoolScene(scene.name, views_of(scene, train, "cpu"), load_point_cloud(scene, data),
                     *kept, numbers=train)
