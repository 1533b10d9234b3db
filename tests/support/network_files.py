"""Small networks under the model's names, and files of them, ours and the release's."""
from __future__ import annotations

import torch
from torch import nn

from support import golden_files
from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.released_names import read_release_names
from utils.checkpoints.weights import save_networks


class Four(nn.Module):
    """Four networks under the model's names, each one tensor."""

    def __init__(self, value: float = 0.0, size: int = 2) -> None:
        super().__init__()
        for name in NETWORKS:
            layer = nn.Linear(size, 1, bias=False)
            nn.init.constant_(layer.weight, value)
            setattr(self, name, layer)

    def values(self) -> dict[str, float]:
        return {name: getattr(self, name).weight.mean().item() for name in NETWORKS}


def file_of(path, **values):
    """A file of networks, each filled with one value."""
    save_networks(path, **{name: Four(value).get_submodule(name)
                           for name, value in values.items()})
    return path


def release_file(path, layout, networks):
    """A file with the release's names and shapes that holds our networks' tensors."""
    names = read_release_names(golden_files.layout(layout))
    state = {key: torch.zeros(shape) for key, shape in golden_files.layout(layout).items()}
    for network, table in names.networks.items():
        own = networks[network].state_dict()
        state |= {key: own[name] for name, key in table.items()}
    torch.save(state, path)
    return path
