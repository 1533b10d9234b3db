"""New views a second: all of a frame, its stages, by the mesh, and replayed as a CUDA graph."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from realtime.renderer import SceneRenderer
from realtime.scene import TriangleMesh, straight_cameras
from stages.exporting.assembly import Facts, assemble
from stages.gpu_figures.setup import SCRATCH, SHIPPED, MeasureSetup, Subject, timed_ms
from stages.mesh_rendering import MeshViewRenderer, surface_mesh
from stages.replaying.frames import ReplayingRenderer
from stages.view_rendering import ViewRenderer, make_renderer, trace_views
from utils.benchmarking.parts import Recorder
from utils.fast.replays import NUM_BEFORE, Replayed
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, camera_rays
from utils.results.pictures import on_white, save_png
from utils.views.training_views import Targets

#: Sizes of the frames, as fractions of that of the views that is measured.
SIZES = (0.5, 1.0, 2.0)
FRAME_SECONDS = 0.1       # of the time, for one figure
WHITE = (1.0, 1.0, 1.0)
MESH_RESOLUTIONS = {"cuda": 256, "cpu": 48}


def measure_frames(setup: MeasureSetup, recorder: Recorder) -> None:
    """Note frames a second at each size, of the trained weights where there are some."""
    start = next((name for name in (SHIPPED, SCRATCH) if setup.weights_of(name).exists()), None)
    flags = () if start is None else ("--checkpoint_path", setup.weights_of(start))
    subject = setup.subject(SCRATCH, *flags)
    recorder.note("weights", "not trained: the sphere" if start is None else f"from the {start}"
                  if start == SHIPPED else start)
    occ_threshold = subject.trainer.plan(0).occ_threshold
    renderer = make_renderer(subject.model.eval(), subject.trainer.views,
                             occ_threshold=occ_threshold, tracer=subject.trainer.tracer)
    for size in SIZES:
        camera = frame_camera(subject, size)
        name = "x".join(map(str, camera.resolution))
        recorder.attempt(name, lambda camera=camera: frame_figures(renderer, camera, recorder))
        recorder.attempt(f"{name}, mesh", lambda camera=camera: mesh_figures(
            renderer, camera, MESH_RESOLUTIONS[setup.device], recorder.left() * FRAME_SECONDS))
    picture = renderer(frame_camera(subject, 1.0))
    save_png(setup.output / "pictures" / "frame.png",
             on_white(picture.images[0], picture.hit_mask[0]))
    recorder.attempt("CUDA graph", lambda: measure_graphs(setup, recorder, *flags))


def measure_graphs(setup: MeasureSetup, recorder: Recorder, *flags: object) -> str:
    """Note frames a second that are replayed; last, as what fails here may end the device's work.

    Args:
        flags: of the weights.
    Returns:
        What a graph is here.
    """
    subject = setup.subject(SCRATCH, *flags, "--cuda_graphs", 1)
    trainer = subject.trainer
    renderer = make_renderer(subject.model.eval(), trainer.views, tracer=trainer.tracer,
                             occ_threshold=trainer.plan(0).occ_threshold)
    for size in SIZES:
        camera = frame_camera(subject, size)
        recorder.attempt("x".join(map(str, camera.resolution)) + ", CUDA graph",
                         lambda camera=camera: graph_figures(
                             renderer, camera, recorder.left() * FRAME_SECONDS))
    return "by CUDA" if setup.is_cuda else "operations repeated from a list"


def frame_camera(subject: Subject, size: float) -> Cameras:
    """Return the first held-out camera for images of another size, on the device."""
    held_out = (subject.split.test or subject.split.train)[0]
    width, height = (max(round(side * size), 1) for side in subject.scene.cameras.resolution)
    return subject.scene.cameras[held_out].resized(width, height).to(subject.device)


def frame_figures(renderer: ViewRenderer, camera: Cameras, recorder: Recorder) -> dict[str, Any]:
    """Return frames a second, and the median time of a frame's stages, ms."""
    device, seconds = renderer.features.device, recorder.left() * FRAME_SECONDS
    tracer, model, sources = renderer.tracer, renderer.model, renderer.sources
    with torch.no_grad():
        surface, dirs = trace_views(model.sdf, camera, tracer)
        own = torch.zeros(len(sources.images), 1, dtype=torch.bool, device=device)
        targets = Targets(surface, dirs, own)
        where = model.correspond(targets, sources, renderer.occ_threshold)
        blended, _ = model.blend(renderer.features, targets, sources, where)
        stages: dict[str, Callable[[], Any]] = {
            "trace": lambda: trace_views(model.sdf, camera, tracer),
            "correspond": lambda: model.correspond(targets, sources, renderer.occ_threshold),
            "blend": lambda: model.blend(renderer.features, targets, sources, where),
            "decode": lambda: model.decode(blended)}
        found = {name: timed_ms(work, device, seconds / 6) for name, work in stages.items()}
        frame = timed_ms(lambda: frame_image(renderer, camera), device, seconds / 3)
    return {"frames_per_second": 1e3 / frame, "frame_ms": frame, "stages_ms": found,
            "sources": len(sources.images)}


@torch.no_grad()
def frame_image(renderer: ViewRenderer, camera: Cameras, rays: Rays | None = None) -> Tensor:
    """Return the image (1, 3, H, W) of a new view alone: no normals, no depth; model.eval().

    Args:
        rays: of the camera; None: not computed yet.
    """
    model, sources = renderer.model, renderer.sources
    surface, dirs = trace_views(model.sdf, camera, renderer.tracer, rays)
    own = torch.zeros(len(sources.images), 1, dtype=torch.bool, device=dirs.device)
    targets = Targets(surface, dirs, own)
    where = model.correspond(targets, sources, renderer.occ_threshold)
    blended, _ = model.blend(renderer.features, targets, sources, where)
    return model.decode(blended)


def replayed_frame(renderer: ViewRenderer, like: Cameras) -> Callable[[Cameras], Tensor]:
    """Return what `frame_image` does, replayed; an image stays until the next is drawn.

    Args:
        renderer: of a model with `--cuda_graphs 1`.
        like: a camera of the size of all that will be drawn.
    """
    own = ReplayingRenderer(renderer)
    replayed = Replayed(lambda *parts: [frame_image(own, like, Rays(*parts))], own.features.device)

    def draw(camera: Cameras) -> Tensor:
        """Return the image (1, 3, H, W)."""
        rays = camera_rays(camera)
        (image,) = replayed(*(getattr(rays, part.name) for part in fields(Rays)))
        assert image is not None, "the work returns it"
        return image

    return draw


def mesh_figures(renderer: ViewRenderer, camera: Cameras, resolution: int,
                 seconds: float) -> dict[str, float]:
    """Return the rate of frames, normals and coverage included, whose surface is a mesh.

    Args:
        resolution: samples of marching cubes along an edge.
        seconds: for the timed frames.
    Returns:
        With full G and D; of hits alone; and, as `small_networks`, of an exported scene, whose
        small networks are not taught, which takes no longer.
    """
    device = renderer.features.device
    mesh = surface_mesh(renderer.model.sdf, resolution, device)
    triangles = TriangleMesh(mesh.vertices_obj, mesh.faces)
    meshed = MeshViewRenderer(renderer, triangles)
    frame = timed_ms(lambda: meshed(camera), device, seconds / 3)
    found = {"frames_per_second": 1e3 / frame, "frame_ms": frame, "faces": len(mesh.faces),
             "hits_ms": timed_ms(lambda: meshed.rays.first_hits(camera), device, seconds / 3)}
    names = ("",) * len(renderer.sources.images)
    small = SceneRenderer(assemble(renderer, triangles, Facts("", "", names, WHITE)), device)
    straight = straight_cameras(camera)
    with torch.no_grad():
        frame = timed_ms(lambda: small.render(straight), device, seconds / 3)
    return found | {"small_networks_per_second": 1e3 / frame, "small_networks_ms": frame}


def graph_figures(renderer: ViewRenderer, camera: Cameras, seconds: float) -> dict[str, float]:
    """Return the rate of replayed frames, and how they differ from those that are not.

    Whatever reads a value on the host ends the recording with an error, which names the place.
    """
    draw, plain = replayed_frame(renderer, camera), frame_image(renderer, camera)
    for _ in range(NUM_BEFORE + 1):
        draw(camera)
    apart = float((draw(camera) - plain).abs().max())
    frame = timed_ms(lambda: draw(camera), renderer.features.device, seconds)
    return {"frames_per_second": 1e3 / frame, "frame_ms": frame, "largest_difference": apart}
