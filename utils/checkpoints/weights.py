"""Networks' weights in files: ours, of single networks, and the official release's."""
from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from utils.checkpoints.released_names import is_release_key, read_release_names
from utils.checkpoints.storage import (
    check_format,
    load_checkpoint,
    load_state,
    name_some,
    save_checkpoint,
)
from utils.config.parser import Config
from utils.config.sections import CnnConfig, RunConfig, SdfConfig
from utils.errors import CheckpointError, ConfigError
from utils.paths import PROJECT_ROOT

log = logging.getLogger(__name__)

ASSETS = PROJECT_ROOT / "assets" / "base"
NETWORKS = ("sdf", "encoder", "aggregation", "decoder")
#: The flag that names one network's file.
FLAG_OF = {"sdf": "checkpoint_sdf", "encoder": "checkpoint_img_encoder",
           "aggregation": "checkpoint_aggregation_mlp", "decoder": "checkpoint_img_decoder"}
#: `--meta_parts`: the networks that a meta-learned start is taken for.
META_PARTS = {"all": NETWORKS, "sdf": ("sdf",), "features": NETWORKS[1:]}
#: A tensor that only the residual trunk has, and the first stage that has it.
RESIDUAL_MARK, MARKED_STAGE = "downsample", "down.layer2."


@dataclass(frozen=True)
class StoredNetworks:
    """What a file holds.

    Attributes:
        networks: network (sdf, encoder, aggregation, decoder) to tensors by name.
        unknown: names of tensors beside them that belong to none of these.
    """

    networks: dict[str, dict[str, Tensor]]
    unknown: tuple[str, ...] = ()

    @property
    def encoder_kind(self) -> str | None:
        """residual or plain, by the tensors; None where they do not tell, as at depth 1 and 2."""
        names = self.networks.get("encoder", ())
        if any(RESIDUAL_MARK in name for name in names):
            return "residual"
        return "plain" if any(MARKED_STAGE in name for name in names) else None

    def convolution_of(self, network: str) -> str | None:
        """standard or partial, for encoder and decoder; partial convolutions have no bias."""
        names = self.networks.get(network, {})
        skips = [name for name in names if name.startswith("skips.") and name.endswith(".weight")]
        if not skips:
            return None
        has_bias = skips[0].removesuffix("weight") + "bias" in names
        return "standard" if has_bias else "partial"


def read_networks(path: str | Path) -> StoredNetworks:
    """Networks of a training checkpoint, a file of networks, or a release file.

    Raises:
        CheckpointError: the file cannot be read, is of a later version, or holds no network.
    """
    state = load_checkpoint(path)
    check_format(state, path)
    return _checked_names(_networks_in(state, path), path)


def _networks_in(state: dict, path: str | Path) -> StoredNetworks:
    """The networks of a loaded file; CheckpointError where there is none."""
    for inner in ("task", "model"):
        state = state[inner] if isinstance(state.get(inner), dict) else state
    if all(isinstance(state.get(name), dict) for name in state if name in NETWORKS) \
            and any(name in state for name in NETWORKS):
        return StoredNetworks({name: state[name] for name in NETWORKS if name in state},
                              _tensors_beside(state, set(NETWORKS)))
    if any(is_release_key(key) for key in state):
        names = read_release_names(key for key in state if isinstance(key, str))
        return StoredNetworks({network: {own: state[key] for own, key in table.items()}
                               for network, table in names.networks.items()}, names.unknown)
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
    return StoredNetworks(networks, _tensors_beside(state, taken))


def _checked_names(stored: StoredNetworks, path: str | Path) -> StoredNetworks:
    """The same, once all names of tensors are text; CheckpointError for others."""
    for network, tensors in stored.networks.items():
        foreign = [name for name in tensors if not isinstance(name, str)]
        if foreign:
            raise CheckpointError(f"{path}: {network} has a tensor named {foreign[0]!r}, needed "
                                  "text; give a checkpoint of a training run")
    return stored


def _tensors_beside(state: dict, taken: set[str]) -> tuple[str, ...]:
    """Names of tensors, alone or in a dictionary, under other keys than `taken`. All else that a
    file holds is not weights: errors, steps, settings."""
    names = []
    for key, value in state.items():
        if key in taken:
            continue
        inner = value.items() if isinstance(value, dict) else ()
        names += [str(key)] * isinstance(value, Tensor)
        names += [f"{key}.{name}" for name, part in inner if isinstance(part, Tensor)]
    return tuple(names)


def save_networks(path: str | Path, **networks: nn.Module) -> None:
    """Write weights of single networks, by the names of NETWORKS."""
    save_checkpoint(path, {name: net.state_dict() for name, net in networks.items()})


def save_sphere(path: Path, sdf: nn.Module, error: dict[str, float]) -> bool:
    """Write a fitted sphere with its errors, unless the one that is there is better.

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
    return True


def sphere_asset(sdf: SdfConfig) -> Path:
    """Where the sphere that fits these flags is shipped, or would be."""
    name = f"sphere_{sdf.model}_{sdf.model_activation_sdf}_{sdf.model_hidden_dims_sdf}" \
           f"x{sdf.model_hidden_layers_sdf}"
    if sdf.posenc_sdf != "none":
        name += f"_{sdf.posenc_sdf}{sdf.posenc_sdf_bands}"
    return ASSETS / f"{name}.pth"


def weight_files(run: RunConfig) -> dict[str, str]:
    """Network to the file that its first weights come from; the flags of one network win.

    A file given as `checkpoint_img_encoder` also brings the decoder that was trained with it.
    """
    files = dict.fromkeys(NETWORKS, run.checkpoint_path)
    encoder = run.checkpoint_img_encoder
    if encoder and "decoder" in read_networks(encoder).networks:
        files["decoder"] = encoder
    return {network: getattr(run, FLAG_OF[network]) or files[network] for network in NETWORKS}


def encoder_kind(cnn: CnnConfig, run: RunConfig, default: str) -> str:
    """`--image_encoder auto`: as in the file that it starts from, residual with ImageNet weights,
    else `default`."""
    if cnn.image_encoder != "auto":
        return cnn.image_encoder
    path = run.checkpoint_img_encoder or run.checkpoint_path
    stored = read_networks(path).encoder_kind if path else None
    return stored or ("residual" if cnn.resnet_weights else default)


def convolution_kinds(run: RunConfig) -> dict[str, str]:
    """Convolutions of encoder and decoder, as in the files that they start from."""
    files = weight_files(run)
    return {network: (read_networks(files[network]).convolution_of(network)
                      if files[network] else None) or "standard"
            for network in ("encoder", "decoder")}


def with_meta_start(config: Config) -> Config:
    """The same configuration, starting from what `--meta_initialization` and `--meta_parts` name.

    Takes our files and the release's. The flag of a single network, where given, wins for it; a
    whole checkpoint (`--checkpoint_path`) stays for the other networks.

    Args:
        config: with the sections run and meta.
    Raises:
        ConfigError: no file is named.
        CheckpointError: the file cannot be read, or holds no network.
    """
    path = config.meta.meta_initialization
    if not path:
        raise ConfigError("--meta_initialization is missing; give the checkpoint of a "
                          "meta-learned start, as train_sdf_ibr_meta.py writes it")
    read_networks(path)
    own = weight_files(replace(config.run, checkpoint_path=""))
    flags = {FLAG_OF[network]: path for network in META_PARTS[config.meta.meta_parts]
             if not own[network]}
    return replace(config, run=replace(config.run, **flags))


def with_checkpoint(config: Config, path: str | Path | None) -> Config:
    """The same configuration, starting from one checkpoint of the whole model and nothing else.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if not path:
        raise CheckpointError(f"no checkpoint is in {config.run.logging_root}/"
                              f"{config.run.experiment_name}; train first, or give "
                              "--checkpoint_path_test FILE")
    read_networks(path)
    run = replace(config.run, checkpoint_path=str(path), checkpoint_sdf="",
                  checkpoint_img_encoder="", checkpoint_img_decoder="",
                  checkpoint_aggregation_mlp="")
    return replace(config, run=run)


def load_first_weights(model: nn.Module, run: RunConfig, sdf: SdfConfig | None = None) -> None:
    """Fill a new model: the sphere, then whatever the checkpoint flags name.

    Args:
        model: with attributes named as NETWORKS, or some of them.
        run: its checkpoint flags.
        sdf: tells the sphere; None for a model without SDF.
    Raises:
        CheckpointError: a file does not fit (`--checkpoint_strict 0` takes what fits).
        ConfigError: no sphere is shipped for these flags.
    """
    files = {network: path for network, path in weight_files(run).items()
             if hasattr(model, network)}
    if sdf is not None and sdf.init_sphere and not files["sdf"]:
        path = sphere_asset(sdf)
        if not path.is_file():
            raise ConfigError(
                f"init_sphere 1: no sphere is at {path}; make it with `python experiment_scripts/"
                "train_sdf_ibr.py --config_filepath configs/fit_sphere.txt "
                f"--model_hidden_dims_sdf {sdf.model_hidden_dims_sdf} --model_hidden_layers_sdf "
                f"{sdf.model_hidden_layers_sdf} --restart 1`, or give --init_sphere 0")
        files["sdf"] = str(path)
    for network, path in files.items():
        if path:
            _load_network(getattr(model, network), network, path,
                          strict=bool(run.checkpoint_strict))


def _load_network(module: nn.Module, network: str, path: str, *, strict: bool) -> None:
    """Fill one network from a file that holds it, perhaps beside others."""
    stored = read_networks(path)
    if stored.unknown:
        told = f"{path} has {name_some('tensors that belong to no network', stored.unknown)}"
        if strict:
            raise CheckpointError(f"{told}; give --checkpoint_strict 0 to leave them out")
        log.warning("%s; they are left out", told)
    if network in stored.networks:
        load_state(module, stored.networks[network], f"{network} of {path}", strict=strict)
        log.info("%s: weights of %s", network, path)
    elif module.state_dict():              # plain RGB has an encoder and a decoder without weights
        told = f"{path} has no {network}; it has {', '.join(stored.networks)}"
        if strict:
            raise CheckpointError(f"{told}; give a file that has it, or --checkpoint_strict 0 to "
                                  f"leave the {network} as it is")
        log.warning("%s; it keeps its first weights", told)
