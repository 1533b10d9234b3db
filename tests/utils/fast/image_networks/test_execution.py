"""Precision and memory format of E and D, as the flags say; the weights are those of fp32."""
from __future__ import annotations

import pytest
import torch
from support.ball_views import built
from support.trainers import trainer_on

IMAGE_STEP = 2


@pytest.mark.parametrize("precision, memory_format, is_last", [
    ("fp32", "auto", False), ("bf16", "auto", True), ("fp32", "channels_last", True),
    ("bf16", "channels_first", False)])
def test_maps_and_weights_lie_as_the_flags_say(precision, memory_format, is_last):
    """The numbers differ by rounding: 1e-6 in fp32, of bf16's 8 bits in training alone."""
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    seen = []
    results = []
    for chosen in (memory_format, "channels_first"):
        model = built(precision=precision, memory_format=chosen).eval()
        for network in (model.encoder, model.decoder):
            network.register_forward_pre_hook(lambda _, maps: seen.append(maps[0]))
        results.append(model.decode(model.encode(images)).detach())
        weight = model.encoder.down.conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (
            is_last and chosen == memory_format)
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == is_last
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_weights_and_their_updates_stay_in_fp32(tiny_scene, tiny_sphere):
    """bf16 has 8 bits, and updates are a thousandth of a weight: they would be rounded away."""
    trainer = trainer_on("cpu", tiny_scene, tiny_sphere, "--precision", "bf16")
    seen = set()
    trainer.model.decoder.out.register_forward_hook(lambda *args: seen.add(args[2].dtype))
    trainer.train_step(IMAGE_STEP)
    assert seen == {torch.bfloat16}
    for network in (trainer.model.encoder, trainer.model.decoder, trainer.model.aggregation):
        for weight in network.parameters():
            assert weight.dtype == weight.grad.dtype == torch.float32
            moments = trainer.optimizer.state[weight]
            assert moments["exp_avg"].dtype == moments["exp_avg_sq"].dtype == torch.float32
    assert all(weight.dtype == torch.float32 for weight in trainer.average.weights)
    assert all(value.dtype == torch.float32 for value in trainer.statistics)
