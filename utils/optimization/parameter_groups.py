"""Which parts of a model are trained, and at which learning rates."""
from __future__ import annotations

import torch
from torch import nn

from utils.config.sections import TrainedPartsConfig


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Return Adam over Phi (group 0) and E, G, D (group 1); each step sets their rates."""
    sdf_parameters = list(model.sdf.parameters())
    known = {id(p) for p in sdf_parameters}
    others = [p for p in model.parameters() if id(p) not in known]
    return torch.optim.Adam([{"params": sdf_parameters}, {"params": others}], lr=1e-4)


def set_rates(optimizer: torch.optim.Optimizer, lr_sdf: float, lr: float) -> None:
    """Set the learning rates of Phi and of E, G, D in an optimiser of `make_optimizer`."""
    optimizer.param_groups[0]["lr"] = lr_sdf
    optimizer.param_groups[1]["lr"] = lr


def trained_parts(model: nn.Module, parts: TrainedPartsConfig) -> None:
    """Freeze the weights and batch statistics of the parts that are not to be trained."""
    switches = {"sdf": parts.train_decoder_sdf, "encoder": parts.train_image_encoder,
                "decoder": parts.train_feature_decoder, "aggregation": parts.train_feature_blending}
    for name, is_trained in switches.items():
        network = getattr(model, name)
        network.requires_grad_(bool(is_trained))
        network.train(bool(is_trained))
    if not parts.train_batch_statistics:
        keep_batch_statistics(model)


def keep_batch_statistics(model: nn.Module) -> None:
    """Let batch normalisation keep its running statistics, and normalise with them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
