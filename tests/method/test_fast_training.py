"""The fast path of a training step against its plain twin: same losses, same gradients.

The surface starts as a sphere that is too small or too large for the photographs, so that rays miss
inside the mask and hit outside it; the soft mask must pull it there on both paths.
"""
from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tiny_runs import config_of, flags_of

from data_processing.scenes.opening import open_scene
from loss_functions import CLOUD_WEIGHTS, eikonal_terms, soft_mask_loss
from modules import SdfArchitecture
from modules_sdf import build_sdf
from scheduler import StepPlan
from sdf_rendering import make_tracer
from stages.models import build_model
from stages.scene import build_scene_trainer
from utils.geometry.sdf import gradient
from utils.views.training_views import Batch, Sources, Targets, views_of

BATCH = Batch(torch.tensor([0, 1, 2]), torch.tensor([2, 0]))
PLAIN = ("--precision", "fp32", "--rt_num_mask_steps", 40)


@pytest.fixture(scope="module")
def fitted():
    """Weights of a small SIREN fitted to |x| - 0.5, smooth but not exact."""
    torch.manual_seed(0)
    sdf = build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1))
    optimizer = torch.optim.Adam(sdf.parameters(), lr=2e-3)
    for _ in range(400):
        points = torch.rand(512, 3) * 2 - 1
        loss = (sdf(points) - (points.norm(dim=-1) - 0.5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sdf.state_dict()


def trainer_of(tracer, scene_folder, sphere, fitted, shift):
    """A trainer whose surface is the fitted sphere, grown by `shift`.

    Args:
        tracer: of the flag, or "device": what "fast" is on a GPU.
    """
    flag = "fast" if tracer == "device" else tracer
    config = config_of(*flags_of("unused", scene_folder, "--tracer", flag, *PLAIN, sphere=sphere))
    scene, split = open_scene(config.data)
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run,
                        is_fast=tracer != "reference")
    model.sdf.load_state_dict(fitted)
    # D begins black here: about grey the signs of the L1 loss hang on rounding
    torch.nn.init.zeros_(model.decoder.out.bias)
    with torch.no_grad():
        model.sdf.layers[-1].bias -= shift
    trainer = build_scene_trainer(model, views_of(scene, split.train, "cpu"), config,
                                  generator=torch.Generator().manual_seed(0))
    if tracer == "device":
        trainer.tracer = make_tracer(config.tracing, device="meta")
    trainer.trace_all()
    return trainer


@pytest.fixture(params=["fast", "device"])
def fast_name(request):
    """The fast tracer of a CPU, and that of a GPU (on the CPU)."""
    return request.param


@pytest.fixture(params=[-0.3, 0.0, 0.25], ids=["too small", "about right", "too large"])
def pair(request, fast_name, tiny_scene, tiny_sphere, fitted):
    """The same trainer on the plain and on the fast path."""
    return [trainer_of(name, tiny_scene, tiny_sphere, fitted, request.param)
            for name in ("reference", fast_name)]


def views_of_batch(trainer):
    trainer.sampled.sampler.draw = lambda generator: BATCH
    return trainer.sampled.draw(trainer.generator, trainer.buffer)


def soft_mask_and_gradient(trainer, alpha, has_rim):
    views = views_of_batch(trainer)
    rays = views.target_rays()
    masks = trainer.views.masks[views.batch.targets].reshape(-1)
    hit_mask = trainer.tracer.trace(trainer.model.sdf, rays).hit_mask
    trainer.shape = replace(trainer.shape, loss=replace(trainer.shape.loss,
                                                        soft_mask_rim=int(has_rim)))
    loss = soft_mask_loss(trainer.tracer, trainer.model.sdf, rays, masks, hit_mask=hit_mask,
                          alpha=alpha, rim_mask=trainer.rim_mask(views, alpha))
    grads = torch.autograd.grad(loss, list(trainer.model.sdf.parameters()))
    return loss.item(), torch.cat([grad.reshape(-1) for grad in grads])


@pytest.mark.parametrize("has_rim", [False, True])
@pytest.mark.parametrize("alpha", [50.0, 400.0])
def test_soft_mask_loss_and_gradient_agree(pair, alpha, has_rim):
    (plain, plain_grad), (fast, fast_grad) = (soft_mask_and_gradient(t, alpha, has_rim)
                                              for t in pair)
    # the fast search takes the least of the same samples by the grid: off by its error, 1e-3,
    # times alpha for each ray, which at alpha 400 is 0.4 of terms up to 100
    assert fast == pytest.approx(plain, rel=0.02)
    assert torch.cosine_similarity(plain_grad, fast_grad, dim=0) > 0.998
    assert fast_grad.norm() == pytest.approx(plain_grad.norm().item(), rel=0.05)


def test_hits_and_counting_samples_agree(pair):
    surfaces = [t.buffer.surface(torch.arange(3)) for t in pair]
    differ = surfaces[0].hit_mask != surfaces[1].hit_mask
    assert differ.float().mean() <= 0.003
    both = surfaces[0].hit_mask & surfaces[1].hit_mask
    assert both.any()
    apart = (surfaces[0].points_obj - surfaces[1].points_obj).norm(dim=1, keepdim=True)[both]
    assert (apart > 1e-3).float().mean() <= 0.001
    counts = []
    for trainer, surface in zip(pair, surfaces, strict=True):
        views = trainer.views
        sources = Sources(views.cameras[:3], views.images[:3], views.masks[:3], surface)
        targets = Targets(surface, trainer.buffer.dirs[:3], torch.eye(3, dtype=torch.bool))
        source, pixel, _ = trainer.model.correspond(targets, sources, 1e-3).samples()
        counts.append(torch.zeros(3, surface.hit_mask.numel(), dtype=torch.bool))
        counts[-1][source, pixel] = True
    # samples next to a silhouette are interpolated with points of rays that miss, whose least SDF
    # the two paths find at other samples of the chord
    # (the smallest sphere has 92 samples in all, most of them at its silhouette)
    assert (counts[0] != counts[1]).float().sum() <= 0.05 * counts[0].sum() + 5


def test_image_loss_and_gradient_of_the_shape_agree(pair):
    plan = StepPlan(True, 50.0, 1e-3, 1e-4, 5e-4)
    found = []
    for trainer in pair:
        views = views_of_batch(trainer)
        traced = trainer.tracer.trace(trainer.model.sdf, views.target_rays())
        surface = trainer.traced_surface(views, traced)
        loss = trainer.image_loss(views, surface, plan)
        grads = torch.autograd.grad(loss, list(trainer.model.sdf.parameters()))
        found.append((loss.item(), torch.cat([grad.reshape(-1) for grad in grads])))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)
    # hits agree to 5e-5; what differs are single samples that count on one path only
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.9


def gradient_of(loss, trainer):
    grads = torch.autograd.grad(loss, list(trainer.model.sdf.parameters()), retain_graph=True,
                                materialize_grads=True)
    return torch.cat([grad.reshape(-1) for grad in grads])


def test_eikonal_term_and_gradient_are_the_plain_ones_without_the_points_outside(pair):
    """The points that are left out count as 0: they are drawn, so the mean divides by them."""
    losses = []
    for trainer in pair:
        views = views_of_batch(trainer)
        trainer.generator.manual_seed(7)
        losses.append(trainer.shape_losses(views, StepPlan(True, 50.0, 1e-3, 1e-4, 5e-4))[1])
    generator = torch.Generator().manual_seed(7)
    points = torch.rand(pair[0].shape.num_points, 3, generator=generator) * 2 - 1
    metric = pair[0].shape.loss.loss_eikonal_metric
    terms = eikonal_terms(gradient(pair[0].model.sdf, points, create_graph=True)[1], metric)
    inside = (points.norm(dim=-1) < 1).to(terms.dtype)
    for found, trainer, expected in ((losses[0], pair[0], terms.mean()),
                                     (losses[1], pair[1], (terms * inside).mean())):
        # float32 sums of 2048 terms in another order
        assert found["eikonal"].item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(gradient_of(found["eikonal"], trainer),
                                   gradient_of(expected, pair[0]), rtol=1e-3, atol=1e-6)
    assert losses[1]["eikonal"] <= losses[0]["eikonal"]


def test_losses_at_known_points_and_their_gradients_agree(pair):
    normals = torch.nn.functional.normalize(
        torch.randn(500, 3, generator=torch.Generator().manual_seed(3)), dim=-1)
    cloud = SimpleNamespace(points_obj=0.4 * normals, normals_obj=normals)
    found = []
    for trainer in pair:
        trainer.generator.manual_seed(7)
        trainer.shape = replace(trainer.shape, cloud=cloud)
        losses = trainer.shape.cloud_losses(trainer.model.sdf, trainer.generator,
                                            trainer.device)
        found.append({name: (loss.item(), gradient_of(loss, trainer))
                      for name, loss in losses.items()})
    assert set(found[0]) == set(found[1]) == set(CLOUD_WEIGHTS)
    for name, (value, grad) in found[0].items():
        assert found[1][name][0] == pytest.approx(value, rel=1e-6)
        torch.testing.assert_close(found[1][name][1], grad, rtol=1e-5, atol=1e-7)


def test_step_with_nothing_to_train_but_the_shape(tiny_scene, tiny_sphere):
    config = config_of(*flags_of("unused", tiny_scene, "--feature_type", "rgb",
                                 "--feature_aggregation_method", "mean", sphere=tiny_sphere))
    scene, split = open_scene(config.data)
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    trainer = build_scene_trainer(model, views_of(scene, split.train, "cpu"), config,
                                  generator=torch.Generator().manual_seed(0))
    trainer.trace_all()
    before = [parameter.clone() for parameter in model.sdf.parameters()]
    trainer.train_step(4)                                      # an image step
    assert all(torch.equal(a, b) for a, b in zip(before, model.sdf.parameters(), strict=True))
    trainer.train_step(0)                                      # a shape step
    assert not all(torch.equal(a, b) for a, b in zip(before, model.sdf.parameters(), strict=True))


def test_a_step_on_the_gpu_path_has_the_losses_and_gradients_of_the_cpu_path(
        tiny_scene, tiny_sphere, fitted):
    """Both leave out the same soft-mask terms and eikonal points. Their grids differ at nodes far
    from the surface, which the 40 samples of a ray that hits pass."""
    found = []
    for name in ("fast", "device"):
        trainer = trainer_of(name, tiny_scene, tiny_sphere, fitted, 0.0)
        losses = {key: float(value) for key, value in trainer.train_step(0).items()}
        grads = [parameter.grad.reshape(-1) for parameter in trainer.model.parameters()
                 if parameter.grad is not None]
        found.append((losses, torch.cat(grads)))
    (fast, fast_grad), (device, device_grad) = found
    assert set(device) == set(fast) == {"soft_mask", "eikonal", "image", "total"}
    assert device["eikonal"] == pytest.approx(fast["eikonal"], rel=1e-6)
    assert device == pytest.approx(fast, rel=0.01)
    # gradients are clipped to norm 1; what differs are single samples that count on one path only
    assert torch.cosine_similarity(fast_grad, device_grad, dim=0) > 0.99
