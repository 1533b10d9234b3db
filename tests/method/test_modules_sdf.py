"""The image-based model: correspondence, blending with all alternatives, building."""
from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from support.ball_views import EYES, SIZE, THRESHOLD, Ball, built, rgb_model, texture, views_of
from support.tracing_cases import cameras_at
from torch import nn

from modules_sdf import BlendSettings, ImageBasedModel
from modules_unet import UNet
from sdf_rendering import ReferenceTracer, lumigraph_weights
from stages.models import build_model
from stages.view_rendering import trace_views
from utils.config.sections import CnnConfig, RunConfig, SdfConfig, ViewsConfig
from utils.errors import ConfigError
from utils.fast.image_networks.execution import FastExecution, network_precision
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface
from utils.views.regions import view_regions
from utils.views.training_views import Correspondence, Sources, Targets, TrainingViews

AGGREGATIONS = ("sum", "mean", "lumigraph", "lumigraph_epipolar", "learned", "learned_prior")


#: Admits points beside the ball: pixels of these small views are 0.4 apart there.
WIDE_THRESHOLD = 0.2


@pytest.fixture
def cameras() -> Cameras:
    return cameras_at(EYES, SIZE)


@pytest.fixture
def views(cameras) -> TrainingViews:
    return views_of(cameras)


def batch_of(views: TrainingViews, targets: list[int]) -> tuple[Targets, Sources]:
    """Views as sources, some of them as targets that must not feed themselves."""
    surface, dirs = trace_views(Ball(views.images.dtype), views.cameras, ReferenceTracer())
    surface = Surface(surface.points_obj.detach(), surface.hit_mask)
    own = torch.zeros(len(views), len(targets), dtype=torch.bool)
    own[targets, range(len(targets))] = True
    chosen = Surface(surface.points_obj[targets], surface.hit_mask[targets])
    return (Targets(chosen, dirs[targets], own),
            Sources(views.cameras, views.images, views.masks, surface))


@pytest.mark.parametrize("occlusion", ["raytrace", "correlation", "agreement"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_of_every_method(views, aggregation, occlusion):
    """Sum 1 where a source counts, 0 elsewhere, and exactly 0 for the target itself; rounding of
    one division is 1e-15."""
    model = rgb_model(aggregation, occlusion)
    targets, sources = batch_of(views, [2, 0])
    where = model.correspond(targets, sources, THRESHOLD)
    blended, weights = model.blend(views.images, targets, sources, where)
    assert weights.shape == (4, 2, SIZE[1], SIZE[0]) and (weights >= 0).all()
    assert not weights[2, 0].any() and not weights[0, 1].any()
    assert not weights[~where.counts_mask].any()
    assert not weights[:, ~targets.surface.hit_mask[:, 0]].any()
    seen = (weights > 0).any(0)
    assert int(seen.sum()) > 80
    if aggregation == "sum":
        assert set(weights.unique().tolist()) == {0.0, 1.0}
    else:
        torch.testing.assert_close(weights.sum(0), seen.double(), atol=1e-12, rtol=0)
    assert not blended.permute(0, 2, 3, 1)[~seen].any()


@pytest.mark.parametrize("aggregation", AGGREGATIONS[1:])
def test_blends_of_a_textured_ball_show_its_texture(views, aggregation):
    """Bilinear samples of a texture with second derivatives up to 4 x 0.4, pixels 0.09 apart:
    0.09^2 / 8 x 1.6 x 2 = 3e-3; more towards outlines, where pixels lie further apart."""
    model = rgb_model(aggregation)
    targets, sources = batch_of(views, [1, 3])
    where = model.correspond(targets, sources, THRESHOLD)
    blended, weights = model.blend(views.images, targets, sources, where)
    seen = (weights.sum(0) > 0)[:, None].expand_as(blended)
    error = (blended - texture(targets.surface.points_obj))[seen].abs()
    assert error.median() < 3e-3 and error.quantile(0.9) < 2e-2


def naive_blend(model: ImageBasedModel, maps: torch.Tensor, targets: Targets, sources: Sources,
                where: Correspondence) -> tuple[torch.Tensor, torch.Tensor]:
    """The blend of aggregation `learned`, `mean` or `sum`: loops over targets, pixels, sources."""
    kind, (num_sources, num_targets) = model.settings.aggregation, targets.own_source_mask.shape
    blended = torch.zeros(num_targets, *maps.shape[1:], dtype=maps.dtype)
    weights = torch.zeros(num_sources, num_targets, *maps.shape[2:], dtype=maps.dtype)
    height, width = maps.shape[2:]
    pixels = itertools.product(range(num_targets), range(height), range(width))
    for t, row, column in pixels:
        found = []
        for k in range(num_sources):
            if not where.counts_mask[k, t, row, column]:
                continue
            u, v = where.uv_grid[k, t, row, column].tolist()
            x, y = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
            left = min(max(math.floor(x), 0), width - 2)
            top = min(max(math.floor(y), 0), height - 2)
            a, b = min(max(x - left, 0), 1), min(max(y - top, 0), 1)
            above, below = maps[k, :, top], maps[k, :, top + 1]
            sample = (1 - b) * ((1 - a) * above[:, left] + a * above[:, left + 1]) \
                + b * ((1 - a) * below[:, left] + a * below[:, left + 1])
            direction = targets.dirs_obj[t, :, row, column]
            weight = float(model.aggregation(sample, direction)) if kind == "learned" else 1.0
            found.append((k, weight, sample))
        total = 1.0 if kind == "sum" or not found else sum(weight for _, weight, _ in found)
        for k, weight, sample in found:
            weights[k, t, row, column] = weight / total
            blended[t, :, row, column] += weight / total * sample
    return blended, weights


@pytest.mark.parametrize("aggregation", ["learned", "mean", "sum"])
@pytest.mark.parametrize("is_compact", [False, True])
def test_blend_against_loops_over_targets_sources_and_pixels(aggregation, is_compact):
    """Each target with its own directions: DirectionWeight would show another's at once."""
    views = views_of(cameras_at(EYES, (10, 8)))
    model = rgb_model(aggregation, is_compact=is_compact)
    targets, sources = batch_of(views, [0, 3])
    found = model.blend(views.images, targets, sources,
                        model.correspond(targets, sources, THRESHOLD))
    where = rgb_model(aggregation).correspond(targets, sources, THRESHOLD)
    for ours, slow in zip(found, naive_blend(model, views.images, targets, sources, where)):
        torch.testing.assert_close(ours, slow, atol=1e-12, rtol=0)
    assert int(where.counts_mask.sum()) > 40


def test_correlation_leaves_residuals_as_they_are(views):
    """Features are multiplied by soft weights, whose sum is their number of channels; a residual of
    0.5 in all sources is blended to 0.5 wherever one of them counts."""
    model = rgb_model("mean", "correlation")
    model.settings = replace(model.settings, blends_residuals=True)
    targets, sources = batch_of(views, [2, 0])
    where = model.correspond(targets, sources, THRESHOLD)
    maps = torch.cat([views.images, torch.full_like(views.images, 0.5)], 1)
    blended, weights = model.blend(maps, targets, sources, where)
    seen = (weights > 0).any(0)
    assert int(seen.sum()) > 80
    residuals = blended[:, 3:].permute(0, 2, 3, 1)
    torch.testing.assert_close(residuals[seen], torch.full_like(residuals[seen], 0.5), atol=1e-12,
                               rtol=0)
    assert not residuals[~seen].any()


def zero_beyond(grid: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """A pixel (C,) of a map (C, H, W), 0 outside."""
    is_inside = 0 <= row < grid.shape[1] and 0 <= column < grid.shape[2]
    return grid[:, row, column] if is_inside else torch.zeros_like(grid[:, 0, 0])


def naive_released_blend(model: ImageBasedModel, maps: torch.Tensor, targets: Targets,
                         sources: Sources) -> tuple[torch.Tensor, torch.Tensor]:
    """The release's way from points to blend, loops over targets, pixels and sources.

    Surfaces and features are read bilinearly with zeros beyond the border, masks at the nearest
    pixel; rays that miss have a point too; what sums to 0 does not count.
    """
    num_sources, num_targets = targets.own_source_mask.shape
    height, width = maps.shape[2:]
    blended = torch.zeros(num_targets, *maps.shape[1:], dtype=maps.dtype)
    weights = torch.zeros(num_sources, num_targets, height, width, dtype=maps.dtype)
    for t, row, column in itertools.product(range(num_targets), range(height), range(width)):
        found = []
        for k in range(num_sources):
            point = targets.surface.points_obj[t, :, row, column]
            xy, depth = sources.cameras[k].project(point)
            x_ndc, y_ndc = xy.flatten().tolist()
            if targets.own_source_mask[k, t] or depth <= 0 or max(abs(x_ndc), abs(y_ndc)) > 1:
                continue
            x, y = ((x_ndc + 1) * width - 1) / 2, ((1 - y_ndc) * height - 1) / 2
            left, top = math.floor(x), math.floor(y)

            def sample(grid: torch.Tensor) -> torch.Tensor:
                parts = [(top + i, left + j, abs(1 - i - (y - top)) * abs(1 - j - (x - left)))
                         for i in (0, 1) for j in (0, 1)]
                return sum(weight * zero_beyond(grid, r, c) for r, c, weight in parts)

            same = (sample(sources.surface.points_obj[k]) - point).square().sum() < WIDE_THRESHOLD
            if not same or not zero_beyond(sources.masks[k], round(y), round(x)):
                continue
            feature = sample(maps[k])
            if feature.sum() != 0:
                direction = targets.dirs_obj[t, :, row, column]
                found.append((k, float(model.aggregation(feature, direction)), feature))
        total = sum(weight for _, weight, _ in found)
        for k, weight, feature in found:
            weights[k, t, row, column] = weight / total
            blended[t, :, row, column] += weight / total * feature
    return blended, weights


@pytest.mark.parametrize("is_compact", [False, True])
def test_released_sampling_against_loops_over_targets_sources_and_pixels(is_compact):
    """Masks that cut the ball, so that the nearest pixel and the border decide; and a corner of
    one source without features, which counts in our way alone."""
    views = views_of(cameras_at(EYES, (10, 8)))
    masks = torch.ones_like(views.masks)                 # wider than the ball
    masks[1, :, :, :5], masks[2, :, 4:] = False, False
    targets, sources = batch_of(replace(views, masks=masks), [0, 3])
    maps = views.images + 0.1
    maps[3, :, :, 4:7] = 0
    model = rgb_model("learned", is_compact=is_compact)
    model.settings = replace(model.settings, sampling="release")
    where = model.correspond(targets, sources, WIDE_THRESHOLD)
    found = model.blend(maps, targets, sources, where)
    expected = naive_released_blend(model, maps, targets, sources)
    for ours, slow in zip(found, expected):
        torch.testing.assert_close(ours, slow, atol=1e-9, rtol=0)     # points to float32 matrices
    model.settings = replace(model.settings, sampling="ours")
    where = model.correspond(targets, sources, WIDE_THRESHOLD)
    _, other = model.blend(maps, targets, sources, where)
    missed = ~targets.surface.hit_mask[:, 0].expand_as(other)
    assert found[1][missed].any() and not other[missed].any()
    hit = ~missed
    assert ((other > 0) & hit).sum() != ((found[1] > 0) & hit).sum()


def test_correspondences_of_hits_alone_are_those_of_all_pixels(views):
    """With their gradient in the points; and of a target that hits nothing there are none."""
    targets, sources = batch_of(views, [2, 0])
    points = targets.surface.points_obj.requires_grad_(True)
    results = []
    for is_compact in (False, True):
        model = rgb_model("mean", is_compact=is_compact)
        where = model.correspond(targets, sources, THRESHOLD)
        source, pixel, uv = where.samples()
        (grad,) = torch.autograd.grad(uv.square().sum(), points)
        results.append((source, pixel, uv.detach(), grad))
    assert where.counts_mask.shape[1:3] == (1, 1) and len(results[0][0]) > 80
    for ours, others in zip(*results, strict=True):
        torch.testing.assert_close(ours, others, atol=1e-12, rtol=0)
    missed = replace(targets, surface=replace(targets.surface, hit_mask=torch.zeros_like(
        targets.surface.hit_mask)))
    where = model.correspond(missed, sources, THRESHOLD)
    blended, weights = model.blend(views.images, missed, sources, where)
    assert not len(where.samples()[0]) and not blended.any() and not weights.any()


@pytest.mark.parametrize("aggregation", AGGREGATIONS[2:4])
def test_lumigraph_blends_use_the_weights_by_direction(views, aggregation):
    model = rgb_model(aggregation)
    targets, sources = batch_of(views, [1, 2])
    where = model.correspond(targets, sources, THRESHOLD)
    raw = lumigraph_weights(targets.surface.points_obj, targets.dirs_obj, sources.cameras,
                            where.counts_mask, epipolar=aggregation.endswith("epipolar"))
    total = raw.sum(0)
    _, weights = model.blend(views.images, targets, sources, where)
    torch.testing.assert_close(weights, raw / torch.where(total > 0, total, 1), atol=1e-12, rtol=0)


def test_a_learned_factor_begins_as_the_weights_by_direction(views):
    """The factor is 1 before training; then it is G's, for each sample by itself."""
    def model_of(aggregation: str):
        torch.manual_seed(0)
        flags = ViewsConfig(feature_aggregation_method=aggregation)
        return build_model(SdfConfig(), CnnConfig(feature_type="rgb"), flags, RunConfig()).double()

    prior, learned = model_of("lumigraph_epipolar"), model_of("learned_prior")
    targets, sources = batch_of(views, [1, 2])
    where = learned.correspond(targets, sources, THRESHOLD)
    features = torch.rand_like(views.images)         # those of a ball are alike

    def weights_of(model) -> torch.Tensor:
        return model.blend(features, targets, sources, where)[1]

    torch.testing.assert_close(weights_of(learned), weights_of(prior), atol=1e-12, rtol=0)
    nn.init.ones_(learned.aggregation.layers[-1].weight)
    changed = weights_of(learned)
    assert (changed - weights_of(prior)).abs().max() > 1e-3
    changed.square().sum().backward()
    assert all(layer.weight.grad.any() for layer in learned.aggregation.layers)


def test_image_is_differentiable_in_the_surface(views):
    """Central differences of one pixel's point along its ray; the source images are piecewise
    bilinear, smooth but where a sample crosses a line between pixels: 1e-6 steps stay within."""
    model = rgb_model("learned")
    targets, sources = batch_of(views, [1])
    points = targets.surface.points_obj.clone().requires_grad_(True)

    def image(at: torch.Tensor) -> torch.Tensor:
        moved = replace(targets, surface=Surface(at, targets.surface.hit_mask))
        return model(moved, sources, THRESHOLD)

    row, column = SIZE[1] // 2, SIZE[0] // 2
    (found,) = torch.autograd.grad(image(points)[0, :, row, column].sum(), points)
    step = 1e-6 * targets.dirs_obj[0, :, row, column]
    values = []
    for sign in (1, -1):
        moved = points.detach().clone()
        moved[0, :, row, column] += sign * step
        values.append(float(image(moved)[0, :, row, column].sum()))
    expected = (values[0] - values[1]) / 2
    assert float(found[0, :, row, column] @ step) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-9 and not found[0, :, 0, 0].any()


class NarrowG(nn.Module):
    """In the place of G: equal weights, of as many features as E gives."""

    def forward(self, features: torch.Tensor, dirs: torch.Tensor) -> torch.Tensor:
        assert features.shape[-1] == 5
        return torch.ones_like(features[..., 0])


@pytest.mark.parametrize("is_compact", [False, True])
@pytest.mark.parametrize("aggregation", AGGREGATIONS[1:])
def test_residuals_give_back_what_linear_networks_lose(views, aggregation, is_compact):
    """With D linear, D(blend(f)) + blend(photo - D(f)) is blend(photo), whatever E does.

    Rounding in float64; D's bias falls out as the weights sum to 1.
    """
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh()).double()
    settings = BlendSettings("learned", aggregation, blends_residuals=True)
    model = ImageBasedModel(Ball(), encoder, NarrowG(), decoder=nn.Conv2d(5, 3, 1).double(),
                            settings=settings, execution=FastExecution(is_compact=is_compact))
    model.eval()
    targets, sources = batch_of(views, [2, 0])
    plain = rgb_model({"learned": "mean", "learned_prior": "lumigraph_epipolar"}
                      .get(aggregation, aggregation))
    where = plain.correspond(targets, sources, THRESHOLD)
    colours, weights = plain.blend(views.images, targets, sources, where)
    seen = (weights.sum(0) > 0)[:, None].expand_as(colours)
    image = model(targets, sources, THRESHOLD)
    torch.testing.assert_close(image[seen], colours[seen], atol=1e-12, rtol=0)
    lossy = replace(settings, blends_residuals=False)
    model.settings = lossy
    assert (model(targets, sources, THRESHOLD) - colours)[seen].abs().mean() > 0.1


@pytest.mark.parametrize("blends_residuals", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_learned_features_train_every_network_and_compact_is_the_same(share, monkeypatch,
                                                                      blends_residuals):
    """Float32: sums of some hundred terms in another order, 1e-4 of the greatest gradient.

    share: of the width that the masks cover; small regions are computed alone, of E and D, with
    residuals of D alone, twice.
    """
    views = views_of(cameras_at(EYES[:3], SIZE, dtype=torch.float32))
    views.masks[:] = torch.arange(SIZE[0]) < share * SIZE[0]
    targets, sources = batch_of(views, [0, 2])
    read_mask, grads, calls = views.masks[[0, 2]], [], []
    read = view_regions(views.masks).of(torch.tensor([0, 2]), torch.arange(3))
    in_regions = UNet.in_regions
    monkeypatch.setattr(UNet, "in_regions", lambda *x: calls.append(x) or in_regions(*x))
    for is_compact in (False, True):
        model = built(precision="fp32")
        model.execution = replace(model.execution, is_compact=is_compact)
        model.settings = replace(model.settings, blends_residuals=blends_residuals)
        model.eval()
        image = model(targets, sources, THRESHOLD, regions=read)
        ((image - views.images[[0, 2]]) * read_mask).square().mean().backward()
        assert len(calls) == (2 if is_compact and share < 1 else 0)
        grads.append([parameter.grad for net in (model.encoder, model.aggregation, model.decoder)
                      for parameter in net.parameters()])
    for ours, true in zip(*grads, strict=True):
        torch.testing.assert_close(ours, true, atol=1e-4 * float(true.abs().max()) + 1e-9, rtol=0)
    assert all(grad.isfinite().all() for grad in grads[0])
    for net in (model.encoder, model.aggregation, model.decoder):
        assert any(parameter.grad.any() for parameter in net.parameters())


def test_low_precision_convolutions_give_nearly_the_same_in_float32():
    """bf16 has 8 bits: 4e-3 a rounding, a few per cent after some ten layers. It is for training
    alone; figures are those of float32."""
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    results = {}
    for precision, mode in itertools.product(("fp32", "bf16"), (True, False)):
        model = built(precision=precision).train(mode)
        with torch.no_grad():
            features = model.encode(images)
            decoded = model.decode(torch.ones_like(features) * images[:, :1])
        assert features.dtype == decoded.dtype == torch.float32
        results[precision, mode] = features, decoded
    for low, full in zip(results["bf16", True], results["fp32", True]):
        assert 0 < (low - full).norm() / full.norm() < 0.05
    # another memory layout only: rounding of float32
    for low, full in zip(results["bf16", False], results["fp32", False]):
        assert (low - full).norm() / full.norm() < 1e-5


@pytest.mark.parametrize("is_compact", [False, True])
def test_low_precision_aggregation_gives_nearly_the_same_in_training_alone(is_compact):
    """Five layers in bf16, 4e-3 a rounding, then a sigmoid: weights to a hundredth of their norm.
    Samples and their weighted sums stay in float32."""
    views = views_of(cameras_at(EYES[:3], SIZE, dtype=torch.float32))
    targets, sources = batch_of(views, [0, 2])
    features, results = torch.rand(3, 16, SIZE[1], SIZE[0]), {}
    for precision, mode in itertools.product(("fp32", "bf16"), (True, False)):
        model = built(precision=precision).train(mode)
        model.execution = replace(model.execution, is_compact=is_compact)
        found = model.correspond(targets, sources, THRESHOLD)
        blended, weights = model.blend(features, targets, sources, found)
        assert blended.dtype == weights.dtype == torch.float32 and weights.any()
        results[precision, mode] = weights
    error = (results["bf16", True] - results["fp32", True]).norm() / results["fp32", True].norm()
    assert 0 < error < 0.01
    assert torch.equal(results["bf16", False], results["fp32", False])


def test_precision_of_the_flags():
    assert network_precision("bf16", "cpu", False) == "bf16"
    assert network_precision("fp32", "auto", True) == "fp32"
    assert network_precision("auto", "cpu", False) == "fp32"
    assert network_precision("auto", "cpu", True) in ("fp32", "bf16")


@pytest.mark.parametrize("width, dtype", [(16, torch.float32), (17, torch.bfloat16)])
def test_narrow_images_are_convolved_in_full_precision(width, dtype):
    """Where a strided convolution's input is one pixel wide, bf16 gradients may be anything."""
    torch.manual_seed(0)
    model = built(precision="bf16").train()
    seen = []
    model.encoder.down.conv1.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    model.decoder.out.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    images = model.decode(model.encode(torch.rand(2, 3, 8, width)))
    assert seen == [dtype, dtype] and images.dtype == torch.float32


def test_networks_of_the_flags():
    """METHOD's counts: 50,177 + 941,072 + 1,977,219 + 3,841."""
    model = build_model(SdfConfig(), CnnConfig(image_encoder="plain"), ViewsConfig(
        feature_aggregation_method="lumigraph", occlusion_method="correlation"), RunConfig())
    counts = [sum(parameter.numel() for parameter in net.parameters())
              for net in (model.sdf, model.encoder, model.decoder, model.aggregation)]
    assert counts == [50_177, 941_072, 1_977_219, 3_841]
    assert (model.settings.aggregation, model.settings.occlusion) == ("lumigraph", "correlation")
    plain = built(feature_type="rgb")
    assert plain.aggregation.num_features == 3
    assert sum(parameter.numel() for parameter in plain.encoder.parameters()) == 0
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(plain.decode(plain.encode(images)), images)


def test_shipped_sphere_is_loaded_and_a_missing_one_is_named():
    model = build_model(SdfConfig(init_sphere=1), CnnConfig(), ViewsConfig(), RunConfig())
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    points = points[points.norm(dim=-1) < 1]
    error = (model.sdf(points) - (points.norm(dim=-1) - 0.5)).abs()
    assert error.max() < 0.02                              # the asset's, not that of new weights
    with pytest.raises(ConfigError, match="init_sphere 1: no sphere .*model_hidden_dims_sdf 24"):
        build_model(SdfConfig(init_sphere=1, model_hidden_dims_sdf=24), CnnConfig(), ViewsConfig(),
                    RunConfig())
