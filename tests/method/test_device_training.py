"""A training step on a GPU: the host never waits; nothing that is not finite reaches the weights.

Without a GPU the step runs on torch's `meta` device, see `sync_checks`.
"""
from __future__ import annotations

import pytest
import torch
from support.sync_checks import HostWaits, no_waiting
from support.trainers import trainer_on

from sdf_rendering import make_tracer
from utils.config.sections import TracingConfig
from utils.fast.tracing import gpu_tracer as device_tracing
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.optimization.finite import FiniteGuard

HOST, OTHER = torch.ones(3), torch.ones(3, device="meta")
MASK = torch.ones(3, dtype=torch.bool, device="meta")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("flags", [
    ("--image_encoder", "residual"),
    ("--feature_aggregation_method", "lumigraph", "--occlusion_method", "correlation"),
    ("--model", "idr", "--init_sphere", 1, "--model_activation_sdf", "softplus",
     "--feature_type", "rgb",
     "--feature_aggregation_method", "mean")])
def test_the_host_never_waits(tiny_scene, tiny_sphere, monkeypatch, flags):
    # each step of a march is like the others, and slow where it has no values
    monkeypatch.setattr(device_tracing, "TIERS", ((2, 1), (2, 2)))
    monkeypatch.setattr(device_tracing, "NUM_GRID_STEPS", 2)
    sphere = None if "--model" in flags else tiny_sphere
    trainer = trainer_on("meta", tiny_scene, sphere, *flags)
    assert isinstance(trainer.tracer, DeviceTracer)
    with no_waiting() as watch:
        for step in (0, 1, 2):                             # two shape steps, an image step
            losses = trainer.train_step(step)
    assert all(loss.is_meta for loss in losses.values())
    # the backward pass, the trace and the optimiser were watched too
    assert {"grid_sampler_3d", "grid_sampler_2d_backward", "masked_fill_"} <= watch.seen
    assert {"addcdiv_", "_foreach_addcdiv_"} & watch.seen


def test_the_step_of_the_cpu_would_wait(tiny_scene, tiny_sphere, monkeypatch):
    """The watch is not blind: the tracer of the CPU asks how many rays hit."""
    monkeypatch.setattr(device_tracing, "TIERS", ())
    trainer = trainer_on("meta", tiny_scene, tiny_sphere)
    trainer.tracer = make_tracer(TracingConfig(tracer="reference"))
    with no_waiting(), pytest.raises(HostWaits, match="nonzero"):
        trainer.train_step(0)


@pytest.mark.parametrize("action", [
    lambda: OTHER.sum().item(), lambda: bool(MASK.any()), lambda: OTHER[MASK],
    lambda: OTHER.index_put((MASK,), OTHER[0]), lambda: MASK.nonzero(), lambda: OTHER.cpu(),
    lambda: HOST.to("meta"), lambda: OTHER.new_tensor([1.0, 2.0]),
    lambda: torch.tensor([1.0], device="meta"), lambda: torch.equal(OTHER, OTHER),
    lambda: torch.linalg.inv(torch.eye(3, device="meta")), lambda: OTHER.clone().copy_(HOST),
    lambda: torch.masked_select(OTHER, MASK), lambda: OTHER.tolist(),
    lambda: OTHER[[0, 2]], lambda: OTHER[torch.tensor([0, 2])], lambda: torch.unique(OTHER),
    lambda: torch.repeat_interleave(OTHER, MASK.long())])
def test_the_watch_knows_what_waits(action):
    with no_waiting(), pytest.raises(HostWaits):
        action()


@pytest.mark.parametrize("action", [
    lambda: HOST[HOST > 0].sum().item(), lambda: HOST.to("meta", non_blocking=True),
    lambda: OTHER[torch.zeros(2, dtype=torch.long, device="meta")],
    lambda: torch.where(MASK, 1.0, OTHER), lambda: torch.linalg.inv_ex(torch.eye(3, device="meta")),
    lambda: OTHER.masked_fill(MASK, 1.0)])
def test_the_watch_lets_the_rest_pass(action):
    with no_waiting():
        action()


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_host_never_waits_on_a_gpu(tiny_scene, tiny_sphere, precision):
    trainer = trainer_on("cuda", tiny_scene, tiny_sphere, "--precision", precision)
    for step in range(3):                  # constants are copied, kernels compiled and chosen
        trainer.train_step(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer.train_step(step) for step in range(6)]       # steps 0, 1 and 3: shape
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(step["total"]) for step in losses)


@needs_gpu
def test_a_gpu_step_has_the_losses_of_the_cpu(tiny_scene, tiny_sphere):
    """The same seeds. Convolutions of a GPU multiply in TF32 (10 bits): 1e-3 in a loss."""
    found = [trainer_on(device, tiny_scene, tiny_sphere).train_step(0)
             for device in ("cpu", "cuda")]
    for name, loss in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(loss), rel=0.02)


def gradients(*values: float) -> tuple[list[torch.nn.Parameter], torch.Tensor]:
    """Parameters with gradients, and these gradients' norm."""
    parameters = [torch.nn.Parameter(torch.zeros(())) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters, torch.tensor(values).norm()


def as_on_a_gpu(guard: FiniteGuard, total: float, *values: float) -> tuple[float, list[float]]:
    """The masked path of a guard, which a CPU does not take by itself."""
    parameters, norm = gradients(*values)
    masked = guard.mask(torch.tensor(total), norm, parameters)
    return float(masked), [float(parameter.grad) for parameter in parameters]


def test_what_is_not_finite_is_masked_from_then_on():
    guard, nan, inf = FiniteGuard(), float("nan"), float("inf")
    assert as_on_a_gpu(guard, 2.0, 0.5, -1.0) == (2.0, [0.5, -1.0])
    total, grads = as_on_a_gpu(guard, 2.0, 0.5, nan)
    assert total != total and grads == [0.0, 0.0]
    total, grads = as_on_a_gpu(guard, 2.0, 0.5, 1.0)       # the weights rest until someone looks
    assert total != total and grads == [0.0, 0.0]
    total, grads = as_on_a_gpu(FiniteGuard(), inf, 0.5, 1.0)
    assert total != total and grads == [0.0, 0.0]


def test_a_cpu_says_at_once_what_is_not_finite():
    parameters, norm = gradients(1.0, float("inf"))
    with pytest.raises(FloatingPointError, match="gradient"):
        FiniteGuard().check_gradients(torch.tensor(1.0), norm, parameters)
    with pytest.raises(FloatingPointError, match="image"):
        FiniteGuard().check_losses(torch.tensor(torch.nan), {"image": torch.tensor(torch.nan)})
