"""The two small networks of an exported scene, which are taught by G and D.

Both are 200 times cheaper than their teachers, and made of nothing that a shader of 20 lines could
not do (docs/scene_format.md).
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Logits below do not count: a pixel that only such views see must still have weights.
LEAST_LOGIT = -15.0
#: How much a source view counts by its direction alone, before the network's factor.
PRIORS = ("none", "angle", "cosine")
#: Inputs of a decoder beside the blended features: three blended colours, and whether any source
#: view sees the point.
NUM_EXTRA = 4


class StudentAggregation(nn.Module):
    """Weights of the source views: prior_i sigmoid(W2 relu(W1 (F_i, v_t) + b1) + b2), before they
    are divided by their sum.

    Args:
        num_features: C.
        hidden: width of the hidden layer.
        prior: of PRIORS; `direction_prior` computes it.
    """

    def __init__(self, num_features: int = 16, hidden: int = 16, prior: str = "none") -> None:
        super().__init__()
        self.num_features, self.prior = num_features, prior
        self.hidden = nn.Linear(num_features + 3, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, dirs_obj: Tensor) -> Tensor:
        """Return factors (...,) in (0, 1) of features (..., C).

        Args:
            dirs_obj: (..., 3) unit directions of the target's rays; they may broadcast.
        """
        # the direction's part is computed once for all source views
        weight = self.hidden.weight
        hidden = F.linear(features, weight[:, :self.num_features]) + F.linear(
            dirs_obj, weight[:, self.num_features:], self.hidden.bias)
        return self.out(F.relu(hidden))[..., 0].clamp(min=LEAST_LOGIT).sigmoid()


def direction_prior(kind: str, points_obj: Tensor, dirs_obj: Tensor, centers_obj: Tensor,
                    *, counts_mask: Tensor) -> Tensor:
    """Return how much K source views count at P points by their direction alone, (K, P).

    The weights of unstructured lumigraphs (docs/method.md, section 5), for a small network to
    multiply.

    Args:
        kind: none: 1; angle: (1 / a) (1 - a / max a) with a the angle between the rays to the
            target and to the source, max over the views that count; cosine: that of the angle.
        points_obj, dirs_obj: (P, 3), surface and unit directions of the target's rays.
        centers_obj: (K, 3) of the source cameras.
        counts_mask: (K, P) bool.
    """
    if kind == "none":
        return torch.ones(counts_mask.shape, device=points_obj.device)
    source_dirs = F.normalize(points_obj - centers_obj[:, None], dim=-1)       # (K, P, 3)
    cosine = (source_dirs * dirs_obj).sum(-1).clamp(-1 + 1e-6, 1 - 1e-6)
    if kind == "cosine":
        return cosine.clamp(min=1e-6)
    angle = torch.acos(cosine)
    largest = (angle * counts_mask).amax(0)
    return (1 - angle / largest.clamp(min=1e-6)).clamp(min=1e-3) / angle.clamp(min=1e-3)


class StudentDecoder(nn.Module):
    """Blended features and colours to an image: two 3x3 convolutions, added to the colours.

    Args:
        num_features: C.
        hidden: channels between the convolutions.
    """

    def __init__(self, num_features: int = 16, hidden: int = 16) -> None:
        super().__init__()
        self.num_features = num_features
        self.hidden = nn.Conv2d(num_features + NUM_EXTRA, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 3, 3, padding=1)

    def forward(self, blended: Tensor) -> Tensor:
        """Return images (T, 3, H, W), not clamped.

        Args:
            blended: (T, C + 4, H, W): features, colours, 1 where any source view counts. Zero
                where none does.
        """
        colours = blended[:, self.num_features:self.num_features + 3]
        return colours + self.out(F.relu(self.hidden(blended)))


def blend_samples(features: Tensor, colours: Tensor, weights: Tensor,
                  counts_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the decoder takes, (C + 4, P), of P pixels, and the weights (K, P) that sum to 1.

    Args:
        features: (K, C, P) samples of K source views.
        colours: (K, 3, P), in [0, 1].
        weights: (K, P) of the aggregation, not normalised.
        counts_mask: (K, P) bool.
    """
    weights = torch.where(counts_mask, weights, torch.zeros_like(weights))
    total = weights.sum(0)
    weights = weights / torch.where(total > 0, total, torch.ones_like(total))
    seen = counts_mask.any(0)[None].to(features.dtype)
    samples = torch.cat([features, colours], 1)                        # (K, C + 3, P)
    blended = torch.einsum("kcp,kp->cp", samples, weights)
    return torch.cat([blended, seen]), weights
