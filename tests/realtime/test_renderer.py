"""Pictures of exported scenes against a slow twin, written from docs/scene_format.md line by line.
"""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.exported_scenes import around, colours_at, exported

from realtime import renderer as renderer_module
from realtime.blending import FusedBlending, PlainBlending, SurfacePoints, bilinear, make_blending
from realtime.reading import read_scene
from realtime.renderer import SceneRenderer, scattered, surface_points
from realtime.scene import ExportedScene
from realtime.students import PRIORS, StudentAggregation
from realtime.writing import write_scene

SCENE = exported()
CAMERA = around(torch.tensor([0.2]), (30, 26))


def texel(image: np.ndarray, column: int, row: int) -> np.ndarray:
    height, width = image.shape[:2]
    return image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


def sampled(image: np.ndarray, u: float, v: float):
    """Value between four pixel centres, and the four."""
    column, row = math.floor(u - 0.5), math.floor(v - 0.5)
    right, down = u - 0.5 - column, v - 0.5 - row
    four = [texel(image, column + i, row + j) for j in (0, 1) for i in (0, 1)]
    weights = [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down]
    return sum(w * x for w, x in zip(weights, four)), four


def maps_of(scene: ExportedScene, k: int):
    """Features, colours, depths (0: none) and mask of a view, (H, W, ...) float64."""
    low, high = scene.features.low.double().numpy(), scene.features.high.double().numpy()
    codes = scene.features.codes[k].permute(1, 2, 0).numpy().astype(float)
    near, far = scene.depths.ranges[k].double().tolist()
    code = scene.depths.codes[k].numpy().astype(float)
    return (low + (high - low) * codes / 255, scene.photographs[k].permute(1, 2, 0).numpy() / 255,
            np.where(code > 0, near + (far - near) * (code - 1) / 65_534, 0.0),
            scene.masks[k, 0].numpy().astype(float))


def twin_samples(scene: ExportedScene, k: int, point: np.ndarray):
    """Feature and colour of a view at a point, None where it does not count."""
    width, height = scene.cameras.resolution
    matrix = scene.cameras.object_to_camera[k].double().numpy()
    clip = scene.cameras.projection[k].double().numpy()
    fx, fy, skew = clip[0, 0] * width / 2, clip[1, 1] * height / 2, -clip[0, 1] * width / 2
    cx, cy = (1 - clip[0, 2]) * width / 2, (1 + clip[1, 2]) * height / 2
    x, y, minus_z, _ = matrix @ [*point, 1]
    z = -minus_z
    u, v = fx * x / z + skew * -y / z + cx, fy * -y / z + cy
    if z <= 0 or not (0 <= u <= width and 0 <= v <= height):
        return None
    features, colours, depths, mask = maps_of(scene, k)
    depth, four = sampled(depths, u, v)
    if sampled(mask, u, v)[0] < 0.5 or min(four) == 0 or abs(z - depth) > scene.depth_tolerance:
        return None
    return sampled(features, u, v)[0], sampled(colours, u, v)[0]


def twin_priors(scene: ExportedScene, point: np.ndarray, direction: np.ndarray, counting: list):
    """Prior of each view that counts."""
    cosines = []
    for k in counting:
        matrix = scene.cameras.object_to_camera[k].double().numpy()
        away = point + matrix[:3, :3].T @ matrix[:3, 3]
        cosines.append(np.clip(away @ direction / np.linalg.norm(away), -0.999999, 0.999999))
    if scene.aggregation.prior == "none":
        return [1.0] * len(cosines)
    if scene.aggregation.prior == "cosine":
        return [max(1e-6, cosine) for cosine in cosines]
    angles = [math.acos(cosine) for cosine in cosines]
    return [max(0.001, 1 - a / max(1e-6, max(angles))) / max(0.001, a) for a in angles]


def twin_blend(scene: ExportedScene, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(C + 4,) numbers that the decoder takes of a point."""
    w1, b1, w2, b2 = (p.double().numpy() for p in (
        scene.aggregation.hidden.weight, scene.aggregation.hidden.bias,
        scene.aggregation.out.weight, scene.aggregation.out.bias))
    total, out = 0.0, np.zeros(scene.features.codes.shape[1] + 4)
    samples = {k: twin_samples(scene, k, point) for k in range(len(scene))}
    samples = {k: found for k, found in samples.items() if found is not None}
    priors = twin_priors(scene, point, direction, list(samples))
    for found, prior in zip(samples.values(), priors):
        hidden = np.maximum(0, w1 @ [*found[0], *direction] + b1)
        g = prior / (1 + math.exp(-max(-15, (w2 @ hidden + b2)[0])))
        total += g
        out += g * np.array([*found[0], *found[1], 1])
    return out / total if total else out


def twin_decode(scene: ExportedScene, maps: np.ndarray) -> np.ndarray:
    """(H, W, 3) of (H, W, C + 4): both convolutions as sums over shifted maps."""
    def convolve(maps, layer):
        height, width = maps.shape[:2]
        padded = np.pad(maps, ((1, 1), (1, 1), (0, 0)))
        weight, out = layer.weight.double().numpy(), 0
        for dy in range(3):
            for dx in range(3):
                out = out + padded[dy:dy + height, dx:dx + width] @ weight[:, :, dy, dx].T
        return out + layer.bias.double().numpy()
    hidden = np.maximum(0, convolve(maps, scene.decoder.hidden))
    return maps[..., -4:-1] + convolve(hidden, scene.decoder.out)


@pytest.mark.parametrize("blending", [PlainBlending, make_blending])
@pytest.mark.parametrize("shape, prior", [("torus", "none"), ("sphere", "cosine"),
                                          ("torus", "angle")])
def test_a_picture_is_what_the_page_about_the_format_says(shape, prior, blending):
    scene = exported(shape, prior=prior)
    frame = SceneRenderer(scene, blending=blending(scene)).render(CAMERA)
    origins, dirs = (x[0].double().numpy() for x in CAMERA.pixel_rays())
    points = frame.points_obj.permute(1, 2, 0).double().numpy()
    maps = np.zeros((*points.shape[:2], scene.features.codes.shape[1] + 4))
    hit_mask = frame.hit_mask[0].numpy()
    for row, column in zip(*hit_mask.nonzero()):
        maps[row, column] = twin_blend(scene, points[row, column], dirs[row, column])
    image = twin_decode(scene, maps)
    cover = frame.coverage.numpy()[..., None]
    expected = cover * image.clip(0, 1) + (1 - cover) * scene.background
    found = frame.picture.permute(1, 2, 0).numpy()
    error = np.abs(found - expected).max(-1)
    # float32 of sums of 180 products, but for a sample on the edge of a test, which reaches 5x5
    assert (error > 1e-4).sum() <= 25
    assert maps[..., -1].sum() > 100 and np.abs(image - maps[..., -4:-1]).max() > 0.05


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("exclude", [None, 1])
def test_compiled_blending_is_the_plain_one(prior, exclude):
    pytest.importorskip("numba", reason="numba is an extra")
    from utils.fast.kernels import scene_views
    scene = exported("torus", (48, 36), 4, prior=prior)
    camera = around(torch.tensor([0.3]), (70, 60))
    points = surface_points(camera, SceneRenderer(scene).rays.first_hits(camera))
    assert len(points.pixels) > 1000               # more than a slice of each thread
    expected = PlainBlending(scene)(points, exclude)
    assert scene_views.blend_points is not None
    found = FusedBlending(scene, scene_views)(points, exclude)
    for one, other in zip(found, expected, strict=True):
        # rounding of float32, but for samples on the edge of a test
        assert one.shape == other.shape
        assert ((one - other).abs().amax(0) > 1e-4).sum() <= 5
    assert found[1].sum(0).max() < 1 + 1e-5 and found[0][-1].sum() > 900


@pytest.mark.parametrize("channels, hidden", [(5, 3), (35, 20)])
def test_compiled_blending_takes_networks_of_any_size(channels, hidden):
    pytest.importorskip("numba", reason="numba is an extra")
    from utils.fast.kernels import scene_views
    scene = exported("torus", (48, 36), 3, channels=channels, prior="angle")
    torch.manual_seed(0)
    network = StudentAggregation(channels, hidden, prior="angle").requires_grad_(False)
    scene = replace(scene, aggregation=network)
    camera = around(torch.tensor([0.3]), (70, 60))
    points = surface_points(camera, SceneRenderer(scene).rays.first_hits(camera))
    for one, other in zip(FusedBlending(scene, scene_views)(points), PlainBlending(scene)(points),
                          strict=True):
        # rounding of float32, but for samples on the edge of a test
        assert ((one - other).abs().amax(0) > 1e-4).sum() <= 5


def test_compiled_functions_are_right_to_their_last_digits():
    pytest.importorskip("numba", reason="numba is an extra")
    from utils.fast.kernels import scene_views
    x = np.linspace(-15, 95, 5001).astype(np.float32)
    found = np.array([scene_views._sigmoid.py_func(each) for each in x])
    # log 2 times up to 22, rounded to 24 bits, is right to 1e-6
    assert np.allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=2e-6, atol=0)
    cosines = np.linspace(-1 + 1e-6, 1 - 1e-6, 5001).astype(np.float32)
    found = np.array([scene_views._acos.py_func(each) for each in cosines])
    assert np.allclose(found, np.arccos(cosines.astype(np.float64)), rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("name", ["scene", "scene.zip"])
def test_a_scene_that_was_written_and_read_gives_the_same_picture(name, tmp_path):
    before = SceneRenderer(SCENE).render(CAMERA)
    after = SceneRenderer(read_scene(write_scene(SCENE, tmp_path / name))).render(CAMERA)
    # only intrinsics change, by float32 rounding of the last digit
    assert torch.allclose(before.picture, after.picture, atol=1e-4)


def test_views_that_see_a_point_agree_about_its_colour():
    """Their photographs are functions of the surface point, so any weights give its colour."""
    scene = exported("sphere", (96, 72), 3, mesh_resolution=96)
    frame = SceneRenderer(scene).render(around(torch.tensor([0.25]), (60, 50)))
    points = frame.points_obj[:, frame.weights.sum(0) > 0.5].T
    assert len(points) > 300
    dirs = torch.nn.functional.normalize(points, dim=-1)
    samples = PlainBlending(scene).sample(SurfacePoints(torch.arange(len(points)), points, dirs))
    expected = colours_at(points).T.expand_as(samples.colours)
    error = (samples.colours - expected).abs().amax(1)                 # (K, P)
    away = torch.nn.functional.normalize(scene.cameras.centers_obj, dim=-1)
    facing = (away @ dirs.T > 0.5) & samples.counts_mask               # off the outline
    assert facing.sum() > 500
    # pixels of 1/50 unit, twice that where oblique; curvature of colours up to 0.35 * 10^2:
    # 0.04^2 / 8 * 35 = 0.007, and half a step of 8 bits
    assert error[facing].max() < 0.01


def test_a_view_that_is_left_out_does_not_count():
    renderer = SceneRenderer(SCENE)
    frame = renderer.render(CAMERA, exclude=1)
    assert frame.weights[1].sum() == 0 and frame.weights[0].sum() > 0
    assert not torch.equal(frame.picture, renderer.render(CAMERA).picture)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_decoder_sees_the_whole_picture(is_compiled, monkeypatch):
    """It is computed about the object alone, with the numbers of the whole picture."""
    if is_compiled:
        pytest.importorskip("numba", reason="numba is an extra")
        from utils.fast.kernels import convolutions
        assert convolutions.decode_rows is not None
    else:
        monkeypatch.setattr(renderer_module, "loops_for", lambda *_: None)
    renderer = SceneRenderer(SCENE)
    for pixels in ([5 * 30 + 7, 5 * 30 + 9, 9 * 30 + 3], [0], [29], [25 * 30 + 29, 26 * 30 - 1]):
        pixels = torch.tensor(sorted(set(pixels)))
        points = SurfacePoints(pixels, torch.zeros(len(pixels), 3), torch.zeros(len(pixels), 3))
        blended = torch.randn(20, len(pixels))
        whole = renderer.decoder(scattered(blended, pixels, (30, 26))[None])[0]
        assert torch.allclose(renderer.decode(blended, points, (30, 26)), whole, atol=1e-6)


def test_where_nothing_is_hit_there_is_background():
    frame = SceneRenderer(SCENE).render(around(torch.tensor([0.0]), (8, 6), height=40.0))
    away = frame.coverage == 0
    assert torch.equal(frame.picture[:, away], torch.ones(3, int(away.sum())))
    beside = around(torch.tensor([0.0]), (16, 12))
    moved = beside.view.clone()
    moved[:, 0, 3] += 50
    empty = SceneRenderer(SCENE).render(replace(beside, view=moved))
    assert torch.equal(empty.picture, torch.ones(3, 12, 16))
    assert not empty.hit_mask.any() and empty.weights.shape == (3, 12, 16)


def test_sampling_knows_pixels_without_surface():
    maps = torch.tensor([[0.0, 1.0, 2.0, torch.nan, 4.0, 5.0]])          # 3 x 2
    uv = torch.tensor([[[0.0, 0.0], [3.0, 2.0], [2.0, 1.0], [2.0, 0.2], [0.5, 1.0], [1.0, 0.5]]])
    found = bilinear(maps, uv, (3, 2))[0]
    assert torch.equal(found[:4], torch.tensor([0.0, 5.0, (1 + 2 + 4 + 5) / 4, 1.5]))
    assert found[4:].isnan().all()                 # in the last its weight is 0
    assert bilinear(maps, torch.full((1, 1, 2), torch.nan), (3, 2)).shape == (1, 1)
