"""The fast tracer, and sine networks near the shipped sphere for it."""
from __future__ import annotations

import torch

from modules import SdfArchitecture
from modules_sdf import SirenSDF, build_sdf
from sdf_rendering import make_tracer
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.weights import sphere_asset
from utils.config.sections import SdfConfig, TracingConfig
from utils.fast.tracing.cpu_tracer import FastTracer


def fast_tracer() -> FastTracer:
    """A new one: nothing is kept from other tests."""
    return make_tracer(TracingConfig(tracer="fast", rt_num_mask_steps=40))


def sine_network(noise: float, seed: int = 0) -> SirenSDF:
    """The shipped sphere with normal noise on its weights, `noise` of each tensor's spread."""
    net = build_sdf(SdfArchitecture())
    net.load_state_dict(open_checkpoint(sphere_asset(SdfConfig())).networks.tensors["sdf"])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() > 1:
                parameter += noise * parameter.std() * torch.randn(parameter.shape,
                                                                   generator=generator)
    return net
