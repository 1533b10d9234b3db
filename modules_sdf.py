"""Phi, E, G and D, and how they become an image (docs/method.md, sections 3 and 5).

A target view's way: its surface points are projected into the source views
(`ImageBasedModel.correspond`), source features are sampled there and blended (`blend`), and the
blend is decoded to an image (`decode`). How the networks are executed (precision, parts of maps,
samples that count) is handed in; `PlainExecution` is the reference.
"""
from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from modules import OMEGA, MlpSDF, SdfArchitecture, SineLayer
from modules_unet import FeatureDecoder
from sdf_rendering import (
    agreeing_in_sources,
    correlation_weights,
    lumigraph_weights,
    project_to_sources,
    sample_maps,
    visible_as_released,
    visible_in_sources,
)
from utils.geometry.rays import Surface
from utils.views.regions import Region, ViewRegions
from utils.views.source_crops import MARGIN, source_crops
from utils.views.training_views import Correspondence, Sources, Targets

#: What D gives before training. On the way from black to it, most features of E would die: their
#: ReLUs, the last of E, all learn at once to give less.
GREY = 0.5
#: Values of --feature_aggregation_method under which G is evaluated.
LEARNED = ("learned", "learned_prior")


@dataclass(frozen=True)
class BlendSettings:
    """How source views become a target view; the values are those of the flags.

    With `blends_residuals`, what D gives of a source's own features is compared with its
    photograph, and the difference is blended with the same weights as the features are: detail
    that E and D lose comes back. Gradients pass through it; without them training is worse.

    With `sampling` "release", pixels whose ray misses take features too, at the point of minimum
    SDF; maps are 0 beyond their borders, source masks are read at the nearest pixel, and samples
    whose features sum to 0 do not count.
    """

    feature_type: str = "learned"
    aggregation: str = "learned"
    occlusion: str = "raytrace"
    blends_residuals: bool = False
    sampling: str = "ours"


class Execution(Protocol):
    """How the networks are computed; all ways give the same numbers to rounding."""

    def passes(self, sdf: nn.Module) -> AbstractContextManager:
        """Return a context for several passes through Phi, one soon after another."""
        ...

    def run(self, network: nn.Module, maps: Tensor, regions: list[Region] | None, *,
            is_training: bool) -> Tensor:
        """Return network(maps), (B, C, H, W) to (B, C', H, W); outside the regions it may be 0."""
        ...

    def aggregate(self, network: nn.Module, features: Tensor, dirs: Tensor, *,
                  is_training: bool) -> Tensor:
        """Return G of features (..., C) and directions (..., 3), (...,)."""
        ...

    def lay_out(self, *networks: nn.Module) -> None:
        """Put the weights of convolutions into the memory layout that `run` uses."""
        ...

    def is_sparse(self, like: Tensor, occlusion: str) -> bool:
        """Whether only samples that count are taken from maps like this tensor."""
        ...

    def surface_hits(self, targets: Targets) -> tuple[Surface, Tensor, Tensor | None]:
        """Return the targets' pixels that see the surface, as one map of one row.

        Returns:
            Their surface, own_source_mask (K, 1, 1, P) and the numbers of the pixels (P,).
        """
        ...

    def blend_samples(self, features: Tensor, correspondence: Correspondence, weigh: SampleWeights,
                      *, shape: tuple[int, ...], is_normalised: bool) -> tuple[Tensor, Tensor]:
        """Blend only the samples that count; see `ImageBasedModel.blend`.

        Args:
            weigh: features (N, C), source (N,) and pixel (N,) of samples to their weights (N,).
            shape: (K, T, H, W).
            is_normalised: the weights of a pixel are made to sum to 1.
        """
        ...


class SampleWeights(Protocol):
    """Weights (N,) of N samples: features (N, C), their sources (N,) and target pixels (N,)."""

    def __call__(self, sampled: Tensor, source: Tensor, pixel: Tensor) -> Tensor:
        """Return the weights, not normalised."""
        ...


class PlainExecution:
    """The reference: whole maps, every sample, the precision of the weights."""

    def passes(self, sdf: nn.Module) -> AbstractContextManager:
        """Return a context that changes nothing."""
        return nullcontext()

    def run(self, network: nn.Module, maps: Tensor, regions: list[Region] | None, *,
            is_training: bool) -> Tensor:
        """See `Execution.run`; regions are not looked at."""
        return network(maps)

    def aggregate(self, network: nn.Module, features: Tensor, dirs: Tensor, *,
                  is_training: bool) -> Tensor:
        """Return G of features and directions, all samples at once."""
        return network(features, dirs)

    def lay_out(self, *networks: nn.Module) -> None:
        """Leave the weights as they are."""

    def is_sparse(self, like: Tensor, occlusion: str) -> bool:
        """Tell that every sample is taken."""
        return False

    def surface_hits(self, targets: Targets) -> tuple[Surface, Tensor, Tensor | None]:
        """Not asked for, as `is_sparse` is False."""
        raise NotImplementedError

    def blend_samples(self, features: Tensor, correspondence: Correspondence, weigh: SampleWeights,
                      *, shape: tuple[int, ...], is_normalised: bool) -> tuple[Tensor, Tensor]:
        """Not asked for, as `is_sparse` is False."""
        raise NotImplementedError


class ImageNetworks(nn.Module):
    """E and D as they are called: images in [0, 1]; pre-training needs no more.

    Args:
        settings: alternatives of docs/method.md, section 5.
        execution: how the networks are computed; None: plainly.
        networks: encoder, images in [-1, 1] (K, 3, H, W) to features (K, C, H, W); decoder,
            features (T, C, H, W) to images (T, 3, H, W); and what else there is. Parameters keep
            the order in which they are given.
    """

    def __init__(self, settings: BlendSettings, execution: Execution | None = None,
                 **networks: nn.Module) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)
        self.settings, self.execution = settings, execution or PlainExecution()

    @property
    def source_margin(self) -> int:
        """Pixels of a source around one of `encode`'s output that it depends on; D doubles it."""
        return 2 * MARGIN if self.settings.blends_residuals else MARGIN

    def encode(self, images: Tensor, regions: list[Region] | None = None) -> Tensor:
        """Return features (K, C, H, W) of images (K, 3, H, W) in [0, 1]; plain RGB as it is.

        With a region of each, everything outside may be 0. Residuals, where they are blended, are
        three more channels.
        """
        if self.settings.feature_type == "rgb":
            return images
        blends_residuals = self.settings.blends_residuals
        features = self.execution.run(self.encoder, images * 2 - 1,
                                      None if blends_residuals else regions,     # D reads beyond
                                      is_training=self.training)
        if not blends_residuals:
            return features
        decoded = self.execution.run(self.decoder, features, regions, is_training=self.training)
        return torch.cat([features, (images - decoded).to(features.dtype)], 1)

    def decode(self, blended: Tensor, regions: list[Region] | None = None) -> Tensor:
        """Return images (T, 3, H, W), not clamped, of blended features (T, C, H, W)."""
        if self.settings.feature_type == "rgb":
            return blended
        images = self.execution.run(self.decoder, self.without_residuals(blended), regions,
                                    is_training=self.training)
        return images + blended[:, -3:] if self.settings.blends_residuals else images

    def without_residuals(self, maps: Tensor, channel: int = 1) -> Tensor:
        """Return features alone, of maps that may have residuals too in dimension `channel`."""
        if not self.settings.blends_residuals:
            return maps
        return maps.narrow(channel, 0, maps.shape[channel] - 3)


class ImageBasedModel(ImageNetworks):
    """Phi, E, G and D of the paper.

    Args:
        sdf: points (..., 3) to (...,).
        encoder, decoder, settings, execution: as in `ImageNetworks`.
        aggregation: features (..., C) and directions (..., 3) to weights (...,).
    """

    def __init__(self, sdf: nn.Module, encoder: nn.Module, aggregation: nn.Module,
                 *, decoder: nn.Module, settings: BlendSettings,
                 execution: Execution | None = None) -> None:
        super().__init__(settings, execution, sdf=sdf, encoder=encoder, aggregation=aggregation,
                         decoder=decoder)

    def forward(self, targets: Targets, sources: Sources, occ_threshold: float,
                *, crops_sources: bool = False, regions: ViewRegions | None = None) -> Tensor:
        """Render the targets from the sources' photographs.

        Args:
            occ_threshold: squared distance in object units, see `visible_in_sources`.
            crops_sources: encode no more of the sources than the targets show (`SourceCrops`).
            regions: what of the images and of the sources' features is read; what lies outside may
                be 0. None: all.
        Returns:
            Images (T, 3, H, W), not clamped.
        """
        found, images = self.correspond(targets, sources, occ_threshold), sources.images
        if crops_sources:
            crops = source_crops(found.uv_grid, found.counts_mask, sources.cameras.resolution,
                                 self.source_margin)
            found = replace(found, uv_grid=crops.uv_grid(found.uv_grid))
            images = crops.cut(images)
        features = self.encode(images, regions and regions.sources)
        blended, _ = self.blend(features, targets, sources, found)
        return self.decode(blended, regions and regions.targets)

    def correspond(self, targets: Targets, sources: Sources,
                   occ_threshold: float) -> Correspondence:
        """Project targets into sources and test which samples count.

        Returns:
            Correspondence; uv_grid is differentiable in the target points, counts_mask is not.
        """
        surface, pixels = targets.surface, None
        own = targets.own_source_mask[:, :, None, None]                # (K, T, 1, 1)
        if self._is_sparse(surface.points_obj) and surface.hit_mask.any():     # maps are not empty
            surface, own, pixels = self.execution.surface_hits(targets)
        uv_grid, inside_mask = project_to_sources(surface.points_obj, sources.cameras)
        if self.settings.occlusion == "raytrace":
            visible = visible_as_released if self.settings.sampling == "release" else \
                visible_in_sources
            counts = visible(surface, sources.surface, sources.masks, uv_grid,
                             inside_mask=inside_mask, occ_threshold=occ_threshold)
        else:
            with torch.no_grad():
                in_mask = sample_maps(sources.masks.to(uv_grid.dtype), uv_grid)[:, :, 0] >= 0.5
            counts = inside_mask & in_mask & surface.hit_mask[:, 0]
        return Correspondence(uv_grid, counts & ~own, pixels)

    def blend(self, features: Tensor, targets: Targets, sources: Sources,
              correspondence: Correspondence) -> tuple[Tensor, Tensor]:
        """Sample and aggregate source features.

        Args:
            features: (K, C, H, W) of the sources.
            correspondence: from `correspond`, with these settings.
        Returns:
            blended (T, C, H, W) and the normalised weights (K, T, H, W).
        """
        if self._is_sparse(features):
            return self._blend_samples(features, targets, sources, correspondence)
        counts = correspondence.counts_mask
        is_released = self.settings.sampling == "release"
        sampled = sample_maps(features, correspondence.uv_grid,        # (K, T, C, H, W)
                              padding="zeros" if is_released else "border")
        if is_released:
            counts = counts & (self.without_residuals(sampled, 2).sum(2) != 0)
        if self.settings.occlusion == "agreement":
            counts = agreeing_in_sources(self.without_residuals(sampled, 2), counts)
        elif self.settings.occlusion == "correlation":
            found = self.without_residuals(sampled, 2)
            soft = correlation_weights(found, counts, targets.own_source_mask)
            residuals = sampled[:, :, found.shape[2]:]
            sampled = torch.cat([found * soft[:, :, None], residuals], 2)
            counts = counts & (soft > 0)
        weights = self._weights(sampled, targets, sources, counts) * counts
        if self.settings.aggregation != "sum":
            total = weights.sum(0)
            weights = weights / torch.where(total > 0, total, torch.ones_like(total))
        return (sampled * weights[:, :, None]).sum(0), weights

    def _weights(self, sampled: Tensor, targets: Targets, sources: Sources,
                 counts: Tensor) -> Tensor:
        """Weights (K, T, H, W) of samples (K, T, C, H, W), not normalised."""
        kind = self.settings.aggregation
        if kind in ("sum", "mean"):
            return counts.to(sampled.dtype)
        if kind not in LEARNED:
            return self._weights_by_direction(targets, sources, counts)
        features = self.without_residuals(sampled, 2).permute(0, 1, 3, 4, 2)
        dirs = targets.dirs_obj.permute(0, 2, 3, 1)                    # (T, H, W, 3)
        weights = self.execution.aggregate(self.aggregation, features,
                                           dirs.expand(*counts.shape, 3),
                                           is_training=self.training)
        if kind == "learned_prior":
            weights = weights * self._weights_by_direction(targets, sources, counts)
        return weights

    def _weights_by_direction(self, targets: Targets, sources: Sources, counts: Tensor) -> Tensor:
        """Lumigraph weights (K, T, H, W) of samples that count, not normalised; constants."""
        return lumigraph_weights(targets.surface.points_obj.detach(), targets.dirs_obj,
                                 sources.cameras, counts,
                                 epipolar=self.settings.aggregation != "lumigraph")

    def _blend_samples(self, features: Tensor, targets: Targets, sources: Sources,
                       correspondence: Correspondence) -> tuple[Tensor, Tensor]:
        """As `blend`, of the samples that count alone."""
        dirs = targets.dirs_obj.permute(0, 2, 3, 1)                    # (T, H, W, 3)
        shape, kind = (len(features), *dirs.shape[:3]), self.settings.aggregation

        def weigh(sampled: Tensor, source: Tensor, pixel: Tensor) -> Tensor:
            """Return the weights (N,) of samples, not normalised."""
            if kind in ("sum", "mean"):
                return torch.ones_like(sampled[:, 0])
            weights = torch.ones_like(sampled[:, 0])
            if kind in LEARNED:
                weights = self.execution.aggregate(self.aggregation,
                                                   self.without_residuals(sampled),
                                                   dirs.reshape(-1, 3)[pixel],
                                                   is_training=self.training)
            if kind == "learned":
                return weights
            counts = torch.zeros(len(features), dirs[..., 0].numel(), dtype=torch.bool)
            counts[source, pixel] = True
            prior = self._weights_by_direction(targets, sources, counts.reshape(shape))
            return weights * prior.flatten(1)[source, pixel]

        return self.execution.blend_samples(features, correspondence, weigh, shape=shape,
                                            is_normalised=kind != "sum")

    def _is_sparse(self, like: Tensor) -> bool:
        return self.settings.sampling == "ours" and \
            self.execution.is_sparse(like, self.settings.occlusion)


def grey_decoder(num_features: int, convolution: str) -> FeatureDecoder:
    """D with random weights that begins about GREY."""
    decoder = FeatureDecoder(num_features=num_features, convolution=convolution)
    nn.init.constant_(decoder.out.bias, GREY)
    return decoder


class SirenSDF(MlpSDF):
    """The method's SDF: sin(30 x) after all layers but the last (paper, section 3.1)."""

    def _make_layer(self, index: int, in_features: int, out_features: int,
                    is_last: bool) -> nn.Linear:
        if not is_last:
            return SineLayer(in_features, out_features, is_first=index == 0)
        layer = nn.Linear(in_features, out_features)
        bound = math.sqrt(6 / in_features) / OMEGA
        nn.init.uniform_(layer.weight, -bound, bound)
        return layer

    def _activate(self, hidden: Tensor) -> Tensor:
        return hidden

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance and gradient in closed form, without a backward pass.

        grad Phi = w_L diag(cos z_{L-1}) W_{L-1} ... diag(cos z_1) W_1, z and W times omega. The
        eikonal term therefore needs first-order differentiation only. With skips or an encoding
        the gradient comes from automatic differentiation instead.

        Args:
            points: (..., 3), object space.

        Returns:
            sdf (...,) and gradient (..., 3), object units; differentiable in points and weights.
        """
        if not self.is_chain:
            return super().value_and_gradient(points)
        hidden, slopes = points, []
        for layer in self.layers[:-1]:
            phase = layer.phase(hidden)
            hidden = phase.sin()
            slopes.append(phase.cos())
        slope = self.layers[-1].weight[0]
        for layer, cosine in zip(reversed(self.layers[:-1]), reversed(slopes)):
            slope = (slope * cosine) @ (layer.omega * layer.weight)
        return self.layers[-1](hidden)[..., 0], slope


def build_sdf(architecture: SdfArchitecture = SdfArchitecture()) -> MlpSDF:
    """The SDF network, points (..., 3) to distances (...,): a SIREN, or another MLP."""
    return (SirenSDF if architecture.activation == "sine" else MlpSDF)(architecture)
