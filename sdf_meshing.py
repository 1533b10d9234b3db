"""Meshes from a signed distance function: marching cubes, vertex colours, PLY, OBJ and GLB files.

The SDF, and what tells which views see a point, come in as callables: nothing here knows a network.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from utils.errors import UserError
from utils.files.atomic import whole_file
from utils.files.glb import write_glb
from utils.geometry.cameras import Cameras, ndc_to_grid
from utils.geometry.sdf import Sdf
from utils.results.metrics import Chamfer, chamfer

log = logging.getLogger(__name__)

#: points (N, 3), object space -> (V, N) bool: True where view v sees point n.
Visible = Callable[[Tensor], Tensor]
#: Points that go through the SDF at once: a processor's caches want few, an accelerator many.
CHUNK_CPU, CHUNK = 4096, 65536
#: Least number of cells along a side of the coarsest grid.
COARSE = 8
#: Largest |grad SDF| that a trained SDF is trusted with when cells without surface are skipped.
MAX_GRADIENT = 2.0
#: The grid ends a little outside the bounds, so that a surface that touches them still closes.
GRID_MARGIN = 1.02
#: Connected pieces with less than this fraction of all faces are taken for floaters.
MIN_PIECE = 0.01
#: Power of the cosine between normal and viewing direction that weighs a source view: high enough
#: that the most frontal view dominates and small misalignments do not blur the texture.
COSINE_POWER = 4
#: Weight of pixels at the border of a mask, which are mixed with background: they count where no
#: view has better ones.
BORDER_WEIGHT = 0.01
#: Unseen vertices take the colour of a seen one within this distance (object units), else grey.
FILL_DISTANCE = 0.03
UNSEEN_COLOUR = (128, 128, 128)
FORMATS = ("ply", "obj", "glb")


@dataclass(frozen=True)
class Mesh:
    """Triangles in object space.

    Attributes:
        vertices_obj: (N, 3) float32.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        normals_obj: (N, 3) float32, unit, outward.
    """

    vertices_obj: np.ndarray
    faces: np.ndarray
    normals_obj: np.ndarray

    @property
    def is_empty(self) -> bool:
        """Whether there is no surface at all."""
        return len(self.faces) == 0


def extract_mesh(sdf: Sdf, *, resolution: int = 256, bounds: float = 1.0,
                 device: torch.device | str = "cpu") -> Mesh:
    """Return the zero level of an SDF inside a sphere, by marching cubes, without floaters.

    Space outside the sphere counts as outside, so that the mesh is closed.

    Args:
        sdf: called with at most 65,536 points (CPU: 4,096) and without gradients.
        resolution: cells along a side of the grid, at least; see `sdf_grid`.
        bounds: radius of the sphere, object units.
        device: where the points for the SDF are made.
    Returns:
        the mesh; an empty one, and a logged line, where there is no surface.
    Raises:
        ValueError: resolution below 8.
        UserError: the SDF is not finite.
    """
    if resolution < COARSE or bounds <= 0:
        raise ValueError(f"need a resolution of {COARSE} or more and bounds > 0, got "
                         f"{resolution} and {bounds}")
    half = bounds * GRID_MARGIN
    values = sdf_grid(sdf, resolution, half, bounds=bounds, device=device)
    if not (values.min() < 0 < values.max()):
        log.warning("the SDF is nowhere negative inside the sphere of radius %g: no mesh; train "
                    "longer, or check that the masks show the object", bounds)
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64),
                    np.zeros((0, 3), np.float32))
    spacing = (2 * half / (len(values) - 1),) * 3
    vertices, faces, _, _ = marching_cubes(values.numpy(), 0.0, spacing=spacing,
                                           gradient_direction="descent")
    return without_floaters(_with_normals((vertices - half).astype(np.float32),
                                          faces.astype(np.int64)))


@torch.no_grad()
def sdf_grid(sdf: Sdf, resolution: int, half: float, *, bounds: float,
             device: torch.device | str = "cpu") -> Tensor:
    """Return the SDF of the cube [-half, half]^3 cut to a sphere: max(sdf(x), |x| - bounds).

    From coarse to fine: each round halves the cells, asks the SDF at the corners of those that the
    surface can pass and interpolates the others. So values are exact near the surface and have the
    right sign elsewhere, for an SDF whose gradient is no longer than 2.

    Args:
        sdf: as in `extract_mesh`.
        resolution: cells along a side; rounded up to (8 to 15) * 2^k.
        half: half the side of the cube, object units.
        bounds: radius of the sphere, object units.
    Returns:
        (n + 1, n + 1, n + 1) float32 on the CPU for n cells along a side, indexed x, y, z.
    """
    num_rounds = max(0, (resolution // COARSE).bit_length() - 1)
    num_cells = -(-resolution // 2 ** num_rounds)
    axis = torch.linspace(-half, half, num_cells + 1)
    values = _cut_sdf(sdf, torch.cartesian_prod(axis, axis, axis), bounds, device)
    values = values.reshape((num_cells + 1,) * 3)
    for _ in range(num_rounds):
        # no point of a cell is farther than half its diagonal from the nearest corner
        reach = MAX_GRADIENT * 3 ** 0.5 * half / num_cells
        near_mask = -torch.nn.functional.max_pool3d(-values.abs()[None], 2, stride=1)[0] < reach
        num_cells *= 2
        axis = torch.linspace(-half, half, num_cells + 1)
        values = torch.nn.functional.interpolate(values[None, None], size=(num_cells + 1,) * 3,
                                                 mode="trilinear", align_corners=True)[0, 0]
        index = _corners_of(near_mask).nonzero()                         # (N, 3)
        values[tuple(index.T)] = _cut_sdf(sdf, axis[index], bounds, device)
    return values


def _corners_of(cell_mask: Tensor) -> Tensor:
    """Return the grid points in True cells once sides are halved: (n,) * 3 to (2n + 1,) * 3 bool.
    """
    for dim in range(3):
        cell_mask = cell_mask.repeat_interleave(2, dim)
    padded = torch.nn.functional.pad(cell_mask.float()[None], (1,) * 6)
    return torch.nn.functional.max_pool3d(padded, 2, stride=1)[0] > 0


def _cut_sdf(sdf: Sdf, points_obj: Tensor, bounds: float, device: torch.device | str) -> Tensor:
    """Return max(sdf(x), |x| - bounds) of points (N, 3), as (N,) on the CPU.

    The SDF is asked inside the sphere only.

    Raises:
        UserError: the SDF is not finite.
    """
    values = points_obj.norm(dim=-1) - bounds
    index = (values <= 0).nonzero()[:, 0]
    for chunk in index.split(CHUNK_CPU if torch.device(device).type == "cpu" else CHUNK):
        found = sdf(points_obj[chunk].to(device)).reshape(-1).float().cpu()
        if not torch.isfinite(found).all():
            raise UserError("the SDF network returns values that are not finite: its weights are "
                            "damaged; go back to an earlier checkpoint")
        values[chunk] = torch.maximum(found, values[chunk])
    return values


def without_floaters(mesh: Mesh, min_piece: float = MIN_PIECE) -> Mesh:
    """Return the mesh without connected pieces that have less than this fraction of its faces."""
    num = len(mesh.vertices_obj)
    pairs = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]])
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    _, piece_of_vertex = connected_components(graph, directed=False)
    piece_of_face = piece_of_vertex[mesh.faces[:, 0]]
    num_faces = np.bincount(piece_of_face, minlength=piece_of_vertex.max(initial=0) + 1)
    kept_mask = num_faces[piece_of_face] >= min_piece * len(mesh.faces)
    used, faces = np.unique(mesh.faces[kept_mask], return_inverse=True)
    return Mesh(mesh.vertices_obj[used], faces.reshape(-1, 3), mesh.normals_obj[used])


def _with_normals(vertices_obj: np.ndarray, faces: np.ndarray) -> Mesh:
    """Add vertex normals: the area-weighted means of the faces around."""
    corners = vertices_obj[faces].astype(np.float64)                     # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack([np.bincount(faces.ravel(), np.repeat(cross[:, i], 3), len(vertices_obj))
                        for i in range(3)], -1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return Mesh(vertices_obj, faces, (normals / np.maximum(length, 1e-20)).astype(np.float32))


def sample_surface(mesh: Mesh, num_points: int, *,
                   seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points (num_points, 3) evenly spread over the surface, and their faces' normals.

    Both are in object space; the normals point outwards and have the length of twice the area.
    """
    if mesh.is_empty:
        raise ValueError("an empty mesh has no points to sample")
    rng = np.random.default_rng(seed)
    corners = mesh.vertices_obj[mesh.faces].astype(np.float64)           # (F, 3, 3)
    sides = corners[:, 1:] - corners[:, :1]                              # (F, 2, 3)
    cross = np.cross(sides[:, 0], sides[:, 1])
    area = np.linalg.norm(cross, axis=-1)
    chosen = rng.choice(len(area), num_points, p=area / area.sum())
    weights = rng.random((num_points, 2))
    outside_mask = weights.sum(-1) > 1                                   # other half of the square
    weights[outside_mask] = 1 - weights[outside_mask]
    return corners[chosen, 0] + (weights[:, :, None] * sides[chosen]).sum(1), cross[chosen]


def mesh_chamfer(mesh: Mesh, points_world: np.ndarray, model: Tensor, *,
                 normals_world: np.ndarray | None = None, visible: Visible | None = None,
                 num_points: int = 50_000) -> Chamfer | None:
    """Return the Chamfer distance of a mesh to true surface points, world units.

    Accuracy is taken over the part of the mesh that a view sees, completeness from the true points
    to the whole mesh: what no photograph shows does not count against the method.

    Args:
        mesh: predicted surface.
        points_world: (M, 3) true points, those that cameras see.
        model: (4, 4), object to world.
        normals_world: (M, 3) true normals; None: not known.
        visible: tells which views see a point; None: all of the mesh counts.
        num_points: samples of the mesh; their spacing bounds how small completeness can be.
    Returns:
        the distances; None where the mesh is empty or no view sees it.
    """
    if mesh.is_empty:
        return None
    samples, normals = sample_surface(mesh, num_points)
    seen = samples
    if visible is not None:
        seen = samples[visible(torch.from_numpy(samples).float()).any(0).cpu().numpy()]
    if not len(seen):
        return None
    turned = normals @ model.detach().double().cpu().numpy()[:3, :3].T    # a similarity turns alike
    whole = chamfer(to_world(samples, model), points_world, normals_predicted=turned,
                    normals_true=normals_world)
    return replace(whole, accuracy=chamfer(to_world(seen, model), points_world).accuracy)


def to_world(points_obj: np.ndarray, model: Tensor) -> np.ndarray:
    """Return (N, 3) points in world space; `model` is (4, 4), object to world."""
    matrix = model.detach().double().cpu().numpy()
    return points_obj @ matrix[:3, :3].T + matrix[:3, 3]


def colour_vertices(mesh: Mesh, images: Tensor, masks: Tensor, *, cameras: Cameras,
                    visible: Visible) -> np.ndarray:
    """Blend of the photographs that see each vertex.

    colour = sum_v w_v I_v / sum_v w_v with w_v = max(0, cos)^4 of the angle between normal and
    direction to camera v, a hundredth of it at the border of the mask and 0 where the vertex is
    hidden, outside the image or off the mask.

    Args:
        mesh: N vertices.
        images: (V, 3, H, W) RGB in [0, 1].
        masks: (V, 1, H, W) bool.
        cameras: V cameras.
        visible: tells which views see a point.
    Returns:
        (N, 3) uint8; vertices that no view sees take the colour of a near seen one, else grey.
    """
    points, normals = torch.from_numpy(mesh.vertices_obj), torch.from_numpy(mesh.normals_obj)
    cameras = cameras.to("cpu", torch.float32)
    if images.shape[0] != len(cameras) or masks.shape[0] != len(cameras):
        raise ValueError(f"{len(images)} images, {len(masks)} masks and {len(cameras)} cameras; "
                         "need as many of each")
    total, weight_sum = torch.zeros(len(points), 3), torch.zeros(len(points), 1)
    seen = visible(points).cpu()                                         # (V, N)
    for v in range(len(cameras)):
        colours, weights = _view_colours(points, images[v].cpu(), masks[v].cpu(), cameras[v])
        to_camera = torch.nn.functional.normalize(cameras.centers_obj[v] - points, dim=-1)
        cosine = (to_camera * normals).sum(-1, keepdim=True).clamp_min(0)
        weights = weights * cosine ** COSINE_POWER * seen[v][:, None]    # (N, 1)
        total, weight_sum = total + weights * colours, weight_sum + weights
    blend = (total / weight_sum.clamp_min(1e-12) * 255).round().clamp(0, 255).to(torch.uint8)
    return _fill_unseen(mesh.vertices_obj, blend.numpy(), (weight_sum[:, 0] > 1e-6).numpy())


def _view_colours(points_obj: Tensor, image: Tensor, mask: Tensor,
                  camera: Cameras) -> tuple[Tensor, Tensor]:
    """Return colours (N, 3) and weights (N, 1) of an image (3, H, W) at points (N, 3).

    Weights are 1 inside the mask, BORDER_WEIGHT at its border and 0 where a sample is not all
    foreground.
    """
    xy_ndc, depth = camera.project(points_obj)
    grid = ndc_to_grid(xy_ndc, (image.shape[2], image.shape[1]))[:, None]     # (1, 1, N, 2)
    inner = -torch.nn.functional.max_pool2d(-mask.to(image), 3, stride=1, padding=1)
    layers = torch.cat([image, mask.to(image), inner])[None]             # (1, 5, H, W)
    found = torch.nn.functional.grid_sample(layers, grid, align_corners=True)[0, :, 0].T
    weights = torch.where(found[:, 4] > 0.999, 1.0, BORDER_WEIGHT)
    weights = weights * ((found[:, 3] > 0.999) & (depth[0] > 0))
    return found[:, :3], weights[:, None]


def _fill_unseen(vertices_obj: np.ndarray, colours: np.ndarray,
                 seen_mask: np.ndarray) -> np.ndarray:
    """Return colours (N, 3) with those of unseen vertices taken from near seen ones, or grey."""
    colours = colours.copy()
    colours[~seen_mask] = UNSEEN_COLOUR
    if seen_mask.any() and not seen_mask.all():
        tree = KDTree(vertices_obj[seen_mask])
        distance, nearest = tree.query(vertices_obj[~seen_mask],
                                       distance_upper_bound=FILL_DISTANCE)
        near = np.isfinite(distance)
        colours[np.flatnonzero(~seen_mask)[near]] = colours[seen_mask][np.asarray(nearest)[near]]
    return colours


def write_mesh(mesh: Mesh, model: Tensor, stem: str | Path, *, colours: np.ndarray | None = None,
               formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a mesh in world space as stem.ply, stem.obj (with vertex colours) and stem.glb.

    PLY and OBJ hold the photographs' sRGB levels, GLB linear light as its standard asks for.

    Args:
        mesh: not empty.
        model: (4, 4), object to world.
        stem: path without suffix.
        colours: (N, 3) uint8.
        formats: any of ply, obj, glb.
    Returns:
        the written files, in the order of `formats`.
    Raises:
        UserError: the mesh is empty.
        WriteError: a file cannot be written.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ValueError(f"mesh formats {sorted(unknown)} are not known; need {', '.join(FORMATS)}")
    if mesh.is_empty:
        raise UserError(f"{stem}: the SDF has no surface, so there is no mesh to write; train "
                        "longer, or check that the masks show the object")
    vertices = to_world(mesh.vertices_obj, model)
    world = trimesh.Trimesh(vertices, mesh.faces, vertex_colors=colours, process=False)
    paths = [Path(f"{stem}.{kind}") for kind in formats]
    for path in paths:
        with whole_file(path) as part:
            if path.suffix == ".glb":
                write_glb(part, vertices, mesh.faces, colours=colours,
                          normals=to_world(mesh.normals_obj, model) - to_world(np.zeros(3), model))
            else:
                world.export(part)
    return paths
