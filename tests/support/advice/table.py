"""The form of a case: a fault that is refused, and each cure that the refusal names."""
from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import utils.errors
from data_processing.captures.importing import import_capture
from data_processing.scenes import object_space
from data_processing.scenes.scene import Scene, load_scene
from support import scene_files
from support.ball_scene import ball_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import UserError
from utils.paths import PROJECT_ROOT

Step = Callable[[Path], object]
#: Whose refusals must be in the tables.
PLACES = ("data_processing", "commands")
ERRORS = {name for name, kind in vars(utils.errors).items()
          if isinstance(kind, type) and issubclass(kind, UserError)}
HOLE = "{}"
#: Grids of a visual hull that takes no time.
COARSE = ((16, 1.05), (24, 1.0))


@dataclass(frozen=True)
class Refusal:
    """A place in the code that refuses something.

    Attributes:
        place: file and line.
        text: module, and what it says, `HOLE` for what is filled in.
    """

    place: str
    text: str

    def says(self, message: str) -> bool:
        """Whether a message may be from here."""
        holes = self.text.partition(": ")[2].split(HOLE)
        return re.search(".*?".join(map(re.escape, holes)), message, re.DOTALL) is not None


@lru_cache(maxsize=1)
def refusals() -> tuple[Refusal, ...]:
    """Each place of `PLACES` that makes an error of the user's."""
    return tuple(refusal for place in PLACES
                 for path in sorted((PROJECT_ROOT / place).rglob("*.py"))
                 for refusal in refusals_in(path))


def refusals_in(path: Path) -> Iterator[Refusal]:
    """Those of one module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args:
            yield Refusal(f"{path}:{node.lineno}", f"{path.stem}: {_words(node.args[0])}")


def _words(node: ast.expr) -> str:
    """What a message says, holes for what only a run knows."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_words, node.values))
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return HOLE


def refusal_of(site: str) -> Refusal:
    """The only refusal whose module and text hold these words."""
    found = [refusal for refusal in refusals() if site in refusal.text]
    assert len(found) == 1, f"{site!r} is in {[refusal.place for refusal in found]}, need one"
    return found[0]


@dataclass(frozen=True)
class Case:
    """A fault and its cures; each function takes a folder that does not exist at first.

    Attributes:
        site: words of the refusal, see `refusal_of`.
        refused: makes the fault, and meets the refusal.
        cures: each does one thing that the refusal says, after `refused`, and then passes.
    """

    site: str
    refused: Step
    cures: tuple[Step, ...]


def steps(*actions: Step) -> Step:
    """Do one after the other; the last one's value."""
    def do(folder: Path) -> object:
        value = None
        for action in actions:
            value = action(folder)
        return value
    return do


def again(write: Step) -> Step:
    """What "export it again", "copy it again" and "calibrate again" mean: the files made anew."""
    def do(folder: Path) -> object:
        shutil.rmtree(folder, ignore_errors=True)
        return write(folder)
    return do


@lru_cache(maxsize=1)
def tiny() -> Scene:
    """Four photographs of a ball; read only."""
    return ball_scene(0.6, num_views=4, resolution=(16, 12))


def imported(folder: Path, **flags: Any) -> Scene:
    """The scene that an import would write, its object space from the cameras or a coarse hull."""
    flags = {"normalization": "cameras", "input": str(folder),
             "output": str(folder.parent / "scene"), **flags}
    with mock.patch.object(object_space, "ROUNDS", COARSE):
        return import_capture(ImportConfig(**flags)).scene


def capture(site: str, make: Step, *cures: Step, views: int | tuple[int, ...] = 4,
            has_truth: bool = True, **flags: Any) -> Case:
    """A case of the import.

    Args:
        site: words of the refusal.
        make: writes the fault.
        cures: follow the advice.
        views: that are then there, of each cure or of all.
        has_truth: whether their cameras, by name, are then those of the tiny scene.
        flags: of the import.
    """
    counts = (views,) * len(cures) if isinstance(views, int) else views

    def followed(cure: Step, count: int) -> Step:
        def do(folder: Path) -> Scene:
            cure(folder)
            scene = imported(folder, **flags)
            assert len(scene) == count
            if has_truth:
                check_tiny(scene)
            return scene
        return do
    return Case(site, steps(make, lambda folder: imported(folder, **flags)),
                tuple(map(followed, cures, counts)))


def check_tiny(scene: Scene) -> None:
    """The cameras are those of the tiny scene's views of the same names."""
    truth = tiny()
    kept = [truth.view_names.index(name) for name in scene.view_names]
    for name, size in (("view", 4), ("projection", 2)):          # near and far are free
        np.testing.assert_allclose(getattr(scene.cameras, name)[:, :size],
                                   getattr(truth.cameras, name)[kept, :size], atol=1e-4)


def scene(site: str, make: Step, *cures: Step, views: int | tuple[int, ...] = 5,
          has_truth: bool = True, **options: Any) -> Case:
    """A case of `load_scene` on the folders of `scene_files`; arguments as of `capture`."""
    counts = (views,) * len(cures) if isinstance(views, int) else views

    def followed(cure: Step, count: int) -> Step:
        def do(folder: Path) -> Scene:
            cure(folder)
            found = load_scene(folder, **options)
            assert len(found) == count
            for i, name in enumerate(found.view_names if has_truth else ()):
                want = scene_files.FLIP @ scene_files.opencv_camera(int(name))
                np.testing.assert_allclose(found.cameras.view[i], want, atol=1e-4)
            return found
        return do
    return Case(site, steps(make, lambda folder: load_scene(folder, **options)),
                tuple(map(followed, cures, counts)))
