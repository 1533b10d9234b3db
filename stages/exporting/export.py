"""A finished run becomes an exported scene: all steps in order, each with what it costs."""
from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from realtime.archive import check_free, write_parts
from realtime.renderer import SceneRenderer
from realtime.scene import ExportedScene, FeatureMaps, TriangleMesh
from realtime.web_page import check_page_free, page_beside, write_page
from realtime.writing import scene_parts
from sdf_meshing import Mesh, colour_vertices, to_world
from stages.evaluation import TrainedScene, current_renderer, trained_scene_of
from stages.exporting.assembly import Facts, as_picture, assemble, upright
from stages.exporting.distillation import teach_both, teach_decoder
from stages.exporting.losses import (
    Draw,
    StepScores,
    TeacherAggregation,
    full_draw,
    student_draw,
)
from stages.exporting.simplification import Simplified, in_order, simplify
from stages.exporting.teaching import make_lessons
from stages.exporting.texturing import check_textured, write_textured
from stages.exporting.virtual_views import virtual_cameras
from stages.mesh_rendering import MeshViewRenderer, surface_mesh
from stages.scene import OpenedRun, open_run
from stages.view_rendering import ViewRenderer
from utils.command_names import typed
from utils.config.parser import Config
from utils.config.tool_sections import ExportConfig
from utils.errors import ConfigError, UserError
from utils.results.lpips import build_lpips

log = logging.getLogger(__name__)

MADE_BY = "MetaNLR++ 0.1.0"
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}
#: What the report gives the size of, and the names of its parts.
SIZES = {"features": "features_", "photographs": "photograph.", "depths": "depth.",
         "mesh": "mesh.", "all": ""}


def export_scene(config: Config) -> str:
    """Export a finished run.

    Args:
        config: of a training script, with the section of the export.
    Returns:
        What each step costs, and what lies where, as text.
    Raises:
        UserError: the run has no surface, or something else is where the scene goes.
    """
    check_free(Path(config.export.output), bool(config.export.overwrite))
    if config.export.web:
        check_page_free(page_beside(config.export.output), bool(config.export.overwrite))
    if config.export.textured_mesh:
        check_textured(Path(config.export.textured_mesh), bool(config.export.overwrite))
    if config.views.feature_aggregation_method == "sum":
        raise ConfigError("--feature_aggregation_method sum gives weights that do not sum to 1, "
                          "which an exported scene cannot hold; train with mean")
    trained_with = [f"--{name} {value}" for name, value, own in (
        ("occlusion_method", config.views.occlusion_method, "raytrace"),
        ("sampling", config.views.sampling, "ours")) if value != own]
    if trained_with:
        log.warning("an exported scene tests visibility by depth and shows hits alone; this run "
                    "has %s: what that costs is the difference of the scores below",
                    " and ".join(trained_with))
    return Export(open_run(config), config).written()


class Export:
    """One export; each method is a step.

    Args:
        opened: the run.
        config: all flags.
    """

    def __init__(self, opened: OpenedRun, config: Config) -> None:
        self.opened, self.config = opened, config
        self.flags: ExportConfig = config.export
        self.renderer: ViewRenderer = current_renderer(opened.trainer, opened.step)
        self.trained: TrainedScene = trained_scene_of(
            opened.trainer, opened.scene, opened.split, step=opened.step, renderer=self.renderer)
        lpips = build_lpips(config.test.lpips_weights) if self.flags.export_scores else None
        self.scores = StepScores(self.trained, lpips, BACKGROUNDS[self.flags.background])
        self.seconds = 0.0

    def written(self) -> str:
        """Take all steps, write the scene, and say what it is."""
        self._score("SDF, full D", lambda: full_draw(self.renderer))
        simplified = self._mesh()
        triangles = TriangleMesh(simplified.mesh.vertices_obj, simplified.mesh.faces,
                                 self._colours(simplified.mesh))
        textured = self._textured(simplified.mesh)
        teacher = MeshViewRenderer(self.renderer, triangles)
        self._score("mesh", lambda: full_draw(teacher))
        scene = self._assembled(triangles)
        self._score("8 bits", lambda: full_draw(self._at_8_bits(teacher, scene.features)))
        parts = scene_parts(self._taught(scene, teacher))
        path = write_parts(self.flags.output, parts, overwrite=bool(self.flags.overwrite))
        report = [self._report(path, simplified, parts), *filter(None, [textured])]
        if self.flags.web:
            page = write_page(path, page_beside(path), overwrite=bool(self.flags.overwrite))
            report.append(f"{page}: open it in a browser")
        return "\n".join(report)

    def _score(self, title: str, draw: Callable[[], Draw]) -> None:
        """Score a step, where that is asked for."""
        if self.flags.export_scores:
            log.info("export: scores of %s", title)
            self.scores.add(title, draw())

    def _mesh(self) -> Simplified:
        """Return the simplified mesh, its triangles in a good order."""
        log.info("export: mesh")
        mesh = surface_mesh(self.trained.sdf, self.config.test.mesh_resolution,
                            self.trained.device)
        found = simplify(mesh, self.trained.sdf, self.flags.mesh_tolerance,
                         device=self.trained.device)
        return replace(found, mesh=in_order(found.mesh))

    def _colours(self, mesh: Mesh) -> np.ndarray:
        """Return colours (N, 3) uint8 of vertices, blended from the photographs."""
        views = self.renderer.sources
        return colour_vertices(
            mesh, views.images.cpu(), views.masks.cpu(), cameras=views.cameras,
            visible=lambda points: self.renderer.visible(points.to(self.trained.device)).cpu())

    def _textured(self, mesh: Mesh) -> str:
        """Write the mesh with its texture where that is asked for; return what it is, as text."""
        if not self.flags.textured_mesh:
            return ""
        log.info("export: texture")
        path = Path(self.flags.textured_mesh)
        model = self.renderer.sources.cameras.model.cpu()
        turn = model.numpy()[:3, :3] / self.renderer.sources.cameras.model_scale
        x, y, z = (turn @ upright(self.renderer.sources.cameras.to("cpu"))).tolist()
        size = write_textured(path, mesh, self.flags.texture_size, self._colours, up=(x, y, z),
                              to_world=lambda points: to_world(points, model))
        origin = self.trained.scene.world_origin
        where = f"; relative to {list(origin)}, which is to be added" if any(origin) else ""
        return f"{path}: {size / 1e6:.2f} MB, for other programs{where}"

    def _assembled(self, mesh: TriangleMesh) -> ExportedScene:
        """Return the exported scene with small networks that know nothing yet."""
        scene = self.opened.scene
        names = tuple(str(scene.view_names[view]) for view in self.opened.split.train)
        return assemble(self.renderer, mesh, Facts(
            str(scene.name), MADE_BY, names, BACKGROUNDS[self.flags.background]))

    def _at_8_bits(self, teacher: MeshViewRenderer, features: FeatureMaps) -> MeshViewRenderer:
        """Return the teacher with feature maps as they are stored."""
        found = copy.copy(teacher)
        stored = features.values().to(teacher.features)
        found.features = torch.cat([stored, teacher.features[:, stored.shape[1]:]], 1)
        return found

    def _taught(self, scene: ExportedScene, teacher: MeshViewRenderer) -> ExportedScene:
        """Teach the small networks; return the scene with a poster that they drew."""
        log.info("export: teaching the small networks")
        began = time.monotonic()
        student = SceneRenderer(scene, self.trained.device)
        generator = torch.Generator().manual_seed(self.config.run.seed)
        cameras = virtual_cameras(self.renderer.sources.cameras.to("cpu"),
                                  self.flags.virtual_views, generator)
        lessons = make_lessons(teacher, student, cameras)
        if not lessons:
            raise UserError("no virtual view shows the surface, so that there is nothing to teach "
                            f"the small networks from; check the cameras with {typed('check')}")
        num_first = self.flags.distill_steps // 2
        teach_decoder(scene.decoder, lessons, num_first, generator)
        self.seconds += time.monotonic() - began
        self._score("student D", lambda: student_draw(SceneRenderer(
            replace(scene, aggregation=TeacherAggregation(teacher.model)), self.trained.device)))
        began = time.monotonic()
        teach_both(scene.aggregation, scene.decoder, lessons,
                   self.flags.distill_steps - num_first, generator)
        self.seconds += time.monotonic() - began
        self._score("student G", lambda: student_draw(student))
        poster = student.render(scene.cameras[len(scene) // 2]).picture
        return replace(scene, aggregation=scene.aggregation.cpu(), decoder=scene.decoder.cpu(),
                       poster=as_picture(poster))

    def _report(self, path: Path, simplified: Simplified, parts: dict[str, bytes]) -> str:
        """Return what was done and what it costs, as lines of text."""
        lines = [
            f"mesh: {simplified.num_before:,} triangles to {len(simplified.mesh.faces):,}, 99 % of "
            f"it within {simplified.distance:.5f} object units of the surface (before: "
            f"{simplified.distance_before:.5f})",
            f"small networks: {self.flags.distill_steps:,} steps, {self.seconds:.0f} s with their "
            "teacher's pictures"]
        if self.flags.export_scores:
            held_out = set(self.trained.scored) - set(self.trained.train)
            kind = "held-out views" if held_out else "training views, each kept from feeding itself"
            lines += ["", f"what each step costs, mean of {len(self.trained.scored)} {kind}:", "",
                      self.scores.table()]
        sizes = [f"{title} {sum(len(parts[name]) for name in parts if word in name) / 1e6:.2f}"
                 for title, word in SIZES.items()]
        return "\n".join([*lines, "", f"{path}: {', '.join(sizes)} MB"])
