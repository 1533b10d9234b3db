"""Which parts of a model are trained, and at which learning rates."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.config.sections import TrainedPartsConfig

#: Norm that gradients are clipped to.
MAX_NORM = 1.0


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


def clip_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, *,
                   in_parts: bool) -> Tensor:
    """Clip the gradients of all weights to norm 1, in place; return their norm before.

    Steps that train the shape have gradients of Phi of norm 10 to 30, beside which those of E, G
    and D have 0.5. Clipped together, the latter are smaller there by that factor than in steps that
    do not train the shape. Adam divides by what it remembers of their size: where the first such
    steps follow, its steps are up to six times too long, and PSNR falls by up to 2 dB.

    Args:
        model: has the weights.
        optimizer: of `make_optimizer`.
        in_parts: Phi apart from E, G and D; False: all together, as the released code does.
    """
    parts = [group["params"] for group in optimizer.param_groups
             if any(weight.grad is not None for weight in group["params"])]
    if not in_parts or not parts:
        return nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    norms = [nn.utils.clip_grad_norm_(part, MAX_NORM) for part in parts]
    return torch.linalg.vector_norm(torch.stack(norms))


def load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Restore a stored state of Adam, which torch would take as it is.

    Raises:
        ValueError: it is of other parameters, or no state of Adam.
    """
    own = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        wrong = [name for name, value in settings.items()
                 if name != "params" and not _is_alike(group.get(name), value)]
        if wrong:
            raise ValueError(f"the optimiser's {', '.join(wrong)} are of another kind")
    for parameter in [weight for group in optimizer.param_groups for weight in group["params"]]:
        moments: Any = optimizer.state.get(parameter)
        if not moments:                                    # it never had a gradient
            continue
        shapes = {"step": torch.Size(()), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        for name, shape in shapes.items():
            found: Any = moments.get(name) if isinstance(moments, dict) else None
            if not isinstance(found, Tensor) or found.shape != shape:
                raise ValueError(f"the optimiser's {name} is none of weights {tuple(shape)}")


def _is_alike(value: Any, own: Any) -> bool:
    """Return whether a setting of an optimiser is of the kind of one that it has."""
    if isinstance(own, tuple):                             # the two rates of Adam's averages
        return isinstance(value, (tuple, list)) and len(value) == len(own) \
            and all(map(_is_alike, value, own))
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, bool)
    if isinstance(value, Tensor):                          # a rate that a CUDA graph reads
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
