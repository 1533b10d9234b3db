"""The weights that a model starts from, by the flags; and files of single networks."""
from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from utils.checkpoints.checkpoint import Checkpoint, open_checkpoint
from utils.checkpoints.manifest import update_sum
from utils.checkpoints.networks import NETWORKS, StoredNetworks
from utils.checkpoints.storage import load_checkpoint, load_state, name_some, save_checkpoint
from utils.command_names import typed
from utils.config.parser import Config
from utils.config.sections import CnnConfig, RunConfig, SdfConfig
from utils.errors import CheckpointError, ConfigError
from utils.paths import PROJECT_ROOT

log = logging.getLogger(__name__)

ASSETS = PROJECT_ROOT / "assets" / "base"
#: The flag that names one network's file.
FLAG_OF = {"sdf": "checkpoint_sdf", "encoder": "checkpoint_img_encoder",
           "aggregation": "checkpoint_aggregation_mlp", "decoder": "checkpoint_img_decoder"}
#: `--meta_parts`: the networks that a meta-learned start is taken for.
META_PARTS = {"all": NETWORKS, "sdf": ("sdf",), "features": NETWORKS[1:]}


@dataclass(frozen=True)
class InitialWeights:
    """The stored networks that a model starts from, read already.

    Attributes:
        sources: network to what its file holds; one that is absent starts from random weights.
        is_strict: refuse files that do not fit in all; else take what fits and log the rest.
    """

    sources: Mapping[str, StoredNetworks]
    is_strict: bool = True

    def encoder_kind(self, cnn: CnnConfig, default: str) -> str:
        """Return the kind of encoder, residual or plain.

        `--image_encoder auto` is as in the encoder's file, else residual with ImageNet weights,
        else `default`.
        """
        if cnn.image_encoder != "auto":
            return cnn.image_encoder
        stored = self.sources["encoder"].encoder_kind if "encoder" in self.sources else None
        return stored or ("residual" if cnn.resnet_weights else default)

    def convolution_of(self, network: str) -> str:
        """Return the convolutions of encoder or decoder, standard or partial, as in its file."""
        stored = self.sources.get(network)
        return (stored and stored.convolution_of(network)) or "standard"

    def load_into(self, model: nn.Module) -> None:
        """Fill a new model.

        Args:
            model: with attributes named as NETWORKS, or some of them.
        Raises:
            CheckpointError: a file does not fit (`--checkpoint_strict 0` takes what fits).
        """
        for network, stored in self.sources.items():
            if hasattr(model, network):
                _load_network(getattr(model, network), network, stored, strict=self.is_strict)


class NetworkFiles(dict[Path, StoredNetworks]):
    """The networks of files by path; each file is read when it is first asked for, and once."""

    def __missing__(self, path: Path) -> StoredNetworks:
        self[path] = open_checkpoint(path).networks
        return self[path]


def initial_weights(run: RunConfig, sdf: SdfConfig | None = None, *,
                    networks: Collection[str] = NETWORKS,
                    files: NetworkFiles | None = None) -> InitialWeights:
    """Return the weights that the flags name.

    With `init_sphere`, an SDF that no flag names a file for begins as the shipped sphere.

    Args:
        run: its checkpoint flags.
        sdf: the flags that tell which sphere; None: there is no SDF.
        networks: those that the model has.
        files: files that are read already; others are added.
    Raises:
        CheckpointError: a file cannot be read, or holds no network.
        ConfigError: no sphere is shipped for these flags.
    """
    files = NetworkFiles() if files is None else files
    paths = {network: path for network, path in weight_files(run, files).items()
             if network in networks and path}
    if sdf is not None and sdf.init_sphere and "sdf" not in paths and not starts_as_sphere(sdf):
        paths["sdf"] = str(shipped_sphere(sdf))
    sources = {network: files[Path(paths[network])] for network in NETWORKS if network in paths}
    return InitialWeights(sources, is_strict=bool(run.checkpoint_strict))


def weight_files(run: RunConfig, files: NetworkFiles) -> dict[str, str]:
    """Return the file that each network's initial weights come from, '' for none.

    The flag of one network wins over that of a whole checkpoint. A file given as
    `checkpoint_img_encoder` also brings the decoder that was trained with it.
    """
    paths = dict.fromkeys(NETWORKS, run.checkpoint_path)
    encoder = run.checkpoint_img_encoder
    if encoder and "decoder" in files[Path(encoder)].tensors:
        paths["decoder"] = encoder
    return {network: getattr(run, FLAG_OF[network]) or paths[network] for network in NETWORKS}


def whole_checkpoint(checkpoint: Checkpoint, run: RunConfig) -> InitialWeights:
    """Return all networks from one checkpoint of a whole model, whatever the flags name.

    Raises:
        CheckpointError: it holds no network.
    """
    return InitialWeights(dict.fromkeys(NETWORKS, checkpoint.networks),
                          is_strict=bool(run.checkpoint_strict))


def checkpoint_to_evaluate(config: Config, latest: Checkpoint | None) -> Checkpoint:
    """Return the checkpoint that `--checkpoint_path_test` names, else the run's latest.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if config.test.checkpoint_path_test:
        return open_checkpoint(config.test.checkpoint_path_test)
    if latest is None:
        raise CheckpointError(f"no checkpoint is in {config.run.logging_root}/"
                              f"{config.run.experiment_name}; train first, or give "
                              "--checkpoint_path_test FILE")
    return latest


def with_meta_start(config: Config) -> tuple[Config, InitialWeights]:
    """Return the configuration that starts from `--meta_initialization`, and its initial weights.

    `--meta_parts` tells which networks it starts. Takes our files and the release's. The flag of a
    single network, where given, wins for it; a whole checkpoint (`--checkpoint_path`) stays for the
    other networks.

    Args:
        config: with the sections run, sdf and meta.
    Raises:
        ConfigError: no file is named, or no sphere is shipped for these flags.
        CheckpointError: a file cannot be read, or holds no network.
    """
    path = config.meta.meta_initialization
    if not path:
        raise ConfigError("--meta_initialization is missing; give the checkpoint of a "
                          f"meta-learned start, as {typed('meta-train')} writes it")
    files = NetworkFiles()
    _ = files[Path(path)]                  # its errors come before those of other files
    own = weight_files(replace(config.run, checkpoint_path=""), files)
    flags = {FLAG_OF[network]: path for network in META_PARTS[config.meta.meta_parts]
             if not own[network]}
    config = replace(config, run=replace(config.run, **flags))
    return config, initial_weights(config.run, config.sdf, files=files)


def _load_network(module: nn.Module, network: str, stored: StoredNetworks, *,
                  strict: bool) -> None:
    """Fill one network from a file that holds it, perhaps beside others."""
    if stored.unknown:
        told = f"{stored.path} has {name_some('tensors that belong to no network', stored.unknown)}"
        if strict and stored.in_the_way_of(network):
            raise CheckpointError(f"{told}; give --checkpoint_strict 0 to leave them out")
        log.warning("%s; they are left out", told)
    if network in stored.tensors:
        load_state(module, stored.tensors[network], f"{network} of {stored.path}", strict=strict)
        log.info("%s: weights of %s", network, stored.path)
    elif module.state_dict():              # plain RGB has an encoder and a decoder without weights
        told = f"{stored.path} has no {network}; it has {', '.join(stored.tensors)}"
        if strict:
            raise CheckpointError(f"{told}; give a file that has it, or --checkpoint_strict 0 to "
                                  f"leave the {network} as it is")
        log.warning("%s; it keeps its initial weights", told)


def save_networks(path: str | Path, *, precision: str = "fp32", **networks: nn.Module) -> None:
    """Write weights of single networks, by the names of NETWORKS.

    Args:
        path: of the file.
        precision: fp16 stores the weights of E, G and D (not their biases, nor batch statistics)
            in half the bytes, rounded to 11 bits; whoever loads them has fp32 again. Phi stays in
            fp32: sin(30 x) would carry its rounding far.
        networks: by name.
    """
    def stored(name: str, network: nn.Module) -> dict[str, Tensor]:
        is_halved = precision == "fp16" and name != "sdf"
        return {key: value.half() if is_halved and value.ndim > 1 else value
                for key, value in network.state_dict().items()}

    save_checkpoint(path, {name: stored(name, network) for name, network in networks.items()})


def save_sphere(path: Path, sdf: nn.Module, error: dict[str, float]) -> bool:
    """Write a fitted sphere with its errors, unless the one that is there is better.

    The manifest, where it lists the file, gets its new sum.

    Args:
        path: see `sphere_asset`.
        error: mean_error decides.
    Returns:
        Whether it was written.
    """
    stored = load_checkpoint(path).get("error") if path.is_file() else None
    if stored and stored["mean_error"] <= error["mean_error"]:
        log.warning("%s stays: its mean error is %.2g, that of this fit %.2g", path,
                    stored["mean_error"], error["mean_error"])
        return False
    save_checkpoint(path, {"sdf": sdf.state_dict(), "error": error})
    update_sum(path)
    return True


def shipped_sphere(sdf: SdfConfig) -> Path:
    """Return the file of the sphere that fits these flags; ConfigError where none is shipped."""
    path = sphere_asset(sdf)
    if not path.is_file():
        raise ConfigError(
            f"init_sphere 1: no sphere is at {path}; make it with `{typed('train')} "
            "--config_filepath configs/fit_sphere.txt "
            f"--model_activation_sdf {sdf.model_activation_sdf} --model_hidden_dims_sdf "
            f"{sdf.model_hidden_dims_sdf} --model_hidden_layers_sdf "
            f"{sdf.model_hidden_layers_sdf} --restart 1`, or give --init_sphere 0")
    return path


def starts_as_sphere(sdf: SdfConfig) -> bool:
    """Return whether these flags make random weights that are a sphere, with no file."""
    return bool(sdf.init_sphere) and sdf.model_activation_sdf in ("relu", "softplus")


def sphere_asset(sdf: SdfConfig) -> Path:
    """Return where the sphere that fits these flags is shipped, or would be."""
    name = f"sphere_ours_{sdf.model_activation_sdf}_{sdf.model_hidden_dims_sdf}" \
           f"x{sdf.model_hidden_layers_sdf}"
    layers = re.findall(r"\d+", sdf.model_skips_sdf)
    if layers:
        name += f"_skip{'to'.join(layers)}"
    if sdf.posenc_sdf != "none":
        name += f"_{sdf.posenc_sdf}{sdf.posenc_sdf_bands}"
    return ASSETS / f"{name}.pth"
