"""How long a picture takes: of an exported scene part by part, of its mesh with full D, and of the
traced SDF with full D, interleaved in one process."""
from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from data_processing.scenes.scene import Scene, load_scene
from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene
from realtime.blending import PlainBlending
from realtime.mesh_rays import coverage
from realtime.renderer import SceneRenderer, surface_points
from realtime.scene import TriangleMesh, straight_cameras
from stages.benchmark import trainer_of
from stages.exporting.assembly import Facts, assemble
from stages.exporting.simplification import in_order, simplify
from stages.mesh_rendering import MeshViewRenderer, surface_mesh
from stages.view_rendering import make_renderer
from utils.config.tool_sections import BenchmarkConfig
from utils.devices import pick_device
from utils.fast.memory import keep_freed_memory
from utils.files.atomic import write_text_atomic
from utils.geometry.cameras import Cameras
from utils.results.text_tables import format_rows
from utils.views.training_views import views_of

#: (width, height), source views; the first of each is what the bars of docs/realtime.md are about.
CASES = (((400, 300), 7), ((400, 300), 3), ((400, 300), 14), ((400, 300), 49), ((800, 600), 7))
#: Steps of training at a quarter of the size, for a surface that is not a sphere.
NUM_STEPS = 10
COLUMNS = ("rays", "outline", "blend", "decoder", "frame", "gather, plain", "G, plain",
           "mesh, full D", "SDF, full D")
#: Ends the names of processor times, which other processes of the machine do not lengthen.
CPU = ", CPU"


def render_benchmark(config: BenchmarkConfig) -> str:
    """Measure frames of a synthetic scene, or of the scene of the flags.

    Returns:
        The table, milliseconds; `--json` has the same.
    """
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = config.scene or str(write_scene(make_scene(
            "blobs", 0, resolution=(400, 300), supersampling=1), Path(folder) / "scene",
            "processed"))
        width = load_scene(path).cameras.resolution[0]
        small = load_scene(path, im_scale=min(100 / width, 1))
        weights = trained_weights(small, device)
        result: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(),
                                  "rows": []}
        for size, num_views in tqdm(CASES, desc="frames"):
            scene = resized(load_scene(path, im_scale=min(size[0] / width, 1)), size[0])
            found = measure_frames(scene, min(num_views, len(scene)), weights, device=device,
                                   repeats=config.repeats)
            result["rows"].append({"size": "x".join(map(str, scene.cameras.resolution)),
                                   "sources": min(num_views, len(scene)), **found})
            if config.json:                        # kept if it is stopped
                write_text_atomic(config.json, json.dumps(result, indent=2))
    return table(result)


def resized(scene: Scene, width: int) -> Scene:
    """Return a scene whose images have at least this width: smaller ones are enlarged."""
    before, height = scene.cameras.resolution
    if before >= width:
        return scene
    size = (round(height * width / before), width)
    return replace(scene, images=F.interpolate(scene.images, size, mode="bilinear"),
                   masks=F.interpolate(scene.masks.float(), size) > 0.5,
                   cameras=scene.cameras.resized(size[1], size[0]))


def trained_weights(scene: Scene, device: torch.device) -> dict[str, Any]:
    """Return the weights after a few steps on a small scene."""
    views = views_of(scene, range(0, len(scene), max(len(scene) // 7, 1)), device)
    trainer, model = trainer_of("fast", views, device)
    trainer.trace_all()
    for step in range(NUM_STEPS):
        trainer.train_step(step)
    return model.state_dict()


def measure_frames(scene: Scene, num_views: int, weights: dict[str, Any], *,
                   device: torch.device, repeats: int) -> dict[str, float]:
    """Return median milliseconds by column, those of all threads' processor time as "COLUMN, CPU",
    the number of triangles and the peak of resident memory so far, MiB.

    Args:
        scene: of one size.
        num_views: source views, spread evenly.
        weights: of the model.
        device: where to compute.
        repeats: rounds, in each of which everything is measured once.
    """
    last = max(num_views - 1, 1)
    train = sorted({i * (len(scene) - 1) // last for i in range(num_views)})
    views = views_of(scene, train, device)
    trainer, model = trainer_of("fast", views, device)
    model.load_state_dict(weights)
    renderer = make_renderer(model, views, occ_threshold=1e-3, tracer=trainer.tracer)
    mesh = in_order(simplify(surface_mesh(model.sdf, 128, device), model.sdf, 2e-3,
                             device=device).mesh)
    triangles = TriangleMesh(mesh.vertices_obj, mesh.faces)
    exported = assemble(renderer, triangles, Facts("", "", ("",) * len(train), (1.0, 1.0, 1.0)))
    camera = scene.cameras[len(scene) // 4].to(device)
    jobs = frame_jobs(SceneRenderer(exported, device), straight_cameras(camera))
    full = MeshViewRenderer(renderer, triangles)
    jobs |= {"mesh, full D": lambda: full(camera), "SDF, full D": lambda: renderer(camera)}
    times: dict[str, list[float]] = {name + kind: [] for name in COLUMNS for kind in ("", CPU)}
    with torch.no_grad():
        for name in COLUMNS:                       # what is prepared once is not a frame's
            jobs[name]()
        for _ in range(repeats):
            for name in COLUMNS:
                _wait(device)
                began, busy = time.perf_counter(), time.process_time()
                jobs[name]()
                _wait(device)
                times[name].append((time.perf_counter() - began) * 1e3)
                times[name + CPU].append((time.process_time() - busy) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: statistics.median(values) for name, values in times.items()} | {
        "triangles": len(mesh.faces), "peak_mib": peak}


@torch.no_grad()
def frame_jobs(renderer: SceneRenderer, camera: Cameras) -> dict[str, Callable[[], Any]]:
    """Return the parts of a frame of an exported scene, each on what the one before gave."""
    hits = renderer.rays.first_hits(camera)
    points = surface_points(camera, hits)
    blended, _ = renderer.blending(points)
    plain = PlainBlending(renderer.scene, renderer.device)
    samples = plain.sample(points)
    return {"rays": lambda: surface_points(camera, renderer.rays.first_hits(camera)),
            "outline": lambda: coverage(renderer.rays, camera, hits.mask),
            "blend": lambda: renderer.blending(points),
            "decoder": lambda: renderer.decode(blended, points, camera.resolution),
            "frame": lambda: renderer.render(camera),
            "gather, plain": lambda: plain.sample(points),
            "G, plain": lambda: plain.weigh(samples, points)}


def _wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(result: dict[str, Any]) -> str:
    """Return the measurements as lines of text."""
    rows = [["size", "sources", "time", *COLUMNS, "frames/s", "SDF / frame", "peak MiB"]]
    for row in result["rows"]:
        for kind, title in (("", "wall"), (CPU, "CPU")):
            frame, sdf = row["frame" + kind], row["SDF, full D" + kind]
            rows.append([row["size"], str(row["sources"]), title,
                         *(f"{row[name + kind]:.1f}" for name in COLUMNS), f"{1e3 / frame:.1f}",
                         f"{sdf / frame:.0f}", f"{row['peak_mib']:.0f}"])
    head = f"milliseconds a picture, {result['device']}, {result['threads']} threads"
    return f"{head}\n\n{format_rows(rows, num_left=3, rules_before=(1,))}"
