"""Exported scenes without training: closed-form surface and colours, random small networks.

    python tests/support/exported_scenes.py FOLDER_OR_ZIP [--shape torus] [--size 32x24] [--views 3]
                                              [--prior angle]
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor
from torch.nn import functional as F

from data_processing.synthetic.analytic_sdf import sphere, torus
from realtime.maps import quantise_depths, quantise_features
from realtime.scene import ExportedScene, TriangleMesh, rigid_cameras
from realtime.students import PRIORS, StudentAggregation, StudentDecoder
from realtime.writing import write_scene
from sdf_meshing import extract_mesh
from sdf_rendering import ReferenceTracer
from utils.geometry.cameras import Cameras, look_at
from utils.geometry.rays import camera_rays
from utils.geometry.sdf import Sdf

SHAPES = {"sphere": sphere(0.6), "torus": torus(0.5, 0.22)}
BACKGROUND = (1.0, 1.0, 1.0)
#: Radians between neighbouring cameras: most of the surface is seen by two of them and more.
ANGLE = 0.5


def around(angles: Tensor, resolution: tuple[int, int], height: float = 1.2) -> Cameras:
    """Cameras that look at the origin from angles (V,) round the y axis, with a little skew."""
    width, high = resolution
    eyes = torch.stack([2.6 * angles.sin(), torch.full_like(angles, height), 2.6 * angles.cos()],
                       -1)
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    intrinsics = torch.tensor([[1.5 * width, 0.1, 0.51 * width], [0, 1.45 * width, 0.48 * high],
                               [0, 0, 1]])
    return rigid_cameras(poses, intrinsics.repeat(len(angles), 1, 1), resolution)


def colours_at(points_obj: Tensor) -> Tensor:
    """Smooth colours (..., 3) in [0, 1] of points (..., 3)."""
    return 0.5 + 0.35 * torch.sin(points_obj * torch.tensor([5.0, 7.0, 4.0])
                                  + points_obj.roll(1, -1) * 3)


def features_at(points_obj: Tensor, channels: int) -> Tensor:
    """Smooth features (..., C) of points (..., 3)."""
    generator = torch.Generator().manual_seed(1)
    matrix = 4 * torch.randn(3, channels, generator=generator)
    return torch.sin(points_obj @ matrix) * torch.linspace(0.5, 2, channels)


def random_networks(channels: int, prior: str) -> tuple[StudentAggregation, StudentDecoder]:
    """Small networks whose weights matter: pictures differ from blended colours, yet show them."""
    torch.manual_seed(0)
    networks = StudentAggregation(channels, prior=prior), StudentDecoder(channels)
    networks[0].out.weight.data *= 8
    networks[1].out.weight.data *= 0.7
    for network in networks:
        network.requires_grad_(False).eval()
    return networks


def exported(shape: str = "torus", resolution: tuple[int, int] = (32, 24), num_views: int = 3,
             *, channels: int = 16, mesh_resolution: int = 32,
             prior: str = "none") -> ExportedScene:
    """An exported scene whose photographs and features are functions of the surface point."""
    sdf: Sdf = SHAPES[shape]
    angles = ANGLE * (torch.arange(num_views) - (num_views - 1) / 2)
    cameras = around(angles, resolution)
    rays = camera_rays(cameras)
    found = ReferenceTracer().trace(sdf, rays)
    maps = (num_views, resolution[1], resolution[0])
    points, hits = rays.points(found.t).reshape(*maps, 3), found.hit_mask.reshape(*maps)
    colours = torch.where(hits[..., None], colours_at(points), torch.tensor(BACKGROUND))
    photographs = (colours.permute(0, 3, 1, 2) * 255).round().to(torch.uint8)
    near_mask = F.max_pool2d(hits[:, None].float(), 3, 1, 1) > 0
    features = features_at(points, channels).permute(0, 3, 1, 2)
    rows = cameras.object_to_camera[:, 2]
    depth = -(torch.einsum("vhwc,vc->vhw", points, rows[:, :3]) + rows[:, 3, None, None])[:, None]
    mesh = extract_mesh(sdf, resolution=mesh_resolution)
    triangles = TriangleMesh(mesh.vertices_obj, mesh.faces, (colours_at(torch.from_numpy(
        mesh.vertices_obj)) * 255).round().to(torch.uint8).numpy())
    aggregation, decoder = random_networks(channels, prior)
    return ExportedScene(
        f"a {shape}", "a test", tuple(f"view {v}" for v in range(num_views)), cameras,
        photographs.contiguous(), hits[:, None], quantise_features(features, near_mask),
        quantise_depths(depth, near_mask), triangles, aggregation, decoder, 0.05, BACKGROUND,
        (0.0, 1.0, 0.0), photographs[num_views // 2].permute(1, 2, 0).contiguous().numpy())


def main() -> None:
    """Write one to the folder or zip archive of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--shape", default="torus", choices=sorted(SHAPES))
    parser.add_argument("--size", default="32x24")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--prior", default="none", choices=PRIORS)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    write_scene(exported(options.shape, (width, height), options.views, prior=options.prior),
                options.output)


if __name__ == "__main__":
    main()
