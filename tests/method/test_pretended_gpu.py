"""Training steps on a GPU that is pretended: real numbers, on the paths that CUDA takes.

`support.pretended_gpu` refuses tensors of two devices in one operation, and what the host would
wait for.
"""
from __future__ import annotations

import pytest
import torch
from support.pretended_gpu import DeviceTensor, MixedDevices, no_waiting, pretended_gpu
from support.sync_checks import HostWaits
from support.trainers import trainer_on
from torch import Tensor

from utils.fast.tracing import gpu_tracer
from utils.fast.tracing.gpu_tracer import DeviceTracer

pytestmark = pytest.mark.long

#: Where the host waits in steps with crops: for the number of pixels that sources are traced at,
#: and for the size of the sources' crops.
WAITS_OF_CROPS = {"utils/views/target_crops.py:touched_pixels",
                  "utils/views/source_crops.py:source_crops"}
SHAPE_STEP, IMAGE_STEP = 1, 2


@pytest.fixture
def gpu():
    """A pretended GPU for the test."""
    with pretended_gpu():
        yield


def values_of(losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers."""
    return {name: float(loss) for name, loss in losses.items()}


@pytest.mark.parametrize("flags, waits", [
    (("--image_encoder", "residual"), set()),
    (("--refine_cameras", 1, "--shape_warmup_steps", 0, "--shape_interval", 1), set()),
    (("--target_crop", 16), WAITS_OF_CROPS),
    (("--feature_aggregation_method", "lumigraph_epipolar", "--occlusion_method", "correlation"),
     set()),
    (("--blend_residuals", 1, "--image_loss_region", "foreground"), set()),
    (("--model", "idr", "--init_sphere", 1, "--model_activation_sdf", "softplus",
     "--feature_type", "rgb",
      "--feature_aggregation_method", "mean"), set())])
def test_steps_have_the_numbers_of_the_cpu(tiny_scene, tiny_sphere, flags, waits):
    """Tracers stop on either side of the surface within 5e-5, which single pixels show: losses
    differ by a thousandth. Nothing waits in the steps but what is known to."""
    sphere = None if "--model" in flags else tiny_sphere
    cpu, found = trainer_on("cpu", tiny_scene, sphere, "--device", "cpu", *flags), set()
    expected = [values_of(cpu.train_step(step)) for step in (SHAPE_STEP, IMAGE_STEP)]
    with pretended_gpu():
        trainer = trainer_on("cuda", tiny_scene, sphere, "--device", "cuda", *flags)
        assert isinstance(trainer.tracer, DeviceTracer)
        assert all(isinstance(value, DeviceTensor) for value in trainer.model.parameters())
        for step, losses in zip((SHAPE_STEP, IMAGE_STEP), expected, strict=True):
            with no_waiting(found):
                told = trainer.train_step(step)
            assert values_of(told) == pytest.approx(losses, rel=5e-3, abs=1e-4)
    assert found == waits


def test_gradients_are_those_of_the_cpu(tiny_scene, tiny_sphere):
    """Of each network, by the reference tracer, whose hits are the same on both: to rounding."""
    found = []
    for device in ("cpu", "cuda"):
        with pretended_gpu():
            trainer = trainer_on(device, tiny_scene, tiny_sphere, "--device", device,
                                 "--tracer", "reference")
            trainer.losses(trainer.plan(SHAPE_STEP))["total"].backward()
            found.append([parameter.grad.cpu() for parameter in trainer.model.parameters()
                          if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-9)


def test_bf16_is_taken_on_a_gpu_that_has_it(tiny_scene, tiny_sphere, monkeypatch):
    """Eight bits of mantissa in E, G and D: the image loss is off by a percent at most."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((8, 1),))
    losses = []
    for has_bf16 in (False, True):
        with pretended_gpu(has_bf16=has_bf16):
            trainer = trainer_on("cuda", tiny_scene, tiny_sphere, "--device", "cuda",
                                 "--precision", "auto")
            assert trainer.model.execution.precision == ("bf16" if has_bf16 else "fp32")
            with no_waiting():
                losses.append(trainer.train_step(IMAGE_STEP)["image"])
            losses[-1] = float(losses[-1])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_loss_that_is_not_finite_reaches_no_weight(tiny_scene, tiny_sphere, monkeypatch, gpu):
    monkeypatch.setattr(gpu_tracer, "TIERS", ((2, 1),))
    trainer = trainer_on("cuda", tiny_scene, tiny_sphere, "--device", "cuda")
    trainer.views.images.fill_(torch.nan)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    for step in (SHAPE_STEP, IMAGE_STEP):
        with no_waiting():
            total = trainer.train_step(step)["total"]
        assert total.isnan()
    for parameter, value in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(parameter.cpu(), value.cpu())


MADE = {"device": "cuda"}


@pytest.mark.parametrize("action", [
    lambda x, m: x.sum().item(), lambda x, m: bool(m.any()), lambda x, m: x[m],
    lambda x, m: x.cpu(), lambda x, m: m.nonzero(), lambda x, m: x.tolist(),
    lambda x, m: x.index_put((m,), x[0]),
    lambda x, m: torch.ones(3).to("cuda"), lambda x, m: torch.tensor([1.0], **MADE),
    lambda x, m: x.new_tensor([1.0]), lambda x, m: torch.equal(x, x), lambda x, m: x[[0, 2]],
    lambda x, m: x[torch.tensor([0, 2])], lambda x, m: torch.masked_select(x, m),
    lambda x, m: torch.ones(3).to("cuda", non_blocking=True), lambda x, m: torch.unique(x)])
def test_the_watch_knows_what_waits(action, gpu):
    x = torch.ones(3, **MADE)
    mask, places = x > 0, set()
    with no_waiting(), pytest.raises(HostWaits):
        action(x, mask)
    with no_waiting(places):                               # noted, and let pass
        action(x, mask)
    action(x, mask)


def test_the_watch_lets_the_rest_pass(gpu):
    x, host = torch.arange(3.0, **MADE), torch.ones(3)
    with no_waiting():
        moved = host.pin_memory().to("cuda", non_blocking=True)
        rows = x[torch.zeros(2, dtype=torch.long, **MADE)]
        found = torch.where(x > 1, 1.0, x + moved) * torch.tensor(2.0) + torch.zeros(3, **MADE)
        host[host > 0].sum().item()
    assert rows.tolist() == [0, 0] and found.tolist() == [2, 4, 2]
    assert found.device == torch.device("cuda", 0) and found.is_cuda and not found.is_cpu


@pytest.mark.parametrize("action", [
    lambda x, y: x + y, lambda x, y: torch.cat([x, y]), lambda x, y: y[x.long()],
    lambda x, y: torch.where(x > 0, y, x), lambda x, y: y.add_(x), lambda x, y: y @ x,
    lambda x, y: y * x.sum(), lambda x, y: torch.nn.functional.linear(x, y[None])])
def test_two_devices_are_refused(action, gpu):
    with pytest.raises(MixedDevices):
        action(torch.ones(3, **MADE), torch.ones(3))


def test_gradients_cross_between_the_devices(gpu):
    host = torch.ones(3, requires_grad=True)
    (host.to("cuda") * torch.arange(3.0, **MADE)).cpu().sum().backward()
    assert host.grad.tolist() == [0, 1, 2] and host.grad.device.type == "cpu"
    leaf = torch.ones(3, **MADE).requires_grad_()
    leaf.square().sum().backward()
    assert leaf.grad.is_cuda and leaf.grad.tolist() == [2, 2, 2]


def test_numpy_asks_for_the_cpu_first(gpu):
    with pytest.raises(TypeError, match="use Tensor.cpu"):
        torch.ones(3, **MADE).numpy()
