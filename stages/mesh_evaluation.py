"""A mesh against a scan of the same object: DTU's protocol, or true points as they are.

What is read of the DTU data set (its SampleSet and Points archives) are `stl/stlNNN_total.ply`, the
scan; `ObsMask/ObsMaskN_10.mat`, where it observed; and `ObsMask/PlaneN.mat`, the table.
"""
from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from data_processing.captures.capture import parse_numbers
from data_processing.point_clouds.ply_format import CloudPoints, read_ply
from utils.config.tool_sections import EvaluateMeshConfig
from utils.errors import ConfigError, SceneError
from utils.files.atomic import write_text_atomic
from utils.files.limits import MAX_MESH_POINTS, read_text
from utils.files.matlab import read_matlab_array
from utils.results.dtu_protocol import SPACING, ObservedSpace, dtu_distances, num_points_on
from utils.results.metrics import chamfer
from utils.results.text_tables import format_rows
from utils.runs.folder import MESH, MESH_ORIGIN

#: Folders below the data set's that hold the files, by how archives are unpacked.
ROOMS = ("", "Points", "MVS Data", "SampleSet/MVS Data", "SampleSet/MVS Data/Points")
#: Points of a mesh that is compared with true points.
NUM_SAMPLES = 200_000
MAX_ORIGIN_BYTES = 1000
log = logging.getLogger(__name__)


def evaluate_mesh(settings: EvaluateMeshConfig) -> str:
    """Return the distances between the mesh and the scan that the flags name, as a table.

    Raises:
        ConfigError: neither a scan of DTU's nor true points are named, or both.
        SceneError, UserError: a file is missing, damaged, or in another space.
        WriteError: the JSON file cannot be written.
    """
    is_dtu = bool(settings.dtu_folder)
    if is_dtu == bool(settings.points) or is_dtu != bool(settings.scan):
        raise ConfigError("need either --dtu_folder FOLDER with --scan NUMBER, or --points FILE")
    mesh = read_mesh(Path(settings.mesh).expanduser())
    if is_dtu:
        found = against_dtu(*mesh, Path(settings.dtu_folder).expanduser(), scan=settings.scan,
                            seed=settings.seed)
    else:
        found = against_points(*mesh, read_ply(Path(settings.points).expanduser()),
                               seed=settings.seed)
    if settings.mesh_json:
        write_text_atomic(Path(settings.mesh_json).expanduser(), json.dumps(found, indent=2) + "\n")
    return format_rows([[name.replace("_", " "), _text(value)] for name, value in found.items()])


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (N, 3) float64, world space, and triangles (F, 3) of a PLY file.

    To the mesh of a run whose world is far from 0 the point is added that its folder names.

    Raises:
        SceneError: it cannot be read, or has no triangles.
    """
    mesh = read_ply(path)
    if mesh.faces is None:
        raise SceneError(f"{path}: no triangles found, need a mesh; export it as triangles")
    origin_file = path.with_name(MESH_ORIGIN)
    if path.stem != MESH or not origin_file.is_file():
        return mesh.points, mesh.faces
    words = read_text(origin_file, MAX_ORIGIN_BYTES, error=SceneError).split()
    origin = parse_numbers(words, 3, str(origin_file))
    log.info("%s: relative to %s of %s, which is added", path, origin, MESH_ORIGIN)
    return mesh.points + np.array(origin), mesh.faces


def against_dtu(vertices: np.ndarray, faces: np.ndarray, folder: Path, *, scan: int,
                seed: int = 0) -> dict[str, Any]:
    """Return the distances of DTU's protocol by name, in mm.

    Args:
        vertices, faces: of the mesh.
        folder: of the data set.
        scan: its number.
        seed: of the mesh's points.
    Raises:
        SceneError: a file of the data set is missing or damaged, or mesh and scan do not meet.
    """
    points = read_ply(_dtu_file(folder, f"stl/stl{scan:03d}_total.ply")).points
    space = read_observed_space(_dtu_file(folder, f"ObsMask/ObsMask{scan}_10.mat"),
                                _dtu_file(folder, f"ObsMask/Plane{scan}.mat"))
    count = num_points_on(vertices, faces, SPACING)
    if count > MAX_MESH_POINTS:
        raise SceneError(f"the mesh, {_extent(vertices)}, would be sampled at {count:,} points, "
                         f"need at most {MAX_MESH_POINTS:,}; give a mesh in millimetres, as DTU's "
                         f"scans are: this one is {_extent(points)}")
    found = dtu_distances(vertices, faces, points, space, seed=seed)
    if found.overall is None:
        raise SceneError(f"mesh and scan do not meet: the mesh is {_extent(vertices)}, the scan "
                         f"{_extent(points)}; give a mesh in DTU's world space, such as the "
                         "mesh.ply of a run on the scan's own cameras")
    return {"accuracy_mm": found.accuracy, "completeness_mm": found.completeness,
            "overall_mm": found.overall, "points_of_the_mesh": found.num_mesh,
            "of_these_observed": found.num_observed, "points_of_the_scan": found.num_scan}


def against_points(vertices: np.ndarray, faces: np.ndarray, truth: CloudPoints, *,
                   seed: int = 0) -> dict[str, Any]:
    """Return the distances to true surface points by name, in their unit.

    All of the mesh counts, seen or not. Where the points have normals, so does their mean angle to
    the normals of the mesh.
    """
    rng = np.random.default_rng(seed)
    corners = vertices[faces]                                          # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=-1)
    if not area.sum() > 0:
        raise SceneError("the mesh's triangles have no area, need a surface; export it again")
    chosen = rng.choice(len(area), NUM_SAMPLES, p=area / area.sum())
    weights = rng.dirichlet((1, 1, 1), NUM_SAMPLES)                    # uniform on a triangle
    samples = (weights[:, :, None] * corners[chosen]).sum(1)
    found = chamfer(samples, truth.points, normals_predicted=cross[chosen],
                    normals_true=truth.normals)
    return {"accuracy": found.accuracy, "completeness": found.completeness,
            "chamfer": found.mean, "normal_error_degrees": found.normal_degrees,
            "true_points": len(truth.points)}


def read_observed_space(mask_path: Path, plane_path: Path) -> ObservedSpace:
    """Return where a scan of DTU's observed.

    Raises:
        UserError: a file is missing or damaged.
    """
    mask = read_matlab_array(mask_path, "ObsMask", 3) != 0
    corners = read_matlab_array(mask_path, "BB", 2).astype(np.float64)
    cell = read_matlab_array(mask_path, "Res", 2).astype(np.float64)
    plane = read_matlab_array(plane_path, "P", 2).astype(np.float64)
    for path, name, value, size in ((mask_path, "BB", corners, 6), (mask_path, "Res", cell, 1),
                                    (plane_path, "P", plane, 4)):
        if value.size != size or not np.isfinite(value).all():
            raise SceneError(f"{path}: {name} has shape {value.shape}, need {size} finite numbers; "
                             "copy the file again")
    if corners.shape != (2, 3) or not cell.item() > 0:
        raise SceneError(f"{mask_path}: BB is {corners.shape} and Res {cell.item():g}, need (2, 3) "
                         "and a side above 0; copy the file again")
    return ObservedSpace(mask, corners, cell.item(), plane.reshape(4))


def _dtu_file(folder: Path, name: str) -> Path:
    """Return the path of a file of the data set, wherever its archive was unpacked."""
    places = [folder / room / name for room in ROOMS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise SceneError(f"{folder}: {name} not found, need DTU's Points and SampleSet archives "
                         "unpacked there; give their folder to --dtu_folder")
    return found


def _extent(points: np.ndarray) -> str:
    """Return the box of points (N, 3) in words."""
    low, high = points.min(0), points.max(0)
    return "from ({:.4g}, {:.4g}, {:.4g}) to ({:.4g}, {:.4g}, {:.4g})".format(*low, *high)


def _text(value: object) -> str:
    """Return a value with four digits after the point, counts in groups of three."""
    if value is None:
        return "n/a"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
