"""Networks by the flags, with their initial weights."""
from __future__ import annotations

import math

import torch
from torch import nn

from modules import (
    AggregationMLP,
    PointEncoding,
    SdfArchitecture,
    parse_skips,
    start_as_sphere,
)
from modules_sdf import BlendSettings, ImageBasedModel, ImageNetworks, build_sdf, grey_decoder
from modules_unet import ImageEncoder, load_resnet_weights
from utils.checkpoints.weights import InitialWeights, initial_weights, starts_as_sphere
from utils.config.parser import Config
from utils.config.sections import CnnConfig, RunConfig, SdfConfig, ViewsConfig
from utils.errors import ConfigError
from utils.fast.image_networks.compiling import compile_networks
from utils.fast.image_networks.execution import FastExecution, network_precision
from utils.fast.memory import keep_freed_memory

DEFAULT_ENCODER = "plain"      # from random weights
#: From the spread of PyTorch's convolutions, of variance 1 / (3 n) for n inputs, to He's 2 / n.
TORCH_TO_HE = math.sqrt(6)


def build_model(sdf: SdfConfig, cnn: CnnConfig, views: ViewsConfig,
                run: RunConfig, *, is_fast: bool = True,
                initial: InitialWeights | None = None) -> ImageBasedModel:
    """The model of the flags with its initial weights.

    They are drawn from torch's global generator; then come ImageNet's, the sphere and those of the
    checkpoint flags, whose convolutions (standard or partial) the image networks have too. Weights
    that are read already come as `initial`, in place of those that the flags name.

    Plain RGB features have three channels and neither encoder nor decoder. `is_fast` admits what
    `--tracer fast` does: compact aggregation and, by `precision auto`, bf16 in E, G and D.
    """
    is_rgb = cnn.feature_type == "rgb"
    features = cnn.model_image_encoder_features
    initial = initial_weights(run, sdf) if initial is None else initial
    encoder = nn.Identity() if is_rgb else ImageEncoder(
        num_features=features, depth=cnn.model_image_encoder_depth,
        kind=initial.encoder_kind(cnn, DEFAULT_ENCODER),
        convolution=initial.convolution_of("encoder"))
    decoder = nn.Identity() if is_rgb else grey_decoder(features,
                                                        initial.convolution_of("decoder"))
    settings = BlendSettings(cnn.feature_type, views.feature_aggregation_method,
                             views.occlusion_method, bool(views.blend_residuals) and not is_rgb,
                             views.sampling)
    execution = execution_of(cnn, run, is_fast=is_fast,
                             is_compact=is_fast and not views.cuda_graphs)
    phi = build_sdf(sdf_architecture(sdf))
    if starts_as_sphere(sdf):
        start_as_sphere(phi)
    model = ImageBasedModel(phi, encoder,
                            AggregationMLP(3 if is_rgb else features), decoder=decoder,
                            settings=settings, execution=execution)
    if settings.aggregation == "learned_prior":
        model.aggregation.weigh_all_alike()
    if not is_rgb:
        begin_encoder(encoder, cnn)
    initial.load_into(model)
    execution.lay_out(encoder, decoder)
    return model


def begin_encoder(encoder: nn.Module, cnn: CnnConfig) -> None:
    """Give a new E the weights that it has before those of checkpoints, in place."""
    if cnn.encoder_init == "he":
        widen_for_relu(encoder)
    if cnn.resnet_weights:
        load_resnet_weights(encoder, cnn.resnet_weights)


@torch.no_grad()
def widen_for_relu(encoder: nn.Module) -> None:
    """Scale E's skip and up paths to the spread that a chain of ReLUs keeps (He et al. 2015).

    As PyTorch draws them, each convolution gives less than it is given. Features are then so small
    that Adam's first steps are as large as they are: some fall below 0 for all pixels, where they
    get no gradient. The trunk is initialised so already. The draws stay the same; biases become 0.

    Args:
        encoder: with the attributes skips and ups, just drawn; changed in place.
    """
    for path in (encoder.skips, encoder.ups):
        for layer in path.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight *= TORCH_TO_HE
                if layer.bias is not None:
                    layer.bias.zero_()


def build_image_networks(cnn: CnnConfig, run: RunConfig, *, convolution: str) -> ImageNetworks:
    """E and D alone, with the initial weights of the flags, for pre-training.

    Args:
        convolution: standard, partial or meta; see `modules_unet.ImageEncoder`.
    Raises:
        ConfigError: the features are plain RGB, which nothing can be learned of.
    """
    if cnn.feature_type == "rgb":
        raise ConfigError("--feature_type rgb has neither encoder nor decoder, so that there is "
                          "nothing to pre-train; use learned")
    features = cnn.model_image_encoder_features
    initial = initial_weights(run, networks=("encoder", "decoder"))
    encoder = ImageEncoder(num_features=features, depth=cnn.model_image_encoder_depth,
                           kind=initial.encoder_kind(cnn, DEFAULT_ENCODER),
                           convolution=convolution)
    decoder = grey_decoder(features, convolution)
    execution = execution_of(cnn, run)
    model = ImageNetworks(BlendSettings(), execution, encoder=encoder, decoder=decoder)
    begin_encoder(encoder, cnn)
    initial.load_into(model)
    execution.lay_out(encoder, decoder)
    return model


def execution_of(cnn: CnnConfig, run: RunConfig, *, is_fast: bool = True,
                 is_compact: bool = False) -> FastExecution:
    """Return how the flags let networks be executed.

    Args:
        cnn, run: precision, memory format and device.
        is_fast: whether `precision auto` may be bf16.
        is_compact: see `FastExecution`.
    """
    precision = network_precision(cnn.precision, run.device, is_fast)
    is_last = cnn.memory_format == "channels_last" or (
        cnn.memory_format == "auto" and precision == "bf16")
    return FastExecution(precision, is_compact, is_last)


def compile_if_asked(model: ImageNetworks, cnn: CnnConfig, device: torch.device) -> None:
    """Compile E and D of a model on its device, where `--compile_networks 1` asks for it."""
    if not cnn.compile_networks:
        return
    if cnn.feature_type == "rgb":
        raise ConfigError("--feature_type rgb has neither encoder nor decoder, so that there is "
                          "nothing to compile; give --compile_networks 0")
    compile_networks(device, model.encoder, model.decoder)


def sdf_architecture(sdf: SdfConfig) -> SdfArchitecture:
    """The flags of the SDF network as its architecture; ConfigError for values that do not fit."""
    return SdfArchitecture(
        activation=sdf.model_activation_sdf, hidden_dims=sdf.model_hidden_dims_sdf,
        hidden_layers=sdf.model_hidden_layers_sdf, skips=parse_skips(sdf.model_skips_sdf),
        feature_vector=sdf.feature_vector,
        encoding=PointEncoding(sdf.posenc_sdf, sdf.posenc_sdf_bands, sdf.posenc_sdf_sigma,
                               bool(sdf.posenc_sdf_expbands)))


def model_of(config: Config, device: torch.device,
             initial: InitialWeights | None = None, *, is_trained: bool = True) -> ImageBasedModel:
    """The model of the flags on a device, with its initial weights; see `build_model`.

    Args:
        config: with the sections of a training script.
        device: where it is.
        initial: see `build_model`.
        is_trained: else E and D are not compiled, whatever `--compile_networks` says.
    """
    if config.tracing.tracer == "fast" and device.type == "cpu":
        keep_freed_memory()
    model = build_model(config.sdf, config.cnn, config.views, config.run,
                        is_fast=config.tracing.tracer == "fast", initial=initial).to(device)
    if is_trained:
        compile_if_asked(model, config.cnn, device)
    return model
