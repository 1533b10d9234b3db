"""One U-Net, two down paths: the image encoder E (ResNet trunk) and the feature decoder D (plain).

Paper, section 3.2: E turns a source photograph into a feature map of the same size, D the
aggregated features of a target into its image. Any image size works: halving rounds up, and the
up path resizes to the size of the skip that it meets. Images are (B, C, H, W); channels-last
memory works throughout.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.checkpoints.storage import load_checkpoint
from utils.errors import CheckpointError, ConfigError
from utils.fast.image_networks.joined_convolution import JoinedConvolution
from utils.fast.image_networks.parts import Part, on_region, reach, whole
from utils.views.regions import Region, Size

#: Mean and standard deviation of ImageNet's RGB in [0, 1], which ResNet weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Channels after the trunk's stages conv1, layer1 .. layer4; depth is how many are used.
TRUNK_CHANNELS = (64, 64, 128, 256, 512)
#: Channels of the full-resolution skip of E, which no trunk stage has.
FULL_SKIP_CHANNELS = 64
#: Channels of the three stages of D.
DECODER_CHANNELS = (64, 128, 256)

KINDS = ("residual", "plain")
CONVOLUTIONS = ("standard", "partial", "meta")


class PartialConv2d(nn.Conv2d):
    """Convolution over valid pixels only, without bias (Liu et al. 2018, equation 1).

    y = W * x times (pixels under the region / valid pixels under it), 0 where none is valid. A
    pixel is valid if any of its channels is non-zero, as an unseen sample has features of zero
    (docs/method.md, section 5); pixels beyond the border are invalid.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2,
                         bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W); no gradient through which pixels are valid."""
        size = self.kernel_size[0]
        valid = (inputs.detach() != 0).any(dim=1, keepdim=True).to(inputs.dtype)  # (B, 1, H, W)
        valid_fraction = F.avg_pool2d(valid, size, stride=1, padding=size // 2)
        return super().forward(inputs) / valid_fraction.clamp(min=0.5 / size**2)


def _convolution(in_channels: int, out_channels: int, kernel_size: int, *,
                 convolution: str) -> nn.Conv2d:
    """A convolution that keeps the image's size."""
    if convolution == "partial":
        return PartialConv2d(in_channels, out_channels, kernel_size)
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def _convolution_chain(channels: tuple[int, ...], convolution: str,
                       kernel_size: int = 3) -> nn.Sequential:
    """Convolution and ReLU for each step from one of `channels` to the next."""
    steps: list[nn.Module] = []
    for in_channels, out_channels in zip(channels, channels[1:]):
        steps += [_convolution(in_channels, out_channels, kernel_size, convolution=convolution),
                  nn.ReLU()]
    return nn.Sequential(*steps)


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, with torchvision's names.

    residual: ReLU(BN(W2 ReLU(BN(W1 x))) + shortcut(x)). plain, as in the release: the addition,
    the shortcut's 1x1 convolution and the second ReLU are left out.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int,
                 residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if residual and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        if not self.residual:
            return hidden
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return F.relu(hidden + shortcut)


class ResNetTrunk(nn.Module):
    """The down path of E: ResNet-18 up to a depth, with torchvision's names and initialisation."""

    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, TRUNK_CHANNELS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(TRUNK_CHANNELS[0])
        self.num_layers = depth - 1
        for index in range(1, depth):
            before, after = TRUNK_CHANNELS[index - 1:index + 1]
            stride = 1 if index == 1 else 2
            self.add_module(f"layer{index}", nn.Sequential(
                BasicBlock(before, after, stride=stride, residual=residual),
                BasicBlock(after, after, stride=1, residual=residual)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to themselves and the stages at 1/2, 1/4, 1/8, ..."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        levels = [images, hidden]
        for index in range(1, self.num_layers + 1):
            if index == 1:
                hidden = F.max_pool2d(hidden, 3, stride=2, padding=1)
            hidden = getattr(self, f"layer{index}")(hidden)
            levels.append(hidden)
        return levels

    def parts(self, images: Tensor, needed: list[list[Region]]) -> list[list[Part]]:
        """For each image its levels, whole: batch normalisation needs all of them."""
        return [list(own) for own in zip(*(whole(level).split() for level in self(images)))]


class PlainDown(nn.Module):
    """The down path of D: stages of two convolutions, halved by averaging in between."""

    def __init__(self, num_features: int, convolution: str) -> None:
        super().__init__()
        widths = (num_features,) + DECODER_CHANNELS
        self.stages = nn.ModuleList(
            _convolution_chain((before, after, after), convolution)
            for before, after in zip(widths, widths[1:]))

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, C, H, W) to the stages' outputs at 1, 1/2 and 1/4, sizes rounded up."""
        levels = [self.stages[0](features)]
        for stage in self.stages[1:]:
            # Rounded up, a last odd row is averaged over the pixels that exist.
            levels.append(stage(F.avg_pool2d(levels[-1], 2, ceil_mode=True)))
        return levels

    def parts(self, features: Tensor, needed: list[list[Region]]) -> list[list[Part]]:
        """For each map, of each level no more than holds a region of its own, (B, levels); maps of
        which the same is read are convolved at once."""
        reads = [self._reads(regions) for regions in needed]
        found: list[list[Part]] = [[] for _ in reads]
        for read in dict.fromkeys(reads):
            rows = [row for row, own in enumerate(reads) if own == read]
            levels = self._levels(features if len(rows) == len(reads) else features[rows], read)
            for row, own in zip(rows, zip(*(level.split() for level in levels)), strict=True):
                found[row] = list(own)
        return found

    def _reads(self, needed: list[Region]) -> tuple[Region, ...]:
        """What each stage computes for the levels' regions, finest first."""
        kept, read = needed[-1], []
        for level, stage in reversed(list(enumerate(self.stages))):
            read.insert(0, kept.grown(reach(stage)))
            if level:
                kept = needed[level - 1].joined(read[0].unpooled(needed[level - 1].size))
        return tuple(read)

    def _levels(self, features: Tensor, read: tuple[Region, ...]) -> list[Part]:
        """The stages on these regions."""
        levels: list[Part] = []
        for stage, region in zip(self.stages, read, strict=True):
            maps = whole(features).cut(region) if not levels else F.avg_pool2d(
                levels[-1].cut(region.unpooled(levels[-1].region.size)), 2, ceil_mode=True)
            levels.append(Part(stage(maps), region))
        return levels


class UNet(nn.Module):
    """Down path, a skip per level, and back up: resize, join with the skip, convolve.

    Attributes:
        down: images to one tensor per level, finest first.
        skips: one module per level, finest first.
        ups: one module per join, coarsest first.
        out: after the finest join.
    """

    def __init__(self, down: nn.Module, skips: list[nn.Module], *, ups: list[nn.Module],
                 out: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.skips = nn.ModuleList(skips)
        self.ups = nn.ModuleList(ups)
        self.out = out

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        skipped = [skip(level) for skip, level in zip(self.skips, self.down(inputs))]
        hidden = skipped.pop()
        for up in self.ups:
            skip = skipped.pop()
            hidden = F.interpolate(hidden, size=skip.shape[-2:], mode="bilinear",
                                   align_corners=True)
            if hidden.requires_grad and hidden.is_contiguous(memory_format=torch.channels_last):
                hidden.register_hook(_in_channels_last)
            hidden = up(torch.cat([hidden, skip], dim=1))
        return self.out(hidden)

    def in_regions(self, inputs: Tensor, regions: list[Region]) -> Tensor:
        """A region of each map's result, from no more than it depends on.

        The numbers and gradients of `forward`, to rounding, where nothing else is read.

        Args:
            inputs: (B, C, H, W).
            regions: B of them.
        Returns:
            (B, C', H, W), zero outside the regions.
        """
        sizes = [tuple(inputs.shape[-2:])]
        while len(sizes) < len(self.skips):
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        joins = [self._joins(region, sizes) for region in regions]
        needed = [[join.grown(reach(skip)) for join, skip in zip(own, self.skips, strict=True)]
                  for own in joins]
        ups = [(JoinedConvolution(up[0]), up[1:]) for up in self.ups]
        levels = self.down.parts(inputs, needed)
        found = [self._up(ups, level, join).cut(region)
                 for level, join, region in zip(levels, joins, regions, strict=True)]
        return torch.cat([Part(maps, region).padded()
                          for maps, region in zip(found, regions, strict=True)])

    def _joins(self, region: Region, sizes: list[Size]) -> list[Region]:
        """Where each level, finest first, is joined for the result in a region."""
        joins, region = [], region.grown(reach(self.out))
        for up, size in zip(reversed(self.ups), sizes[1:], strict=True):
            joins.append(region.grown(reach(up)))
            region = joins[-1].unresized(size)
        return [*joins, region]

    def _up(self, ups: list[tuple], levels: list[Part], joins: list[Region]) -> Part:
        """Skips and up path of one map, from its levels to the result on the finest join."""
        skipped = [on_region(*of_level) for of_level in zip(self.skips, levels, joins, strict=True)]
        hidden = skipped.pop()
        for (join, others), skip in zip(ups, reversed(skipped), strict=True):
            hidden = Part(others(join(hidden, skip)), skip.region)
        return Part(self.out(hidden.maps), hidden.region)


def _in_channels_last(grad: Tensor) -> Tensor:
    """A slice of a join's gradient, copied: the backward pass of resizing is ten times slower on
    strided memory."""
    return grad.contiguous(memory_format=torch.channels_last)


def _check_convolution(convolution: str) -> None:
    """Raises ConfigError for an unknown kind of convolution."""
    if convolution not in CONVOLUTIONS:
        raise ConfigError(
            f"convolution_type is {convolution!r}, need one of {', '.join(CONVOLUTIONS)}")


def _check_images(images: Tensor, num_channels: int, what: str) -> None:
    """Raises ValueError unless the input is (B, num_channels, H, W)."""
    if images.ndim != 4 or images.shape[1] != num_channels:
        raise ValueError(f"{what} are {tuple(images.shape)}, need (B, {num_channels}, H, W)")


class ImageEncoder(UNet):
    """E: photographs to feature maps of the same size (paper, section 3.2).

    Batch normalisation uses the statistics of the batch in training mode, the running ones in
    evaluation mode.
    """

    def __init__(self, num_features: int = 16, depth: int = 3, *, kind: str = "residual",
                 convolution: str = "standard") -> None:
        """Build with random weights.

        Args:
            num_features: channels of the result.
            depth: stages of the trunk, 1 (conv1 alone, 1/2) to 5 (all of ResNet-18, 1/32).
            kind: residual, or plain for the release's trunk without additions.
            convolution: of the skips and the up path: standard, partial, or meta, which is
                standard (the release's layers that take their weights from outside). The trunk
                always has ordinary ones, so that ResNet weights fit.

        Raises:
            ConfigError: an option that does not exist.
        """
        _check_convolution(convolution)
        if kind not in KINDS:
            raise ConfigError(f"image_encoder is {kind!r}, need one of {', '.join(KINDS)}")
        if not 1 <= depth <= len(TRUNK_CHANNELS):
            raise ConfigError(f"model_image_encoder_depth is {depth}, need 1 to "
                              f"{len(TRUNK_CHANNELS)}")
        stages = TRUNK_CHANNELS[:depth]
        full = FULL_SKIP_CHANNELS
        skips = [_convolution_chain((3, full, full), convolution)]
        skips += [_convolution_chain((width, width), convolution, 1) for width in stages]
        widths = (full,) + stages
        ups = []
        for level in range(depth - 1, -1, -1):
            after = widths[level] if level else num_features
            ups.append(_convolution_chain((widths[level + 1] + widths[level], after), convolution))
        super().__init__(ResNetTrunk(depth, kind == "residual"), skips, ups=ups,
                         out=nn.Identity())
        self.kind = kind
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean", mean.reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (B, 3, H, W) RGB in [-1, 1], any size.

        Returns:
            (B, C, H, W) features; differentiable in images and weights.
        """
        _check_images(images, 3, "images")
        return super().forward(self._normalised(images))

    def in_regions(self, inputs: Tensor, regions: list[Region]) -> Tensor:
        """See `UNet.in_regions`; the trunk takes whole images: its batch statistics need them."""
        _check_images(inputs, 3, "images")
        return super().in_regions(self._normalised(inputs), regions)

    def _normalised(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2 - self.mean) / self.std


class FeatureDecoder(UNet):
    """D: aggregated features to an image, without a final non-linearity (paper, section 3.2)."""

    def __init__(self, num_features: int = 16, *, convolution: str = "standard") -> None:
        """Build with random weights; convolution as in `ImageEncoder`, the last one standard.

        Raises:
            ConfigError: a convolution that does not exist.
        """
        _check_convolution(convolution)
        fine, middle, coarse = DECODER_CHANNELS
        skips = [_convolution(width, width, 1, convolution=convolution)
                 for width in DECODER_CHANNELS]
        ups = [_convolution_chain((coarse + middle, middle, middle), convolution),
               _convolution_chain((middle + fine, fine, fine), convolution)]
        super().__init__(PlainDown(num_features, convolution), skips, ups=ups,
                         out=nn.Conv2d(fine, 3, 1))
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Images of features.

        Args:
            features: (B, C, H, W), any size; zero where no source view sees the point.

        Returns:
            (B, 3, H, W) RGB, [0, 1] once trained but not clamped; differentiable.
        """
        _check_images(features, self.num_features, "features")
        return super().forward(features)


def load_resnet_weights(encoder: ImageEncoder, path: str | Path) -> None:
    """Fill the trunk from a file with the state of torchvision's ResNet-18.

    Later stages and the classifier in the file are left out, and the shortcuts' convolutions too
    where the encoder is plain. Nothing changes if an error is raised.

    Args:
        encoder: changed in place.
        path: for instance resnet18-f37072fd.pth.

    Raises:
        CheckpointError: the file cannot be read safely, or lacks weights that the trunk needs.
    """
    state = load_checkpoint(path)
    needed = encoder.down.state_dict()
    # Files from before torch 0.4.1 do not count batches, and nothing here reads the count.
    taken = {key: state.get(key, value if key.endswith("num_batches_tracked") else None)
             for key, value in needed.items()}
    missing = [key for key, value in needed.items()
               if getattr(taken[key], "shape", None) != value.shape]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the {len(needed)} ResNet-18 weights, or has them in "
            f"another shape: {', '.join(missing)}; give --resnet_weights a file of torchvision's "
            "resnet18, such as resnet18-f37072fd.pth")
    encoder.down.load_state_dict(taken)
