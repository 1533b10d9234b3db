"""Cameras: projection matrices, rays, projection, look_at, and the conventions that join them.

Nearly all runs in float64, where a chain of a few 4x4 products and inverses of well-conditioned
matrices rounds to about 1e-14; TIGHT leaves a factor of a thousand. NDC of pixel centres is float32
and has its own tolerances.
"""
from __future__ import annotations

import math

import pytest
import torch

from utils.geometry.cameras import (
    FAR,
    NEAR,
    Cameras,
    intrinsics_from_projection,
    look_at,
    ndc_to_grid,
    pixel_centers_ndc,
    projection_from_intrinsics,
)

TIGHT = {"atol": 1e-11, "rtol": 1e-11}
SIZE = (40, 30)
#: Off-centre, with skew and unequal focal lengths, in pixels.
INTRINSICS = torch.tensor([[[55.0, 1.7, 23.1], [0, 48.0, 12.4], [0, 0, 1]],
                           [[61.0, -0.8, 17.0], [0, 66.0, 16.9], [0, 0, 1]]], dtype=torch.float64)


def similarity(scale: float = 2.5) -> torch.Tensor:
    """(4, 4) object to world: turned, scaled, shifted."""
    axis = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    axis = axis / axis.norm() * 0.9
    x, y, z = axis.tolist()
    model = torch.eye(4, dtype=torch.float64)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    model[:3, :3] = scale * torch.linalg.matrix_exp(cross)
    model[:3, 3] = torch.tensor([4.0, -1.0, 2.0])
    return model


@pytest.fixture
def cameras() -> Cameras:
    """Two cameras about a turned, scaled and shifted object."""
    model = similarity()
    eye = torch.tensor([[5.0, 4.0, 8.0], [-3.0, -4.0, 7.0]], dtype=torch.float64) + model[:3, 3]
    up = torch.tensor([0.1, 1.0, 0.2], dtype=torch.float64)
    return Cameras(look_at(eye, model[:3, 3], up), projection_from_intrinsics(INTRINSICS, SIZE),
                   model, SIZE)


def test_intrinsics_come_back_from_their_projection():
    projection = projection_from_intrinsics(INTRINSICS, SIZE)
    torch.testing.assert_close(intrinsics_from_projection(projection, SIZE), INTRINSICS, **TIGHT)
    again = projection_from_intrinsics(intrinsics_from_projection(projection, SIZE), SIZE)
    torch.testing.assert_close(again, projection, **TIGHT)


def test_intrinsics_of_any_scale_mean_the_same():
    torch.testing.assert_close(projection_from_intrinsics(-3 * INTRINSICS, SIZE),
                               projection_from_intrinsics(INTRINSICS, SIZE), **TIGHT)


def test_projection_is_a_frustum_matrix():
    """OpenGL's glFrustum(l, r, b, t, n, f) with the image's edges taken at the near plane."""
    (fx, _, cx), (_, fy, cy), _ = INTRINSICS[0].tolist()
    plain = INTRINSICS[0].clone()
    plain[0, 1] = 0
    left, right = (-0.5 - cx) * NEAR / fx, (SIZE[0] - 0.5 - cx) * NEAR / fx
    top, bottom = (cy + 0.5) * NEAR / fy, (cy + 0.5 - SIZE[1]) * NEAR / fy
    expected = torch.tensor([
        [2 * NEAR / (right - left), 0, (right + left) / (right - left), 0],
        [0, 2 * NEAR / (top - bottom), (top + bottom) / (top - bottom), 0],
        [0, 0, -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
        [0, 0, -1, 0]], dtype=torch.float64)
    torch.testing.assert_close(projection_from_intrinsics(plain, SIZE), expected, **TIGHT)


def test_projection_agrees_with_opencv_pixels(cameras):
    """K (R x + t) / z in OpenCV axes against NDC turned into pixels by the centre formula."""
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 0.5
    xy_ndc, depth = cameras.project(points)
    flip = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))
    for view in range(len(cameras)):
        matrix = cameras.view[view] @ cameras.model
        opencv = (points @ matrix[:3, :3].T + matrix[:3, 3]) @ flip
        pixels = opencv @ INTRINSICS[view].T
        column = ((xy_ndc[view, :, 0] + 1) * SIZE[0] - 1) / 2
        row = ((1 - xy_ndc[view, :, 1]) * SIZE[1] - 1) / 2
        torch.testing.assert_close(column, pixels[:, 0] / pixels[:, 2], **TIGHT)
        torch.testing.assert_close(row, pixels[:, 1] / pixels[:, 2], **TIGHT)
        torch.testing.assert_close(depth[view], opencv[:, 2], **TIGHT)


def test_points_on_a_ray_project_back_to_its_pixel(cameras):
    xy_ndc = torch.rand(7, 5, 2, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    origins, dirs = cameras.rays_through(xy_ndc)
    assert origins.shape == dirs.shape == (2, 7, 5, 3)
    torch.testing.assert_close(dirs.norm(dim=-1), torch.ones(2, 7, 5).double(), **TIGHT)
    for distance in (0.3, 4.0, 100.0):
        found, depth = cameras.project(origins + distance * dirs)      # (V, V, 7, 5, 2)
        for view in range(2):
            torch.testing.assert_close(found[view, view], xy_ndc, **TIGHT)
            assert (depth[view, view] > 0).all()
            world = cameras.model_scale * distance
            cosine = (dirs[view] * cameras.forward_obj[view]).sum(-1)
            torch.testing.assert_close(depth[view, view], world * cosine, **TIGHT)


def test_pixel_rays_are_those_through_the_pixel_centres(cameras):
    """The pixel centres are computed in float32, hence 1e-6."""
    origins, dirs = cameras.pixel_rays()
    assert dirs.shape == (2, SIZE[1], SIZE[0], 3)
    torch.testing.assert_close(origins[:, 3, 4], cameras.centers_obj, **TIGHT)
    column, row = 31, 2
    inverse = torch.linalg.inv(INTRINSICS[1])
    opencv = inverse @ torch.tensor([column, row, 1.0], dtype=torch.float64)
    opengl = opencv * torch.tensor([1.0, -1, -1], dtype=torch.float64)
    matrix = cameras.view[1] @ cameras.model
    expected = torch.linalg.inv(matrix[:3, :3]) @ opengl
    expected = expected / expected.norm()
    torch.testing.assert_close(dirs[1, row, column], expected, atol=1e-6, rtol=0)


def test_pixel_centres_by_the_formula():
    centres = pixel_centers_ndc(4, 2)
    expected_x = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    assert centres.shape == (2, 4, 2)
    torch.testing.assert_close(centres[0, :, 0], expected_x, atol=0, rtol=0)
    torch.testing.assert_close(centres[:, 0, 1], torch.tensor([0.5, -0.5]), atol=0, rtol=0)


def test_grid_coordinates_put_first_and_last_centre_at_the_ends():
    """Float32 rounding of numbers near 1: 1e-6."""
    grid = ndc_to_grid(pixel_centers_ndc(5, 3), (5, 3))
    torch.testing.assert_close(grid[0, :, 0], torch.linspace(-1, 1, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(grid[:, 0, 1], torch.linspace(-1, 1, 3), atol=1e-6, rtol=0)
    image = torch.rand(1, 2, 3, 5, generator=torch.Generator().manual_seed(2))
    sampled = torch.nn.functional.grid_sample(image, grid[None], align_corners=True)
    torch.testing.assert_close(sampled, image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 3), (4, 1), (1, 1)])
def test_along_a_side_of_one_pixel_that_pixel_is_read(size):
    image = torch.rand(1, 2, size[1], size[0], generator=torch.Generator().manual_seed(2))
    grid = ndc_to_grid(pixel_centers_ndc(*size), size)
    sampled = torch.nn.functional.grid_sample(image, grid[None], align_corners=True)
    torch.testing.assert_close(sampled, image, atol=1e-6, rtol=0)


def test_points_behind_and_beside_the_camera():
    """Looking down -z from (0, 0, 3): z = 5 lies behind, z = 3 in the camera's own plane."""
    view = look_at(torch.tensor([[0.0, 0, 3]]), torch.zeros(3), torch.tensor([0.0, 1, 0]))
    cameras = Cameras(view, projection_from_intrinsics(INTRINSICS[:1].float(), SIZE),
                      torch.eye(4), SIZE)
    points = torch.tensor([[0.0, 0, 0], [0, 0, 5], [1, 0, 3], [0.3, 0.2, 3]], requires_grad=True)
    xy_ndc, depth = cameras.project(points)
    assert depth[0].tolist() == [3.0, -2.0, 0.0, 0.0]
    assert xy_ndc.isfinite().all()
    (slope,) = torch.autograd.grad(xy_ndc[0, :2].sum(), points)
    assert slope.isfinite().all()


def test_look_at():
    """The target lies on the axis at its distance, up points up, and the matrix is a rotation."""
    generator = torch.Generator().manual_seed(3)
    eye, target = (torch.randn(6, 3, generator=generator).double() for _ in range(2))
    up = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    view = look_at(eye, target, up)
    rotation = view[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(6, 3, 3),
                               **TIGHT)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6).double(), **TIGHT)
    seen = (rotation @ target[..., None])[..., 0] + view[:, :3, 3]
    expected = torch.zeros(6, 3).double()
    expected[:, 2] = -(eye - target).norm(dim=-1)
    torch.testing.assert_close(seen, expected, **TIGHT)
    up_cam = rotation @ up
    torch.testing.assert_close(up_cam[:, 0], torch.zeros(6).double(), **TIGHT)
    assert (up_cam[:, 1] > 0).all()


def test_look_at_by_hand():
    """From +x to the origin with z up: camera right is world y, up is z, backward is x."""
    view = look_at(torch.tensor([2.0, 0, 0]), torch.zeros(3), torch.tensor([0.0, 0, 1]))
    expected = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, -2], [0, 0, 0, 1]])
    torch.testing.assert_close(view, expected, atol=0, rtol=0)


def test_centres_and_axes_in_both_spaces(cameras):
    model = cameras.model
    world = cameras.centers_obj @ model[:3, :3].T + model[:3, 3]
    torch.testing.assert_close(world, cameras.centers_world, **TIGHT)
    zero = torch.zeros(2, 3, dtype=torch.float64)
    centre_cam = (cameras.view[:, :3, :3] @ cameras.centers_world[..., None])[..., 0]
    torch.testing.assert_close(centre_cam + cameras.view[:, :3, 3], zero, **TIGHT)
    # both look at the origin of object space
    towards = -cameras.centers_obj / cameras.centers_obj.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(cameras.forward_obj, towards, **TIGHT)
    assert cameras.model_scale == pytest.approx(2.5, rel=1e-12)


def test_rays_are_differentiable_in_the_matrices(cameras):
    """Against central differences in float64; gradcheck's own tolerances (1e-5, 1e-3)."""
    xy_ndc = torch.tensor([[0.2, -0.4], [0.9, 0.8]], dtype=torch.float64)

    def rays(view: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        moved = Cameras(view, projection, cameras.model, SIZE)
        return torch.cat(moved.rays_through(xy_ndc), -1)

    inputs = [matrix.clone().requires_grad_(True) for matrix in (cameras.view, cameras.projection)]
    assert torch.autograd.gradcheck(rays, inputs)


def test_indexing_keeps_the_view_dimension(cameras):
    for index in (1, [1], slice(1, 2), torch.tensor([1]), torch.tensor([False, True])):
        chosen = cameras[index]
        assert len(chosen) == 1 and chosen.resolution == SIZE
        torch.testing.assert_close(chosen.view[0], cameras.view[1], atol=0, rtol=0)
    assert len(cameras[-1:]) == 1


def test_other_dtype_and_other_size(cameras):
    assert cameras.to(torch.float32).projection.dtype == torch.float32
    larger = cameras.resized(80, 60)
    assert larger.pixel_rays()[0].shape == (2, 60, 80, 3)
    # the four pixels that replace one have it in their middle
    block = larger.pixel_rays()[1][0, 4:6, 10:12].mean((0, 1))
    direction = cameras.pixel_rays()[1][0, 2, 5]
    # means of unit vectors bend second order in the pixel's angle, (1/50)^2 / 8
    assert math.acos(min(1.0, float(block @ direction / block.norm()))) < 1e-4


@pytest.mark.parametrize("wrong, word", [
    ({"view": torch.eye(4)}, r"view is \(4, 4\)"),
    ({"projection": torch.zeros(2, 3, 4)}, r"projection is \(2, 3, 4\)"),
    ({"projection": torch.zeros(3, 4, 4)}, "2 view matrices but 3 projection"),
    ({"model": torch.zeros(2, 4, 4)}, r"model is \(2, 4, 4\)")])
def test_wrong_shapes_are_named(wrong, word):
    good = {"view": torch.zeros(2, 4, 4), "projection": torch.zeros(2, 4, 4),
            "model": torch.eye(4), "resolution": SIZE}
    with pytest.raises(ValueError, match=word):
        Cameras(**{**good, **wrong})
