"""What a live viewer shows: an exported scene, or a run with the networks of its checkpoint."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from realtime.scene import TriangleMesh
from stages.evaluation import current_renderer
from stages.mesh_rendering import MeshViewRenderer, surface_mesh
from stages.scene import open_run
from utils.checkpoints.storage import checkpoints_in
from utils.config.parser import META_SECTIONS, parse_config
from utils.errors import UserError
from utils.geometry.cameras import Cameras
from utils.geometry.keyframes import rigid_from_object

#: Of a curve.
Rows = Sequence[Mapping[str, object]]
CONFIG, CHECKPOINTS = "config.txt", "checkpoints"


@dataclass(frozen=True)
class Shown:
    """One picture and what it is made from, on the CPU.

    Attributes:
        picture: (3, H, W) RGB in [0, 1] on the background.
        hit_mask: (1, H, W) bool.
        normals_obj: (3, H, W) unit, 0 where no hit.
        depth: (1, H, W) along the camera's axis, object units, 0 where no hit.
        weights: (K, H, W) of the source views.
    """

    picture: Tensor
    hit_mask: Tensor
    normals_obj: Tensor
    depth: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SourceViews:
    """The source views of a subject.

    Attributes:
        names: K of them.
        cameras: K cameras straight from object space, without a scale.
        photographs: (K, 3, H, W) RGB in [0, 1].
        masks: (K, 1, H, W) bool.
    """

    names: tuple[str, ...]
    cameras: Cameras
    photographs: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def up(self) -> Tensor:
        """(3,) unit direction, object space, that the cameras hold upright on average."""
        return torch.nn.functional.normalize(self.cameras.view[:, 1, :3].mean(0), dim=0)


class Subject(Protocol):
    """What is shown: a name, source views, and pictures from anywhere.

    Attributes:
        name: of it.
        sources: its source views.
        curve: rows of curve.csv so far; none of an exported scene.
    """

    name: str
    sources: SourceViews
    curve: Rows

    def draw(self, camera: Cameras, *, is_quick: bool, exclude: int | None = None) -> Shown:
        """Return what one camera straight from object space sees.

        Args:
            camera: of any size.
            is_quick: while it moves; speed counts more than quality.
            exclude: source view that must not feed the picture.
        """
        ...


class ExportedSubject:
    """An exported scene, whose small networks draw every picture.

    Args:
        path: a folder or zip archive (docs/scene_format.md).
    """

    def __init__(self, path: str | Path) -> None:
        scene = read_scene(path)
        self.name = scene.name
        self.curve: Rows = ()
        self.renderer = SceneRenderer(scene)
        self.sources = SourceViews(scene.view_names, scene.cameras, scene.photographs / 255,
                                   scene.masks)

    def draw(self, camera: Cameras, *, is_quick: bool, exclude: int | None = None) -> Shown:
        """See `Subject.draw`; quick or not is the same here."""
        frame = self.renderer.render(camera, exclude)
        return Shown(frame.picture, frame.hit_mask, frame.normals_obj, frame.depth, frame.weights)


class RunSubject:
    """The latest checkpoint of a run: full G and D on the mesh of its surface, on white.

    Args:
        folder: of the run.
        student: an exported scene of the run that draws while it moves; None: the run itself.
    """

    def __init__(self, folder: Path, student: ExportedSubject | None = None) -> None:
        config = parse_config(META_SECTIONS, [
            "--config_filepath", str(folder / CONFIG), "--logging_root", str(folder.parent),
            "--experiment_name", folder.name])
        opened = open_run(config)
        renderer = current_renderer(opened.trainer, opened.step)
        mesh = surface_mesh(renderer.model.sdf, config.test.mesh_resolution, opened.trainer.device)
        step = "" if opened.step is None else f", {opened.step} steps"
        self.name, self.student = f"{folder.name}{step}", student
        self.curve: Rows = tuple(opened.progress.curve)
        self.renderer = MeshViewRenderer(renderer, TriangleMesh(mesh.vertices_obj, mesh.faces))
        sources = renderer.sources
        self.sources = SourceViews(
            tuple(str(opened.scene.view_names[view]) for view in opened.split.train),
            rigid_from_object(sources.cameras.to("cpu")), sources.images.cpu(),
            sources.masks.cpu())

    def draw(self, camera: Cameras, *, is_quick: bool, exclude: int | None = None) -> Shown:
        """See `Subject.draw`."""
        if is_quick and self.student is not None:
            return self.student.draw(camera, is_quick=True, exclude=exclude)
        found = self.renderer(camera, exclude)
        assert found.coverage is not None, "a mesh has one"
        covered = found.coverage[0]
        picture = covered * found.images[0].clamp(0, 1) + (1 - covered)
        return Shown(*(part.detach().cpu() for part in (
            picture, found.hit_mask[0], found.normals_obj[0], found.depth[0],
            found.weights[:, 0])))


class LockedSubject:
    """The subject of a viewer, which draws one picture at a time, those of others in between.

    Args:
        lock: who has it draws.
        current: gives what is shown now.
    """

    def __init__(self, lock: AbstractContextManager[Any], current: Callable[[], Subject]) -> None:
        self.lock, self.current, first = lock, current, current()
        self.name, self.sources, self.curve = first.name, first.sources, first.curve

    def draw(self, camera: Cameras, *, is_quick: bool, exclude: int | None = None) -> Shown:
        """See `Subject.draw`."""
        with self.lock:
            return self.current().draw(camera, is_quick=is_quick, exclude=exclude)


def is_run(path: Path) -> bool:
    """Return whether this is the folder of a run."""
    return (path / CONFIG).is_file()


def open_subject(path: str | Path, student: str = "") -> Subject:
    """Open an exported scene or a run.

    Args:
        path: of either.
        student: an exported scene that draws a run while it moves; "": none.
    Raises:
        UserError: it is neither, is damaged, or has no surface.
    """
    path = Path(path).expanduser().resolve()
    if not is_run(path):
        if path.is_dir() and not (path / "scene.json").is_file():
            raise UserError(f"{path}: no {CONFIG} and no scene.json, need the folder of a run or "
                            "an exported scene")
        return ExportedSubject(path)
    return RunSubject(path, ExportedSubject(student) if student else None)


def newest_checkpoint(path: str | Path) -> Path | None:
    """Return the latest checkpoint of a run, by which a change is noticed; None for a scene."""
    path = Path(path).expanduser().resolve()
    found = checkpoints_in(path / CHECKPOINTS) if is_run(path) else []
    return found[-1] if found else None
