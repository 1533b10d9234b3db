"""What the released code's flags mean here: those without effect, and values that are refused.

A flag without effect changed nothing in the release either. It is accepted, warned of once where a
user gives it, listed in the help and kept in the saved config. The sections declare only what is
read.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from utils.config.flags import Flag, declared_flags
from utils.config.sections import (
    CnnConfig,
    DataConfig,
    LossConfig,
    RatesConfig,
    TracingConfig,
    TrainedPartsConfig,
)
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError

log = logging.getLogger(__name__)


def _idle(name: str, default: Any, text: str, why: str, *, unit: str = "") -> Flag:
    """Return a flag without effect."""
    return Flag(name, default, text, unit=unit, no_effect=why)


def _idle_switch(name: str, default: int, text: str, why: str) -> Flag:
    """Return a flag without effect that is 0 or 1."""
    return Flag(name, default, text, choices=(0, 1), no_effect=why)


_BOTH_LOSSES = "the image and soft-mask losses act on the shape whenever it is trained"
_NO_COLOUR = "there is no colour network"
_NO_LOSS = "there is no such loss"

#: Flags without effect by the section that they are saved with: name, default, help, and why.
NO_EFFECT: dict[type, tuple[Flag, ...]] = {
    RatesConfig: (
        _idle("lr_agg_decay_steps", 0, "decay interval of the aggregation's rate",
              "lr_encdec_decay_steps holds for the aggregation too", unit="steps"),
    ),
    CnnConfig: (
        _idle("model_image_decoder_depth", 2, "stages of the decoder",
              "the decoder has three stages"),
    ),
    DataConfig: (
        _idle("dataset_type", "", "kind of the data", "the format is found by looking"),
        _idle("world_pcd_path", "", "a point cloud in world space",
              "the clouds in the scene's folder are read, merged/point_cloud_world.ply first"),
    ),
    TracingConfig: (
        _idle("rt_mask_loss_weight", 0.03, "weight of the soft-mask loss",
              "the weight is 100 / alpha"),
        _idle_switch("rt_bidirectional", 1, "march from both ends",
                     "the tracer always marches from both ends"),
        _idle("rt_num_steps", 16, "sphere-tracing steps", "the tracer takes at most 10 steps"),
        _idle("rt_num_section_steps", 100, "samples of unsettled rays",
              "the tracer takes 100 samples"),
        _idle("rt_num_secant_steps", 8, "secant steps", "the tracer takes 8 secant steps"),
        _idle("rt_step_alpha", 1.0, "length of a step", "the tracer takes full steps"),
    ),
    TrainedPartsConfig: (
        _idle_switch("train_decoder_color", 0, "train a colour network", _NO_COLOUR),
    ),
    LossConfig: (
        _idle("regularize_weights_sdf", 0.0, "weight decay of the SDF network",
              "its weights are not regularised"),
        _idle_switch("opt_render_shape", 0, "image loss on the shape", _BOTH_LOSSES),
        _idle_switch("opt_render_softmask", 0, "soft-mask loss", _BOTH_LOSSES),
        _idle_switch("opt_render_color", 0, "loss of a colour network", _NO_COLOUR),
        _idle_switch("opt_sdf_color", 0, "colour at surface points", _NO_COLOUR),
        _idle_switch("opt_sdf_front", 0, "SDF in front of the surface",
                     "the soft-mask loss keeps free space free"),
        _idle_switch("opt_sdf_rear", 0, "SDF behind the surface",
                     "the soft-mask loss keeps the object filled"),
        _idle_switch("opt_sdf_lapl", 0, "Laplacian of the SDF", _NO_LOSS),
        _idle("opt_sdf_curvature", 0.0, "curvature of the SDF", _NO_LOSS),
        _idle("opt_rays_sdf_curvature", 0.0, "curvature along rays", _NO_LOSS),
        _idle_switch("opt_perceptual_loss", 0, "perceptual loss", "color_loss is the image loss"),
        _idle("batch_size_2d", 65536, "rays of a step",
              "a step takes whole images, image_batch_size of them"),
    ),
    MetaConfig: (
        _idle("meta_lr_type", "static", "how inner rates are kept",
              "inner rates follow meta_inner_*_decay_steps"),
        _idle_switch("meta_first_order", 0, "no second derivatives",
                     "reptile and fomaml are of first order"),
    ),
}

#: Which declared flag each follows in the help and in saved files; the others come last.
FOLLOWS = {"lr_agg_decay_steps": "lr_encdec_decay_steps",
           "model_image_decoder_depth": "model_image_encoder_features",
           "dataset_type": "dataset_path", "world_pcd_path": "dataset_name",
           "meta_lr_type": "num_meta_steps", "meta_first_order": "meta_inner_sdf_decay_steps"}

#: Flags that are read but of which not all values can be followed: those that can, and what to do.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "meta_algorithm": (("reptile", "fomaml"),
                       "second-order MAML never worked; use fomaml, its first order, or reptile"),
    "init_plane": ((0,), "only the sphere is shipped as a start; use init_sphere 1"),
    "fit_plane": ((0,), "only the sphere can be fitted; use fit_sphere 1"),
    "init_regularized": ((0,), "only the sphere is shipped as a start; use init_sphere 1"),
    "load_images": ((1,), "there is nothing to train on without images; leave it out"),
    "is_test_only": ((1,), "tests do not train; use the command that trains, which resumes "
                     "from the run's last checkpoint"),
    "opt_sdf_direct": ((0,), "scenes hold no SDF values; use opt_sdf_onsurface and _offsurface"),
    "load_verbose_record": (("", "0"), "recorded values cannot be read back; leave it out"),
    "lr_alternating_interval": ((0,), "use shape_warmup_steps and shape_interval"),
}


def flags_of(section: type) -> dict[str, Flag]:
    """Return all flags of a section by name, those without effect among them, as they are saved."""
    idle = {flag.name: flag for flag in NO_EFFECT.get(section, ())}
    flags: dict[str, Flag] = {}
    for name, declared in declared_flags(section).items():
        flags[name] = declared
        flags |= {other: idle[other] for other in idle if FOLLOWS.get(other) == name}
    return flags | {name: flag for name, flag in idle.items() if name not in flags}


def refuse_unsupported(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Raise ConfigError for a flag whose value cannot be followed.

    Args:
        values: of all flags, by name.
        sources: where each value is from.
    """
    for name, (followed, cure) in UNSUPPORTED.items():
        if name in values and values[name] not in followed:
            raise ConfigError(f"{sources[name]}: {name} is '{values[name]}', which is not "
                              f"supported: {cure}")


def warn_of_no_effect(given: Iterable[str], flags: dict[str, Flag]) -> None:
    """Warn once, in one line, of the given flags that have no effect."""
    idle = [f"{name} ({flags[name].no_effect})" for name in given if flags[name].no_effect]
    if idle:
        log.warning("accepted without effect, as in the release: %s", ", ".join(idle))
