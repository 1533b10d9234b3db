"""The image-based model: SDF, encoder, aggregation and decoder joined (METHOD 5).

A target view's way through it: its surface points are projected into the source views
(`ImageBasedModel.correspond`), source features are sampled there and blended (`blend`), and the
blend is decoded to an image (`decode`).
"""
from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import (
    OMEGA,
    GeometricSDF,
    MlpSDF,
    SdfArchitecture,
    SineLayer,
    SoftplusSDF,
)
from modules_unet import FeatureDecoder
from sdf_rendering import (
    correlated_in_sources,
    lumigraph_weights,
    project_to_sources,
    sample_maps,
    visible_in_sources,
)
from stages.view_rendering import ViewRenderer, evaluating, trace_views
from utils.fast.image_networks.precision import LEAST_BF16_WIDTH
from utils.fast.image_networks.regions import ViewWindows, Window
from utils.fast.image_networks.sparse_blending import BF16_SAMPLES, sample_points, surface_of_pixels
from utils.geometry.rays import Tracer
from utils.views.source_crops import source_windows
from utils.views.training_views import Correspondence, Sources, Targets, TrainingViews

#: What D gives before training. On the way from black to it, most features of E would die: their
#: ReLUs, the last of E, all learn at once to give less.
GREY = 0.5
#: Share of all pixels that windows may hold where maps are computed in windows, one after another,
#: not whole and at once.
WINDOWS_PAY = 0.75
@dataclass(frozen=True)
class BlendSettings:
    """How source views become a target view; the values are those of the flags.

    Attributes:
        is_compact: on a CPU, only the samples that count are taken and weighed, and no more of a
            map is computed than is read: the same result for less work. Elsewhere the host would
            have to wait until it knows how many there are.
        precision: of E, G and D in training, fp32 or bf16; evaluation is fp32.
    """

    feature_type: str = "learned"
    aggregation: str = "learned"
    occlusion: str = "raytrace"
    is_compact: bool = False
    precision: str = "fp32"


class ImageNetworks(nn.Module):
    """E and D as they are called: images in [0, 1], any precision; pre-training needs no more.

    Args:
        settings: alternatives of METHOD 5.
        networks: encoder, images in [-1, 1] (K, 3, H, W) to features (K, C, H, W); decoder,
            features (T, C, H, W) to images (T, 3, H, W); and what else there is. Parameters keep
            the order in which they are given.
    """

    def __init__(self, settings: BlendSettings, **networks: nn.Module) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)
        self.settings = settings

    def encode(self, images: Tensor, windows: list[Window] | None = None) -> Tensor:
        """(K, 3, H, W) images in [0, 1] to (K, C, H, W) features; plain RGB has no encoder.

        With a window of each, everything else is not computed, and 0.
        """
        if self.settings.feature_type == "rgb":
            return images
        return self._run(self.encoder, images * 2 - 1, windows)

    def decode(self, blended: Tensor, windows: list[Window] | None = None) -> Tensor:
        """(T, C, H, W) blended features to (T, 3, H, W) images, not clamped; see `encode`."""
        if self.settings.feature_type == "rgb":
            return blended
        return self._run(self.decoder, blended, windows)

    def _run(self, network: nn.Module, maps: Tensor, windows: list[Window] | None) -> Tensor:
        with self._precision(maps):
            laid_out = self._layout(maps)
            found = network.in_windows(laid_out, windows) if windows else network(laid_out)
            return found.to(maps.dtype)

    def _precision(self, like: Tensor) -> AbstractContextManager:
        """Of convolutions of maps."""
        return self._low_precision(like) if like.shape[-1] >= LEAST_BF16_WIDTH else nullcontext()

    def _low_precision(self, like: Tensor) -> AbstractContextManager:
        if not self._is_low:
            return nullcontext()
        return torch.autocast(like.device.type, dtype=torch.bfloat16)

    @property
    def _is_low(self) -> bool:
        return self.settings.precision == "bf16" and self.training     # figures are fp32

    def _layout(self, maps: Tensor) -> Tensor:
        """Channels last where convolutions are faster so."""
        if self.settings.precision == "bf16":
            return maps.contiguous(memory_format=torch.channels_last)
        return maps

    def lay_out_weights(self) -> None:
        """The same for the weights of both."""
        if self.settings.precision == "bf16":
            self.encoder.to(memory_format=torch.channels_last)
            self.decoder.to(memory_format=torch.channels_last)


class ImageBasedModel(ImageNetworks):
    """Phi, E, G and D of the paper.

    Args:
        sdf: points (..., 3) to (...,).
        encoder, decoder, settings: as in `ImageNetworks`.
        aggregation: features (..., C) and directions (..., 3) to weights (...,).
    """

    def __init__(self, sdf: nn.Module, encoder: nn.Module, aggregation: nn.Module,
                 *, decoder: nn.Module, settings: BlendSettings) -> None:
        super().__init__(settings, sdf=sdf, encoder=encoder, aggregation=aggregation,
                         decoder=decoder)

    def correspond(self, targets: Targets, sources: Sources,
                   occ_threshold: float) -> Correspondence:
        """Project targets into sources and test which samples count (METHOD 5).

        Returns:
            Correspondence; uv_grid is differentiable in the target points, counts_mask is not.
        """
        surface, pixels = targets.surface, None
        own = targets.own_source_mask[:, :, None, None]                # (K, T, 1, 1)
        if self._is_compact(surface.points_obj) and surface.hit_mask.any():    # maps are not empty
            pixels = surface.hit_mask.flatten().nonzero()[:, 0]
            surface = surface_of_pixels(surface, pixels)
            per_target = targets.surface.hit_mask[0].numel()
            own = targets.own_source_mask[:, pixels // per_target][:, None, None]
        uv_grid, inside_mask = project_to_sources(surface.points_obj, sources.cameras)
        if self.settings.occlusion == "raytrace":
            counts = visible_in_sources(surface, sources.surface, sources.masks, uv_grid,
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
        counts = correspondence.counts_mask
        if self._is_compact(features):
            return self._blend_what_counts(features, targets, sources, correspondence)
        sampled = sample_maps(features, correspondence.uv_grid)        # (K, T, C, H, W)
        if self.settings.occlusion == "correlation":
            counts = correlated_in_sources(sampled, counts)
        weights = self._weights(sampled, targets, sources, counts) * counts
        if self.settings.aggregation != "sum":
            total = weights.sum(0)
            weights = weights / torch.where(total > 0, total, torch.ones_like(total))
        return (sampled * weights[:, :, None]).sum(0), weights

    def _weights(self, sampled: Tensor, targets: Targets, sources: Sources,
                 counts: Tensor) -> Tensor:
        kind = self.settings.aggregation
        if kind in ("sum", "mean"):
            return counts.to(sampled.dtype)
        if kind == "learned":
            features = sampled.permute(0, 1, 3, 4, 2)                  # (K, T, H, W, C)
            dirs = targets.dirs_obj.permute(0, 2, 3, 1)                # (T, H, W, 3)
            return self._aggregate(features, dirs.expand(*counts.shape, 3))
        return lumigraph_weights(targets.surface.points_obj.detach(), targets.dirs_obj,
                                 sources.cameras, counts, epipolar=kind == "lumigraph_epipolar")

    def _aggregate(self, sampled: Tensor, dirs: Tensor) -> Tensor:
        """G of features (..., C) and directions (..., 3), in the precision of this moment."""
        with self._low_precision(sampled):
            return self.aggregation(sampled, dirs).to(sampled.dtype)

    def _blend_what_counts(self, features: Tensor, targets: Targets, sources: Sources,
                           correspondence: Correspondence) -> tuple[Tensor, Tensor]:
        """As `blend`, touching only the N samples that count: a fifth of all, usually."""
        source, pixel, uv = correspondence.samples()
        sampled = sample_points(features, source, uv)
        dirs = targets.dirs_obj.permute(0, 2, 3, 1)                    # (T, H, W, 3)
        shape = (len(features), *dirs.shape[:3])                       # (K, T, H, W)
        kind, num_pixels = self.settings.aggregation, dirs[..., 0].numel()
        if kind in ("sum", "mean"):
            found = torch.ones_like(sampled[:, 0])
        elif kind == "learned":
            filled = -len(sampled) % BF16_SAMPLES if self._is_low else 0
            rows = (F.pad(x, (0, 0, 0, filled)) for x in (sampled, dirs.reshape(-1, 3)[pixel]))
            found = self._aggregate(*rows)[:len(sampled)]
        else:
            counts = torch.zeros(len(features), num_pixels, dtype=torch.bool)
            counts[source, pixel] = True
            weights = self._weights(sampled, targets, sources, counts.reshape(shape))
            found = weights.flatten(1)[source, pixel]
        none = sampled.new_zeros(num_pixels)
        if kind != "sum":
            total = none.index_add(0, pixel, found)
            found = found / torch.where(total > 0, total, torch.ones_like(total))[pixel]
        blended = none[:, None].repeat(1, features.shape[1])
        blended = blended.index_add(0, pixel, sampled * found[:, None])
        blended = blended.reshape(*shape[1:], -1).permute(0, 3, 1, 2)
        weights = found.new_zeros(shape).flatten(1).index_put((source, pixel), found)
        return blended, weights.reshape(shape)

    def renderer(self, views: TrainingViews, *, occ_threshold: float,
                 tracer: Tracer) -> ViewRenderer:
        """Renders new views from these, with the surface and weights of this moment."""
        with evaluating(self):
            surface, _ = trace_views(self.sdf, views.cameras, tracer)
        sources = Sources(views.cameras, views.images, views.masks, surface)
        return ViewRenderer(self, sources, occ_threshold=occ_threshold, tracer=tracer)

    def forward(self, targets: Targets, sources: Sources, occ_threshold: float,
                *, in_windows: bool = False, read: ViewWindows | None = None) -> Tensor:
        """Images (T, 3, H, W) of the targets from the sources' photographs.

        Args:
            in_windows: encode no more of the sources than the targets show (`SourceWindows`).
            read: parts of the images and of the sources' features that are read; what lies outside
                may be 0. None: all.
        """
        found, images = self.correspond(targets, sources, occ_threshold), sources.images
        if in_windows:
            windows = source_windows(found.uv_grid, found.counts_mask, sources.cameras.resolution)
            found = replace(found, uv_grid=windows.uv_grid(found.uv_grid))
            images = windows.cut(images)
        features = self.encode(images, self._worth(read and read.sources, images))
        blended, _ = self.blend(features, targets, sources, found)
        return self.decode(blended, self._worth(read and read.targets, blended))

    def _worth(self, windows: list[Window] | None, maps: Tensor) -> list[Window] | None:
        """Windows of maps, where it pays to compute no more of these."""
        if windows is None or not self._is_compact(maps):
            return None
        num_read = sum(window.num_pixels for window in windows)
        return windows if num_read < WINDOWS_PAY * maps[:, 0].numel() else None

    def _is_compact(self, like: Tensor) -> bool:
        is_allowed = self.settings.is_compact and self.settings.occlusion == "raytrace"
        return is_allowed and like.device.type == "cpu"


def grey_decoder(num_features: int, convolution: str) -> FeatureDecoder:
    """D with random weights that begins about GREY."""
    decoder = FeatureDecoder(num_features=num_features, convolution=convolution)
    nn.init.constant_(decoder.out.bias, GREY)
    return decoder


class SirenSDF(MlpSDF):
    """The method's SDF: sin(30 x) after all layers but the last (paper, section 3.1)."""

    def _make_layer(self, index: int, in_features: int, out_features: int) -> nn.Linear:
        if index < len(self.sources) - 1:
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
    """The SDF network of one of three families; all map points (..., 3) to distances (...,).

    - ours: the paper's SIREN, or an MLP with relu or softplus by `activation`; without own skips.
    - idr: softplus MLP with geometric sphere initialisation; its input skips to the middle layer,
      where the joined input is divided by sqrt(2). No weight normalisation.
    - deepsdf: ReLU MLP whose input skips to the middle layer. No weight normalisation.

    Args:
        architecture: checked when it is made; skips given there replace the family's own.
    """
    if architecture.model == "ours":
        families = {"sine": SirenSDF, "relu": MlpSDF, "softplus": SoftplusSDF}
        return families[architecture.activation](architecture)
    if not architecture.skips:
        middle = (architecture.hidden_layers + 2) // 2
        architecture = replace(architecture, skips=((0, middle),))
    return (GeometricSDF if architecture.model == "idr" else MlpSDF)(architecture)
