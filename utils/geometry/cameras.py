"""Pinhole cameras and the spaces they join: object, world, camera, clip, NDC, pixels.

Object space: the scene inside the unit sphere. World: the space of the capture. Camera: OpenGL axes
(x right, y up, looking down -z). Clip: after the projection matrix. NDC: clip / w, x and y in
[-1, 1], y up. Pixels: column i to the right, row j downwards; the centre of pixel (i, j) is at NDC
((2i + 1) / W - 1, 1 - (2j + 1) / H). Matrices act on column vectors.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.devices import numbers_like

#: Flips OpenCV camera axes (y down, z forward) to OpenGL ones (y up, z backward), and back.
OPENCV_TO_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
#: glFrustum's depth range in units of the scene's radius; the method never reads clip depth.
NEAR, FAR = 0.1, 100.0


@dataclass(frozen=True)
class Cameras:
    """V cameras that share one resolution and one object space.

    Attributes:
        view: (V, 4, 4) world to camera, OpenGL axes.
        projection: (V, 4, 4) camera to clip, a glFrustum matrix; off-centre and skew allowed.
        model: (4, 4) object to world, a similarity (rotation, one scale, shift).
        resolution: (W, H) in pixels.
    """

    view: Tensor
    projection: Tensor
    model: Tensor
    resolution: tuple[int, int]

    def __post_init__(self) -> None:
        """Check shapes. Raises ValueError when a matrix is not what its name says."""
        for name, matrix in (("view", self.view), ("projection", self.projection)):
            if matrix.ndim != 3 or matrix.shape[1:] != (4, 4):
                raise ValueError(f"{name} is {tuple(matrix.shape)}, need (V, 4, 4)")
        if self.view.shape != self.projection.shape:
            raise ValueError(f"{len(self.view)} view matrices but {len(self.projection)} "
                             "projection matrices")
        if self.model.shape != (4, 4):
            raise ValueError(f"model is {tuple(self.model.shape)}, need (4, 4) object to world")

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index) -> Cameras:
        """Cameras of an integer, slice, list or index tensor; V stays a dimension."""
        if isinstance(index, int):
            index = [index]
        return replace(self, view=self.view[index], projection=self.projection[index])

    def to(self, *args, **kwargs) -> Cameras:
        """Same cameras on another device or with another dtype."""
        return replace(self, view=self.view.to(*args, **kwargs),
                       projection=self.projection.to(*args, **kwargs),
                       model=self.model.to(*args, **kwargs))

    def resized(self, width: int, height: int) -> Cameras:
        """Same cameras for images stretched to (width, height); NDC does not change."""
        return replace(self, resolution=(width, height))

    @property
    def object_to_camera(self) -> Tensor:
        """(V, 4, 4) object space to camera space."""
        return self.view @ self.model

    @property
    def object_to_clip(self) -> Tensor:
        """(V, 4, 4) object space to clip space."""
        return self.projection @ self.object_to_camera

    @property
    def centers_obj(self) -> Tensor:
        """(V, 3) camera centres, object space; the host does not wait to check the matrices."""
        return torch.linalg.inv_ex(self.object_to_camera).inverse[:, :3, 3]

    @property
    def centers_world(self) -> Tensor:
        """(V, 3) camera centres, world space."""
        return torch.linalg.inv(self.view)[:, :3, 3]

    @property
    def forward_obj(self) -> Tensor:
        """(V, 3) unit viewing directions (camera -z), object space."""
        forward = -torch.linalg.inv(self.object_to_camera)[:, :3, 2]
        return torch.nn.functional.normalize(forward, dim=-1)

    @property
    def model_scale(self) -> float:
        """World units in one object unit."""
        return float(torch.linalg.det(self.model[:3, :3]).abs() ** (1 / 3))

    @property
    def pixel_size_obj(self) -> float:
        """Width of a pixel at the origin of object space, object units; the views' median."""
        focal = self.projection[:, 0, 0] * self.resolution[0] / 2                  # pixels
        return float((self.centers_obj.norm(dim=-1) / focal).median())

    def pixel_rays(self) -> tuple[Tensor, Tensor]:
        """Rays through every pixel centre (docs/method.md, section 1).

        Returns:
            origins_obj (V, H, W, 3) and dirs_obj (V, H, W, 3), unit length, object space.
            Differentiable in the matrices.
        """
        return self.rays_through(pixel_centers_ndc(*self.resolution, self.view))

    def rays_through(self, xy_ndc: Tensor) -> tuple[Tensor, Tensor]:
        """Rays through points of the image plane.

        Args:
            xy_ndc: (..., 2), shared by all cameras.
        Returns:
            origins_obj (V, ..., 3) and dirs_obj (V, ..., 3), unit length.
        """
        clip_xyw = torch.cat([self.projection[:, :2, :3],              # camera xyz to clip x, y, w
                              self.projection[:, 3:, :3]], 1)          # (V, 3, 3)
        # the host does not wait to check the matrices
        to_camera = torch.linalg.inv_ex(clip_xyw).inverse              # (V, 3, 3)
        to_object = torch.linalg.inv_ex(self.object_to_camera).inverse             # (V, 4, 4)
        ndc = torch.cat([xy_ndc, torch.ones_like(xy_ndc[..., :1])], -1)
        rotation = to_object[:, :3, :3] @ to_camera                    # (V, 3, 3)
        dirs = torch.einsum("vij,...j->v...i", rotation, ndc)
        dirs = torch.nn.functional.normalize(dirs, dim=-1)
        middle = (1,) * (xy_ndc.ndim - 1)
        origins = to_object[:, :3, 3].reshape(-1, *middle, 3).expand(dirs.shape)
        return origins, dirs

    def project(self, points_obj: Tensor) -> tuple[Tensor, Tensor]:
        """Points seen by every camera.

        Args:
            points_obj: (..., 3), object space, shared by all cameras.
        Returns:
            xy_ndc (V, ..., 2) and depth (V, ...), the clip w: camera -z in world units, positive in
            front of the camera. Where depth is not positive xy_ndc has no meaning (but is finite).
        """
        matrix = self.object_to_clip
        flat = points_obj.reshape(-1, 3)
        clip = flat @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3]   # (V, N, 4)
        depth = clip[..., 3]
        safe = torch.where(depth.abs() < 1e-8, torch.full_like(depth, 1e-8), depth)
        xy_ndc = clip[..., :2] / safe[..., None]
        shape = (len(self), *points_obj.shape[:-1])
        return xy_ndc.reshape(*shape, 2), depth.reshape(shape)


def rotations(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) about axes (..., 3) whose length is the angle in radians.

    The exponential of the cross product's matrix; differentiable, at 0 too.
    """
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return torch.linalg.matrix_exp(cross.reshape(*axis_angle.shape, 3))


def pixel_centers_ndc(width: int, height: int, like: Tensor | None = None) -> Tensor:
    """(H, W, 2) NDC of the pixel centres, row 0 at the top (y up).

    Args:
        width, height: of the image, pixels.
        like: a tensor of the device and dtype to use; None: float32 on the CPU.
    """
    device = None if like is None else like.device
    x = (2 * torch.arange(width, device=device) + 1) / width - 1
    y = 1 - (2 * torch.arange(height, device=device) + 1) / height
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return centers if like is None else centers.to(like.dtype)


def ndc_to_grid(xy_ndc: Tensor, resolution: tuple[int, int]) -> Tensor:
    """NDC to `grid_sample(align_corners=True)` coordinates: first and last pixel centres at -1, 1.

    Args:
        xy_ndc: (..., 2), y up.
        resolution: (W, H).
    Returns:
        uv_grid (..., 2), v down.
    """
    width, height = resolution
    # along a side of one pixel every coordinate reads that pixel
    return xy_ndc * numbers_like(xy_ndc, 1 / (1 - 1 / max(width, 2)), -1 / (1 - 1 / max(height, 2)))


def projection_from_intrinsics(intrinsics: Tensor, resolution: tuple[int, int]) -> Tensor:
    """glFrustum matrix of pinhole intrinsics, skew and off-centre included.

    Args:
        intrinsics: (..., 3, 3) K in pixels, OpenCV axes, with the centre of the top left pixel at
            (0, 0), as in IDR, NeuS and COLMAP-to-IDR conversions.
        resolution: (W, H) in pixels.
    Returns:
        (..., 4, 4) OpenGL camera to clip.
    """
    width, height = resolution
    k = intrinsics / intrinsics[..., 2:3, 2:3]
    out = k.new_zeros(*k.shape[:-2], 4, 4)
    out[..., 0, 0] = 2 * k[..., 0, 0] / width
    out[..., 0, 1] = -2 * k[..., 0, 1] / width
    out[..., 0, 2] = 1 - (2 * k[..., 0, 2] + 1) / width
    out[..., 1, 1] = 2 * k[..., 1, 1] / height
    out[..., 1, 2] = (2 * k[..., 1, 2] + 1) / height - 1
    out[..., 2, 2] = -(FAR + NEAR) / (FAR - NEAR)
    out[..., 2, 3] = -2 * FAR * NEAR / (FAR - NEAR)
    out[..., 3, 2] = -1
    return out


def intrinsics_from_projection(projection: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Inverse of `projection_from_intrinsics`: (..., 3, 3) K in pixels, OpenCV axes."""
    width, height = resolution
    k = projection.new_zeros(*projection.shape[:-2], 3, 3)
    k[..., 0, 0] = projection[..., 0, 0] * width / 2
    k[..., 0, 1] = -projection[..., 0, 1] * width / 2
    k[..., 0, 2] = ((1 - projection[..., 0, 2]) * width - 1) / 2
    k[..., 1, 1] = projection[..., 1, 1] * height / 2
    k[..., 1, 2] = ((1 + projection[..., 1, 2]) * height - 1) / 2
    k[..., 2, 2] = 1
    return k


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World to camera matrices (OpenGL axes) of cameras at `eye` that look at `target`.

    Args:
        eye, target, up: (..., 3), world space; up must not be parallel to the viewing direction.
    Returns:
        (..., 4, 4) view matrices.
    """
    backward = torch.nn.functional.normalize(eye - target, dim=-1)
    right = torch.linalg.cross(up.expand_as(backward), backward)
    right = torch.nn.functional.normalize(right, dim=-1)
    true_up = torch.linalg.cross(backward, right)
    rotation = torch.stack([right, true_up, backward], -2)             # (..., 3, 3)
    view = torch.eye(4).to(eye).expand(*eye.shape[:-1], 4, 4).clone()
    view[..., :3, :3] = rotation
    view[..., :3, 3] = -(rotation @ eye[..., None])[..., 0]
    return view
