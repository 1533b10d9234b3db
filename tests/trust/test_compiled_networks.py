"""Training with E and D compiled by the compiler of this machine: part of `make trust`, minutes."""
from __future__ import annotations

import pytest
from support.trainers import trainer_on

from utils.errors import ConfigError
from utils.fast.image_networks.compiling import check_compiler, compile_networks

pytestmark = pytest.mark.trust


@pytest.mark.parametrize("flags", [
    ("--image_encoder", "residual"), ("--memory_format", "channels_last"),
    ("--precision", "bf16")])
def test_steps_with_compiled_networks_are_those_without(tiny_scene, tiny_sphere, flags):
    """Rounding of float32 in the losses of three steps; in bf16 rounding of that, a percent."""
    plain, compiled = (trainer_on("cpu", tiny_scene, tiny_sphere, *flags) for _ in range(2))
    try:
        check_compiler(compiled.device)
    except ConfigError as error:
        pytest.skip(str(error))
    compile_networks("cpu", compiled.model.encoder, compiled.model.decoder)
    rel = 0.01 if "bf16" in flags else 1e-3
    for step in range(3):
        expected, found = plain.train_step(step), compiled.train_step(step)
        assert {name: float(loss) for name, loss in found.items()} == pytest.approx(
            {name: float(loss) for name, loss in expected.items()}, rel=rel)
