"""The image-based model: SDF, encoder, aggregation and decoder joined (METHOD 5).

A target view's way through it: its surface points are projected into the source views
(`ImageBasedModel.correspond`), source features are sampled there and blended (`blend`), and the
blend is decoded to an image (`decode`).
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import AggregationMLP, PointEncoding, SdfArchitecture, build_sdf, parse_skips
from modules_unet import FeatureDecoder, ImageEncoder, load_resnet_weights
from sdf_rendering import (
    Tracer,
    correlated_in_sources,
    lumigraph_weights,
    project_to_sources,
    sample_maps,
    sample_points,
    visible_in_sources,
)
from utils.config.sections import CnnConfig, RunConfig, SdfConfig, ViewsConfig
from utils.errors import ConfigError
from utils.fast.image_networks.regions import ViewWindows, Window
from utils.geometry.rays import Surface
from utils.views.source_crops import source_windows
from utils.views.training_views import Sources, Targets, TrainingViews
from utils.checkpoints.weights import convolution_kinds, encoder_kind, load_first_weights
from stages.view_rendering import ViewRenderer, evaluating, trace_views

DEFAULT_ENCODER = "plain"      # from random weights
#: What D gives before training. On the way from black to it, most features of E would die: their
#: ReLUs, the last of E, all learn at once to give less.
GREY = 0.5
#: Share of all pixels that windows may hold where maps are computed in windows, one after another,
#: not whole and at once.
WINDOWS_PAY = 0.75
#: Narrower images are convolved in fp32: the gradient that oneDNN (torch 2.13) gives the weights of
#: a bf16 convolution of stride 2 holds what was in memory before where the input is one pixel wide,
#: as images up to 16 wide are at the last stage of the deepest E.
LEAST_BF16_WIDTH = 17
#: Samples that G weighs in bf16 are filled up to a multiple of it: oneDNN prepares itself for each
#: number of them, and forgets as much of what convolutions need again.
BF16_SAMPLES = 4096


@dataclass(frozen=True)
class Correspondence:
    """Where targets' surface points lie in the sources.

    Attributes:
        uv_grid: (K, T, H, W, 2) grid_sample coordinates.
        counts_mask: (K, T, H, W) bool, the sample counts. With occlusion by correlation it means
            inside image and mask only; the rest of the test needs features.
        pixels: None, or of P pixels alone: (P,) int64, their numbers among all of the targets, row
            by row. T and H are 1 then, and W is P; samples of other pixels do not count.
    """

    uv_grid: Tensor
    counts_mask: Tensor
    pixels: Tensor | None = None

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """The N samples that count: source and target pixel, (N,) int64 each, and uv (N, 2)."""
        source, column = self.counts_mask.flatten(1).nonzero(as_tuple=True)
        uv = self.uv_grid.flatten(1, 3)[source, column]
        return source, column if self.pixels is None else self.pixels[column], uv


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


def _of_pixels(surface: Surface, pixels: Tensor) -> Surface:
    """P pixels of T maps, by number, as one map of one row."""
    points = surface.points_obj.permute(0, 2, 3, 1).reshape(-1, 3).index_select(0, pixels)
    hit_mask = surface.hit_mask.flatten()[pixels]
    return Surface(points.T[None, :, None], hit_mask[None, None, None])


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
            surface = _of_pixels(surface, pixels)
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


def build_model(sdf: SdfConfig, cnn: CnnConfig, views: ViewsConfig,
                run: RunConfig, *, is_fast: bool = True) -> ImageBasedModel:
    """The model of the flags with its first weights.

    They are drawn from torch's global generator; then come ImageNet's, the sphere and those of the
    checkpoint flags, whose convolutions (standard or partial) the image networks have too.

    Plain RGB features have three channels and neither encoder nor decoder. `is_fast` admits what
    `--tracer fast` does: compact aggregation and, by `precision auto`, bf16 in E, G and D.
    """
    is_rgb = cnn.feature_type == "rgb"
    features = cnn.model_image_encoder_features
    convolutions = {} if is_rgb else convolution_kinds(run)
    encoder = nn.Identity() if is_rgb else ImageEncoder(
        num_features=features, depth=cnn.model_image_encoder_depth,
        kind=encoder_kind(cnn, run, DEFAULT_ENCODER), convolution=convolutions["encoder"])
    decoder = nn.Identity() if is_rgb else grey_decoder(features, convolutions["decoder"])
    settings = BlendSettings(cnn.feature_type, views.feature_aggregation_method,
                             views.occlusion_method, is_compact=is_fast,
                             precision=network_precision(cnn.precision, run.device, is_fast))
    model = ImageBasedModel(build_sdf(sdf_architecture(sdf)), encoder,
                            AggregationMLP(3 if is_rgb else features), decoder=decoder,
                            settings=settings)
    if cnn.resnet_weights and not is_rgb:
        load_resnet_weights(encoder, cnn.resnet_weights)
    load_first_weights(model, run, sdf)
    model.lay_out_weights()
    return model


def build_image_networks(cnn: CnnConfig, run: RunConfig, *, convolution: str) -> ImageNetworks:
    """E and D alone, with the first weights of the flags, for pre-training.

    Args:
        convolution: standard, partial or meta; see `modules_unet.ImageEncoder`.
    Raises:
        ConfigError: the features are plain RGB, which nothing can be learned of.
    """
    if cnn.feature_type == "rgb":
        raise ConfigError("--feature_type rgb has neither encoder nor decoder, so that there is "
                          "nothing to pre-train; use learned")
    features = cnn.model_image_encoder_features
    encoder = ImageEncoder(num_features=features, depth=cnn.model_image_encoder_depth,
                           kind=encoder_kind(cnn, run, DEFAULT_ENCODER), convolution=convolution)
    decoder = grey_decoder(features, convolution)
    precision = network_precision(cnn.precision, run.device, True)
    model = ImageNetworks(BlendSettings(precision=precision), encoder=encoder, decoder=decoder)
    if cnn.resnet_weights:
        load_resnet_weights(encoder, cnn.resnet_weights)
    load_first_weights(model, run)
    model.lay_out_weights()
    return model


def grey_decoder(num_features: int, convolution: str) -> FeatureDecoder:
    """D with random weights that begins about GREY."""
    decoder = FeatureDecoder(num_features=num_features, convolution=convolution)
    nn.init.constant_(decoder.out.bias, GREY)
    return decoder


def network_precision(flag: str, device: str, is_fast: bool) -> str:
    """`auto` as bf16 or fp32: bf16 where allowed and computed natively."""
    if flag != "auto":
        return flag
    if torch.cuda.is_available() and device != "cpu":
        is_native = torch.cuda.is_bf16_supported()
    else:
        is_native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if is_fast and is_native else "fp32"


def sdf_architecture(sdf: SdfConfig) -> SdfArchitecture:
    """The flags of the SDF network as its architecture; ConfigError for values that do not fit."""
    return SdfArchitecture(
        model=sdf.model, activation=sdf.model_activation_sdf, hidden_dims=sdf.model_hidden_dims_sdf,
        hidden_layers=sdf.model_hidden_layers_sdf, skips=parse_skips(sdf.model_skips_sdf),
        feature_vector=sdf.feature_vector,
        encoding=PointEncoding(sdf.posenc_sdf, sdf.posenc_sdf_bands, sdf.posenc_sdf_sigma,
                               bool(sdf.posenc_sdf_expbands)))
