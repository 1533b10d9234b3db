"""Flags of the release that have no effect here, and values that cannot be followed."""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

from utils.errors import ConfigError

log = logging.getLogger(__name__)

# Flags that this version reads but cannot follow: the values that are fine, and what to say.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "meta_algorithm": (("reptile", "fomaml"),
                       "second-order MAML never worked; use fomaml, its first order, or reptile"),
    "init_plane": ((0,), "only the sphere is shipped as a start; use init_sphere 1"),
    "fit_plane": ((0,), "only the sphere can be fitted; use fit_sphere 1"),
    "init_regularized": ((0,), "only the sphere is shipped as a start; use init_sphere 1"),
    "load_images": ((1,), "there is nothing to train on without images; leave it out"),
    "is_test_only": ((1,), "tests do not train; use train_sdf_ibr.py, which goes on from the "
                     "run's last checkpoint"),
    "opt_sdf_direct": ((0,), "scenes hold no SDF values; use opt_sdf_onsurface and _offsurface"),
    "load_verbose_record": (("", "0"), "recorded values cannot be read back; leave it out"),
    "lr_alternating_interval": ((0,), "use shape_warmup_steps and shape_interval"),
}


def refuse_unsupported(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Raises for a flag whose value this version cannot follow."""
    for name, (fine, message) in UNSUPPORTED.items():
        if name in values and values[name] not in fine:
            raise ConfigError(f"{sources[name]}: {name} is '{values[name]}', which is not "
                              f"supported: {message}")


def warn_of_no_effect(given: Iterable[str], fields: dict[str, dataclasses.Field]) -> None:
    """Names, once and in one line, the given flags that never had an effect."""
    idle = [f"{name} ({fields[name].metadata['no_effect']})" for name in given
            if "no_effect" in fields[name].metadata]
    if idle:
        log.warning("accepted without effect, as in the release: %s", ", ".join(idle))
