"""Plots by what can be measured in their pixels: where the surface runs, which colours appear."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics
from utils.results import plots


def _arc(num_views: int = 6) -> Cameras:
    """Cameras on an arc of radius 3 around the origin, y up."""
    angles = torch.linspace(-0.8, 0.8, num_views)
    eyes = torch.stack([3 * angles.sin(), torch.full_like(angles, 0.5), 3 * angles.cos()], -1)
    intrinsics = torch.tensor([[60.0, 0, 19.5], [0, 60, 14.5], [0, 0, 1]]).expand(num_views, 3, 3)
    return Cameras(look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1, 0])),
                   projection_from_intrinsics(intrinsics, (40, 30)), torch.eye(4), (40, 30))


def _has(picture: np.ndarray, colour: str) -> np.ndarray:
    """(H, W) bool: pixels that have a colour, up to the smoothing of lines."""
    rgb = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    return np.abs(picture.astype(int) - rgb).max(-1) < 12


def _count(picture: np.ndarray, colour: str) -> int:
    """How many pixels have a colour."""
    return int(_has(picture, colour).sum())


def _blue_share(picture: np.ndarray) -> float:
    """Share of the pixels that are clearly bluer than red, the inside of the SDF."""
    return float((picture[..., 2].astype(int) - picture[..., 0] > 15).mean())


def test_sdf_slices_show_more_inside_for_a_larger_sphere():
    small, large = (_blue_share(np.array_split(plots.sdf_slices(
        lambda p, r=r: p.norm(dim=-1) - r, 64), 3)[0]) for r in (0.4, 0.8))
    assert 0.005 < small < large
    # Areas grow by 4; near the surface the blue is too pale to count, hence the wide band.
    assert 2.5 < large / small < 8


def test_sdf_slices_evaluate_the_three_planes_in_small_chunks_without_gradients():
    seen = []

    def sdf(points):
        assert not torch.is_grad_enabled()
        seen.append(points)
        return points.norm(dim=-1) - 0.5

    plots.sdf_slices(sdf, 70)
    assert max(len(points) for points in seen) <= plots.SDF_CHUNK
    points = torch.cat(seen)
    assert points.shape == (7 * 3 * 70 * 70, 3)         # each plane, and a step off it each way
    for axis, part in enumerate(points.split(7 * 70 * 70)):
        assert (part[:70 * 70, axis] == 0).all()
        assert (part[:, axis].abs() <= plots.DIFFERENCE_STEP).all()
        assert (part.abs().amax(0) > 1).sum() == 2


def test_slices_have_the_gradient_and_the_laplacian():
    """x^2 / 2 + 3 y has the gradient (x, 3, 0) and the Laplacian 1; differences of quadratics are
    exact but for rounding."""
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    values, length, laplacian = plots._derivatives(
        lambda p: (p[:, 0].double() ** 2 / 2 + 3 * p[:, 1]), points)
    x = points[:, 0].numpy()
    # values are kept in float32, 4e-7 off at values up to 4: over 2e-2 and 1e-4
    np.testing.assert_allclose(length, np.sqrt(x ** 2 + 9), atol=1e-4)
    np.testing.assert_allclose(laplacian, 1, atol=2e-2)


@pytest.mark.parametrize("offset", [0.3, float("nan")])
def test_sdf_slices_without_a_surface_say_so(offset):
    found = plots.sdf_slices(lambda p: p.norm(dim=-1) + offset, 16)
    assert found.dtype == np.uint8 and found.ndim == 3
    plain = plots.sdf_slices(lambda p: p.norm(dim=-1) - 0.5, 16)
    white = [int((picture == 255).all(-1)[150:350, 100:1100].sum()) for picture in (found, plain)]
    assert white[0] > white[1]                          # the box behind the words


def test_camera_plot_draws_each_group_in_its_colour():
    cameras = _arc()
    both = plots.camera_plot(cameras, [0, 2], [4], "arc")
    only = plots.camera_plot(cameras, [0, 1, 2, 3, 4, 5], [])
    assert _count(both, plots.TRAIN_COLOUR) > 100 and _count(both, plots.TEST_COLOUR) > 50
    assert _count(only, plots.TEST_COLOUR) == 0
    assert _count(only, plots.TRAIN_COLOUR) > 2 * _count(both, plots.TRAIN_COLOUR)


def test_camera_plot_draws_refined_cameras_over_the_given_ones():
    cameras = _arc()
    view = cameras.view.clone()
    view[:, 2, 3] -= 0.3                                # all of them, farther away
    refined = Cameras(view, cameras.projection, cameras.model, cameras.resolution)
    plain, found = (plots.camera_plot(refined, [0, 2], [4], given=given)
                    for given in (None, cameras))
    assert _count(plain, plots.GIVEN_COLOUR) == 0 and _count(found, plots.GIVEN_COLOUR) > 100
    assert _count(found, plots.TRAIN_COLOUR) > 100


def test_camera_plot_stands_upright_whatever_the_object_space():
    cameras = _arc()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * torch.linalg.det(turn)                # a rotation: determinant 1
    model = torch.eye(4)
    model[:3, :3] = turn
    turned = Cameras(cameras.view, cameras.projection, model, cameras.resolution)
    frames = [plots._upright_frame(c) @ c.centers_obj.double().numpy().T for c in (cameras, turned)]
    assert np.allclose(*frames, atol=1e-5)              # float32 matrices
    assert (frames[0][1] < 0).all()                     # the cameras stand in front
    assert abs(np.linalg.det(plots._upright_frame(turned)) - 1) < 1e-5
    drawn = [_has(plots.camera_plot(arc, range(6), []), plots.TRAIN_COLOUR)
             for arc in (cameras, turned)]
    # The same picture but for single pixels where the float32 matrices differ.
    assert (drawn[0] ^ drawn[1]).sum() < 0.02 * drawn[0].sum()


def test_camera_plot_of_cameras_all_around_or_of_one_camera():
    eyes = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 0, 3], [0, 0, -3]])
    around = Cameras(look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1, 0])),
                     _arc(4).projection, torch.eye(4), (40, 30))
    frame = plots._upright_frame(around)
    assert np.allclose(frame @ frame.T, np.eye(3), atol=1e-6)
    assert np.allclose(frame[2], [0, 1, 0], atol=1e-6)
    assert _count(plots.camera_plot(_arc(1), [0], []), plots.TRAIN_COLOUR) > 20


@pytest.mark.parametrize("train, test", [([0, 6], []), ([], [-1])])
def test_camera_plot_names_an_index_out_of_range(train, test):
    with pytest.raises(ValueError, match="indices from 0 to 5"):
        plots.camera_plot(_arc(), train, test)


def test_curve_plot_draws_what_is_there_and_skips_what_is_not():
    rows = [{"step": i, "seconds": 2.0 * i, "loss": 1 / (1 + i), "loss_mask": "", "psnr": None}
            for i in range(20)]
    rows[10]["psnr"], rows[15]["psnr"] = "21.5", float("nan")
    found = plots.curve_plot(rows)
    first, second = "#1f77b4", "#ff7f0e"                # matplotlib's own order of colours
    upper, lower = np.array_split(found, 2)
    assert _count(upper, first) > 500 and _count(upper, second) == 0
    assert 0 < _count(lower, first) < 500               # one marker, twice, and its legend


def test_curve_plot_of_nothing_draws_no_curve():
    assert _count(plots.curve_plot([]), "#1f77b4") == 0


def test_the_legend_stands_above_the_curves():
    rows = [{"step": i, **{f"loss_{name}": 1.0 + i for name in "abcdef"}} for i in range(4)]
    panel = Figure().subplots()
    plots._draw_curves(panel, rows, "step", prefix="loss", unit=1.0)
    panel.figure.canvas.draw()
    assert panel.get_legend().get_window_extent().y0 >= panel.get_window_extent().y1


def test_curves_are_in_units_and_logarithmic_where_the_loss_falls_far():
    rows = [{"step": 0, "seconds": 0, "loss": 20.0}, {"step": 1, "seconds": 6000, "loss": 1.0}]
    panel = Figure().subplots()
    plots._draw_curves(panel, rows, "seconds", prefix="loss", unit=60.0)
    assert panel.lines[0].get_xydata().tolist() == [[0, 20], [100, 1]]
    assert panel.get_yscale() == "log"


def test_totals_of_shape_steps_and_image_steps_are_two_curves():
    """Drawn as one they are a saw-tooth, as only shape steps have all losses."""
    rows = [{"step": i, "loss_image": 0.1, "loss_total": 0.3 if i % 3 == 0 else 0.1,
             "loss_eikonal": 0.2 if i % 3 == 0 else ""} for i in range(9)]
    panel = Figure().subplots()
    plots._draw_curves(panel, rows, "step", prefix="loss", unit=1.0)
    drawn = {line.get_label(): line.get_xydata()[:, 0].tolist() for line in panel.lines}
    assert drawn["loss total, shape steps"] == [0, 3, 6]
    assert drawn["loss total, image steps"] == [1, 2, 4, 5, 7, 8]
    assert set(drawn) == {"loss eikonal", "loss image", "loss total, shape steps",
                          "loss total, image steps"}
    alike = plots.curve_series(rows[::3], "loss")
    assert [label for label, _, _ in alike] == ["loss eikonal", "loss image", "loss total"]


@pytest.mark.parametrize("value, expected", [("3.5", 3.5), (2, 2.0), ("", None), (None, None),
                                             ("nan", None), (float("inf"), None), ("x", None)])
def test_numbers_are_read_from_values_and_text(value, expected):
    assert plots.finite_number(value) == expected
