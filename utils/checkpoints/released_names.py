"""What the official release's checkpoints call our networks' tensors: names to names, no tensors.

The release writes one encoder and decoder in two layouts. Flat (training, meta-learning, and the
partial and meta kinds of pre-training): the modules of each path stand in one numbered list, ReLU
and pooling counted, the trunk plain. Nested (standard pre-training): numbered stages that hold
blocks with torchvision's names, the trunk residual. Meta-learned files have `hypo_module.` in
front of all names.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: The release's names of the networks, and ours.
NETWORKS = {"enc_net": "encoder", "dec_net": "decoder", "decoder_sdf": "sdf",
            "agg_net": "aggregation"}
#: In front of every name of a meta-learned file.
META_PREFIX = "hypo_module."
#: State that belongs to a scene and not to a network.
SCENE_STATE = "ray_builder."
#: The random matrix of the SDF's Fourier features.
FOURIER_MATRIX = "decoder_sdf.positional_encoding.B"
#: A layer that a skip of the SDF leads around: position of the skip, layer within it.
SKIPPED_LAYER = re.compile(r"decoder_sdf\.net\.net\.(\d+)\.inner\.(\d+)\.0\.weight")
#: Stages of the release's trunk: conv1, layer1, layer2.
DEPTH = 3


@dataclass(frozen=True)
class ReleaseNames:
    """Where the tensors of a release file belong.

    Attributes:
        networks: for each of our networks found in the file (encoder, decoder, sdf,
            aggregation), our tensor name to the file's whole key.
        encoder_kind: residual or plain; None where the file has no encoder.
        unknown: keys that belong to no network of the release.
    """

    networks: dict[str, dict[str, str]]
    encoder_kind: str | None
    unknown: tuple[str, ...]


def network_of_key(key: str) -> str | None:
    """Return the network of ours whose release name begins a tensor's name, or None."""
    return NETWORKS.get(key.removeprefix(META_PREFIX).split(".")[0])


def is_release_key(key: object) -> bool:
    """Return whether a tensor's name is one that the release gives to a network."""
    return isinstance(key, str) and key.removeprefix(META_PREFIX).split(".")[0] in NETWORKS


def read_release_names(keys: Iterable[str]) -> ReleaseNames:
    """Sort a release file's tensor names by our networks.

    Args:
        keys: the names in the file; those of scene state are skipped.
    """
    keys = list(keys)
    nested = any(key.startswith("enc_net.encs.0.0.") for key in _without_prefix(keys))
    modules = {**_mlp_modules(), **_skipped_modules(_without_prefix(keys)),
               **(_nested_modules() if nested else _flat_modules())}
    networks: dict[str, dict[str, str]] = {}
    unknown = []
    for key, name in zip(keys, _without_prefix(keys)):
        module, _, tensor = name.rpartition(".")
        if name == FOURIER_MATRIX:
            networks.setdefault("sdf", {})["encoding.matrix"] = key
        elif module in modules:
            network, own_module = modules[module]
            networks.setdefault(network, {})[f"{own_module}.{tensor}"] = key
        elif not name.startswith(SCENE_STATE):
            unknown.append(key)
    kind = ("residual" if nested else "plain") if "encoder" in networks else None
    return ReleaseNames(networks, kind, tuple(unknown))


def _without_prefix(keys: Iterable[str]) -> list[str]:
    """Names without what meta-learned files put in front."""
    return [key.removeprefix(META_PREFIX) for key in keys]


def _named(network: str, modules: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Put the network's name in front: release module to (our network, our module)."""
    return {f"{network}.{theirs}": (NETWORKS[network], own) for theirs, own in modules.items()}


def _mlp_modules(num_layers: int = 32) -> dict[str, tuple[str, str]]:
    """Return the modules of SDF and aggregation: numbered linear layers, more than any has."""
    names = {}
    for index in range(num_layers):
        names |= _named("decoder_sdf", {f"net.net.{index}.0": f"layers.{index}"})
        names |= _named("agg_net", {f"net.{index}.0": f"layers.{index}"})
    return names


def _skipped_modules(names: list[str]) -> dict[str, tuple[str, str]]:
    """Return the modules of an SDF with a skip: the layers around which it leads count as one."""
    found = [match for name in names if (match := SKIPPED_LAYER.fullmatch(name))]
    if not found:
        return {}
    first, count = int(found[0][1]), len(found)
    inner = {f"net.net.{first}.inner.{index}.0": f"layers.{first + index}"
             for index in range(count)}
    later = {f"net.net.{index}.0": f"layers.{index + count - 1}" for index in range(first + 1, 32)}
    return _named("decoder_sdf", inner | later)


def _block(position: int) -> str:
    """Return our name of the trunk's block 0 .. 3, two to a layer."""
    return f"down.layer{position // 2 + 1}.{position % 2}"


def _flat_modules() -> dict[str, tuple[str, str]]:
    """Return the modules of encoder and decoder in the flat layout; see `_named`."""
    encoder = {"encs.0": "down.conv1", "encs.1": "down.bn1"}
    for position in range(2 * (DEPTH - 1)):
        first = 4 + 5 * position  # convolution, norm, ReLU, convolution, norm from 4 on
        for offset, name in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2")):
            encoder[f"encs.{first + offset}"] = f"{_block(position)}.{name}"
    encoder |= {"enc_translates.0": "skips.0.0", "enc_translates.2": "skips.0.2"}
    for level in range(DEPTH):
        encoder[f"enc_translates.{4 + 2 * level}"] = f"skips.{level + 1}.0"
        encoder[f"decs.{2 * level}"] = f"ups.{level}.0"
    decoder = {"out_conv": "out"}
    for level in range(3):
        decoder[f"encs.{5 * level}"] = f"down.stages.{level}.0"
        decoder[f"encs.{5 * level + 2}"] = f"down.stages.{level}.2"
        decoder[f"enc_translates.{level}"] = f"skips.{level}"
    for level in range(2):
        decoder[f"decs.{4 * level}"] = f"ups.{level}.0"
        decoder[f"decs.{4 * level + 2}"] = f"ups.{level}.2"
    return {**_named("enc_net", encoder), **_named("dec_net", decoder)}


def _nested_modules() -> dict[str, tuple[str, str]]:
    """Return the modules of encoder and decoder in the nested layout; see `_named`."""
    encoder = {"encs.0.0": "down.conv1", "encs.0.1": "down.bn1"}
    for position in range(2 * (DEPTH - 1)):
        # The first layer shares its stage with the max-pooling, which takes number 0.
        stage = f"encs.1.1.{position}" if position < 2 else f"encs.2.{position - 2}"
        for name in ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"):
            encoder[f"{stage}.{name}"] = f"{_block(position)}.{name}"
    encoder |= {"enc_translates.0.0.0": "skips.0.0", "enc_translates.0.1.0": "skips.0.2"}
    for level in range(DEPTH):
        encoder[f"enc_translates.{level + 1}.0"] = f"skips.{level + 1}.0"
        encoder[f"decs.{level}.0"] = f"ups.{level}.0"
    decoder = {"out_conv": "out"}
    for level in range(3):
        first = 1 if level else 0  # later stages begin with the average-pooling
        decoder[f"encs.{level}.{first}.0"] = f"down.stages.{level}.0"
        decoder[f"encs.{level}.{first + 1}.0"] = f"down.stages.{level}.2"
        decoder[f"enc_translates.{level}"] = f"skips.{level}"
    for level in range(2):
        decoder[f"decs.{level}.0.0"] = f"ups.{level}.0"
        decoder[f"decs.{level}.1.0"] = f"ups.{level}.2"
    return {**_named("enc_net", encoder), **_named("dec_net", decoder)}
