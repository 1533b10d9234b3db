"""Which networks a checkpoint holds: ours at any depth, files of single networks, the release's."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.checkpoints.released_names import (
    is_release_key,
    network_of_key,
    read_release_names,
)
from utils.errors import CheckpointError

NETWORKS = ("sdf", "encoder", "aggregation", "decoder")
#: A tensor that only the residual trunk has, and the first stage that has it.
RESIDUAL_MARK, MARKED_STAGE = "downsample", "down.layer2."


@dataclass(frozen=True)
class StoredNetworks:
    """The networks of a file.

    Attributes:
        path: of the file, for messages.
        tensors: network (sdf, encoder, aggregation, decoder) to its tensors by name.
        unknown: names of tensors beside them that belong to none of these.
        is_released: the released code wrote the file.
    """

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    unknown: tuple[str, ...] = ()
    is_released: bool = False

    def in_the_way_of(self, network: str) -> tuple[str, ...]:
        """Return the unknown tensors that make a network doubtful.

        Files of the released code hold further networks, such as one of colours, that nobody
        uses; there only tensors under the network's own name count.
        """
        return tuple(name for name in self.unknown
                     if not self.is_released or network_of_key(name) == network)

    @property
    def encoder_kind(self) -> str | None:
        """residual or plain, by the tensors; None where they do not tell, as at depth 1 and 2."""
        names = self.tensors.get("encoder", ())
        if any(RESIDUAL_MARK in name for name in names):
            return "residual"
        return "plain" if any(MARKED_STAGE in name for name in names) else None

    def convolution_of(self, network: str) -> str | None:
        """Return standard or partial, for encoder and decoder; partial ones have no bias."""
        names = self.tensors.get(network, {})
        skips = [name for name in names if name.startswith("skips.") and name.endswith(".weight")]
        if not skips:
            return None
        has_bias = skips[0].removesuffix("weight") + "bias" in names
        return "standard" if has_bias else "partial"


def networks_in(content: dict[str, Any], path: Path) -> StoredNetworks:
    """Return the networks of a checkpoint of a training run, a file of networks, or a release file.

    Args:
        content: what the file holds.
        path: of the file.
    Raises:
        CheckpointError: it holds no network, or tensors whose names are not text.
    """
    stored = _sorted_by_network(content, path)
    for network, named in stored.tensors.items():
        foreign = [name for name in named if not isinstance(name, str)]
        if foreign:
            raise CheckpointError(f"{path}: {network} has a tensor named {foreign[0]!r}, needed "
                                  "text; give a checkpoint of a training run")
    return stored


def _sorted_by_network(state: dict[str, Any], path: Path) -> StoredNetworks:
    """Return the tensors by network; CheckpointError where there is none."""
    for inner in ("task", "model"):
        state = state[inner] if isinstance(state.get(inner), dict) else state
    if all(isinstance(state.get(name), dict) for name in state if name in NETWORKS) \
            and any(name in state for name in NETWORKS):
        return StoredNetworks(path, {name: state[name] for name in NETWORKS if name in state},
                              _tensors_beside(state, set(NETWORKS)))
    if any(is_release_key(key) for key in state):
        names = read_release_names(key for key in state if isinstance(key, str))
        return StoredNetworks(path, {network: {own: state[key] for own, key in table.items()}
                                     for network, table in names.networks.items()}, names.unknown,
                              is_released=True)
    networks: dict[str, dict[str, Tensor]] = {}
    taken = set()
    for key, value in state.items():
        network, _, name = str(key).partition(".")
        if network in NETWORKS and isinstance(value, Tensor):
            networks.setdefault(network, {})[name] = value
            taken.add(key)
    if not networks:
        found = ", ".join(sorted(map(str, state))[:5])
        raise CheckpointError(f"{path}: found {found}, needed tensors of {', '.join(NETWORKS)}; "
                              "give a checkpoint of a training run")
    return StoredNetworks(path, networks, _tensors_beside(state, taken))


def _tensors_beside(state: dict[str, Any], taken: set[str]) -> tuple[str, ...]:
    """Names of tensors, alone or in a dictionary, under other keys than `taken`.

    All else that a file holds is not weights: errors, steps, settings.
    """
    names = []
    for key, value in state.items():
        if key in taken:
            continue
        inner = value.items() if isinstance(value, dict) else ()
        names += [str(key)] * isinstance(value, Tensor)
        names += [f"{key}.{name}" for name, part in inner if isinstance(part, Tensor)]
    return tuple(names)
