"""Synthetic scenes: analytic objects, rendered exactly, with true surface points."""
from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data_processing.scenes.scene import Scene
from data_processing.scenes.writing import check_target, write_scene
from data_processing.synthetic.analytic_sdf import normals
from data_processing.synthetic.camera_arrangements import (
    ARRANGEMENTS,
    NUM_VIEWS,
    arrange_cameras,
)
from data_processing.synthetic.exact_tracing import spread_points, trace
from data_processing.synthetic.painted_objects import PAINTED_OBJECTS, make_painted
from data_processing.synthetic.scene_kinds import BOUND, SCENE_KINDS, make_solid
from data_processing.synthetic.shading import BACKGROUND, Appearance, Look, draw_look, make_look
from data_processing.synthetic.varied_looks import as_photographed, draw_varied_look
from utils.config.tool_sections import MakeSceneConfig
from utils.config.values import parse_resolution
from utils.errors import ConfigError
from utils.geometry.cameras import Cameras, pixel_centers_ndc
from utils.geometry.sdf import Sdf

log = logging.getLogger(__name__)

#: Rays traced at once, which bounds memory, and views whose points are searched at once.
RAYS_AT_ONCE, VIEWS_AT_ONCE = 1 << 19, 7
#: A point is visible where its ray hits this close to it (object units).
SAME_POINT = 1e-3
#: Number of surface points that every view must hold.
FRAMED_POINTS = 5000
#: The solids of SCENE_KINDS with looks and photographs as various as real ones.
VARIED = "varied_"
VARIED_KINDS = tuple(VARIED + kind for kind in SCENE_KINDS)
KINDS = (*SCENE_KINDS, *PAINTED_OBJECTS, *VARIED_KINDS)


def make_scene(kind: str, seed: int = 0, *, arrangement: str = "dtu", num_views: int = 0,
               resolution: tuple[int, int] = (128, 96), supersampling: int = 3,
               num_points: int = 50_000) -> Scene:
    """Render an object of the given kind; the same arguments give the same bits.

    Args:
        kind: one of KINDS.
        seed: draws shape, texture, lights and cameras.
        arrangement: `dtu` (arc of rows), `nlr` (rows around, six central views last) or `sphere`.
        num_views: V; 0: as many as the named split of the arrangement has, see NUM_VIEWS.
        resolution: (W, H) in pixels.
        supersampling: S; each pixel is the mean of S x S rays.
        num_points: points spread over the surface, of which those that a view sees are kept.
    Returns:
        A scene with colours rounded to 8 bits, as its files hold them.
    Raises:
        ConfigError: an unknown kind or arrangement, or a count that is too small.
    """
    _check_choice("kind", kind, KINDS)
    _check_choice("arrangement", arrangement, ARRANGEMENTS)
    num_views = num_views or NUM_VIEWS[arrangement]
    for flag, value, least in (("num_views", num_views, 2), ("supersampling", supersampling, 1),
                               ("resolution", min(resolution), 2)):
        if value < least:
            raise ConfigError(f"--{flag} is {value}, need at least {least}")
    generator = torch.Generator().manual_seed(1000 * seed + KINDS.index(kind))
    with torch.no_grad():
        sdf, look = _object(kind, generator)
        points = spread_points(sdf, num_points, BOUND, generator)
        cameras = arrange_cameras(arrangement, num_views, points[:FRAMED_POINTS],
                                  resolution=resolution, generator=generator)
        name = f"{kind}_{seed:04d}"
        images, coverage = render_views(sdf, look, cameras, supersampling=supersampling,
                                        label=f"rendering {name}")
        if kind in VARIED_KINDS:
            images = as_photographed(images, coverage, generator)
        points = visible_points(sdf, points, cameras)
        outward = normals(sdf, points)
    points_world = points @ cameras.model[:3, :3].T + cameras.model[:3, 3]
    normals_world = torch.nn.functional.normalize(outward @ cameras.model[:3, :3].T, dim=-1)
    return Scene(name=name, images=images, masks=coverage >= 0.5, cameras=cameras,
                 view_names=tuple(f"{view:03d}" for view in range(num_views)),
                 has_masks=True, surface_points_world=points_world,
                 surface_normals_world=normals_world)


def _object(kind: str, generator: torch.Generator) -> tuple[Sdf, Appearance]:
    """Return the solid of a kind and how it looks."""
    if kind in VARIED_KINDS:
        return make_solid(kind.removeprefix(VARIED), generator), draw_varied_look(generator)
    if kind in SCENE_KINDS:
        return make_solid(kind, generator), make_look(generator)
    grain, lighting = draw_look(generator)
    sdf, texture = make_painted(kind, generator, grain)
    return sdf, Look(texture, lighting)


def render_views(sdf: Sdf, look: Appearance, cameras: Cameras, *, supersampling: int,
                 label: str = "rendering") -> tuple[Tensor, Tensor]:
    """Render photographs of a solid, each pixel the mean of a regular grid of S x S rays.

    Args:
        sdf: object space, positive outside radius BOUND.
        look: texture and lights.
        cameras: V cameras, resolution (W, H).
        supersampling: S.
        label: of the progress bar.
    Returns:
        Images (V, 3, H, W) RGB in steps of 1/255, and coverage (V, 1, H, W) in [0, 1], the
        fraction of the pixel's rays that hit.
    """
    width, height = cameras.resolution
    fine = pixel_centers_ndc(width * supersampling, height * supersampling)
    rays_a_row = width * supersampling ** 2
    num_rows = min(height, max(1, RAYS_AT_ONCE // rays_a_row))
    # A few grazing rays take many steps, which is cheaper for several small views at once.
    num_together = max(1, RAYS_AT_ONCE // (rays_a_row * height))
    images = torch.empty(len(cameras), 4, height, width)
    with tqdm(total=len(cameras), desc=label, unit="view") as progress:
        for views in torch.arange(len(cameras)).split(num_together):
            for rows in torch.arange(height).split(num_rows):
                top, bottom = int(rows[0]) * supersampling, (int(rows[-1]) + 1) * supersampling
                rays = cameras[views].rays_through(fine[top:bottom])   # (v, h S, W S, 3)
                grid = _render_rays(sdf, look, *rays).reshape(
                    len(views), len(rows), supersampling, width, supersampling, 4)
                images[views, :, rows[0]:rows[-1] + 1] = grid.mean((2, 4)).movedim(-1, 1)
            progress.update(len(views))
    return (images[:, :3] * 255).round() / 255, images[:, 3:]


def _render_rays(sdf: Sdf, look: Appearance, origins: Tensor, dirs: Tensor) -> Tensor:
    """Return colour and hit, (R, 4), of R rays with origins and directions (..., 3)."""
    origins, dirs = origins.reshape(-1, 3), dirs.reshape(-1, 3)
    hits = trace(sdf, origins, dirs, BOUND)
    out = torch.full((len(dirs), 4), BACKGROUND)
    out[:, 3] = 0
    points = hits.points[hits.hit_mask]
    if len(points):
        colour = look.shade(sdf, points, normals=normals(sdf, points), dirs=dirs[hits.hit_mask])
        out[hits.hit_mask] = torch.cat([colour, torch.ones(len(points), 1)], -1)
    return out


def visible_points(sdf: Sdf, points: Tensor, cameras: Cameras) -> Tensor:
    """Return the surface points that at least one camera sees, unhidden and inside its frame.

    Args:
        sdf: object space.
        points: (N, 3) on the surface, object space.
        cameras: V cameras.
    Returns:
        (M, 3) points, in their order.
    """
    outward = normals(sdf, points)
    centers = cameras.centers_obj                                      # (V, 3)
    xy_ndc, depth = cameras.project(points)                            # (V, N, 2), (V, N)
    framed_mask = (xy_ndc.abs() <= 1).all(-1) & (depth > 0)
    seen_mask = torch.zeros(len(points), dtype=torch.bool)
    num_groups = -(-len(cameras) // VIEWS_AT_ONCE)
    for group in range(num_groups):
        # Each group of views is spread over all, so that the first leaves few points to the others.
        views = torch.arange(group, len(cameras), num_groups)
        facing_mask = ((centers[views, None] - points) * outward).sum(-1) > 0
        pairs = torch.nonzero(facing_mask & framed_mask[views] & ~seen_mask)
        for view, index in (part.unbind(-1) for part in pairs.split(RAYS_AT_ONCE)):
            eyes, ends = centers[views[view]], points[index]
            hits = trace(sdf, eyes, torch.nn.functional.normalize(ends - eyes, dim=-1), BOUND)
            near_mask = (hits.points - ends).norm(dim=-1) < SAME_POINT
            seen_mask[index[near_mask & hits.hit_mask]] = True
    return points[seen_mask]


def scene_plan(kind: str, seed: int, num_scenes: int) -> Iterator[tuple[str, int]]:
    """Return kind and seed of each scene of a set: `all` and `varied` alternate kinds, seeds count
    up."""
    _check_choice("kind", kind, (*KINDS, "all", "varied"))
    kinds = {"all": tuple(SCENE_KINDS), "varied": VARIED_KINDS}.get(kind, (kind,))
    return ((kinds[k % len(kinds)], seed + k // len(kinds)) for k in range(num_scenes))


def make_scene_set(settings: MakeSceneConfig) -> list[Path]:
    """Render and write the scenes that a MakeSceneConfig asks for.

    One scene goes into `output` itself, several into one folder each below it. All targets are
    checked before the first ray is traced.

    Args:
        settings: config section with output, kind, seed, num_scenes, num_views, arrangement,
            resolution, scene_format, supersampling, overwrite.
    Returns:
        Folders written.
    Raises:
        ConfigError, WriteError: see `make_scene` and `write_scene`.
    """
    if not settings.output:
        raise ConfigError("--output is empty, need the folder to write, e.g. scenes/demo")
    output = Path(settings.output).expanduser()
    if settings.num_scenes < 1:
        raise ConfigError(f"--num_scenes is {settings.num_scenes}, need at least 1")
    plan = list(scene_plan(settings.kind, settings.seed, settings.num_scenes))
    folders = [output if len(plan) == 1 else output / f"{kind}_{seed:04d}" for kind, seed in plan]
    resolution = parse_resolution(settings.resolution)
    for folder in folders:
        check_target(folder, settings.scene_format, overwrite=bool(settings.overwrite))
    for (kind, seed), folder in zip(plan, folders):
        scene = make_scene(kind, seed, arrangement=settings.arrangement,
                           num_views=settings.num_views, resolution=resolution,
                           supersampling=settings.supersampling)
        write_scene(scene, folder, settings.scene_format, overwrite=bool(settings.overwrite))
        log.info("wrote %s (%s, %d views)", folder, scene.name, len(scene))
    return folders


def _check_choice(flag: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError with the nearest choice where a value is none of them."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.0)[0]
        raise ConfigError(f"--{flag} is {value!r}, need one of {', '.join(choices)}; "
                          f"did you mean {near}?")
