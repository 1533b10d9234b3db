"""Values of flags that mean several things, or hang on another flag."""
from __future__ import annotations

import re
from dataclasses import replace

from utils.config.sections import LossConfig, SdfConfig
from utils.errors import ConfigError

MESH_FORMATS = ("ply", "obj", "glb")
VIDEO_STREAMS = ("color", "normals", "shaded", "depth", "mask")
#: Weight of the eikonal term under `--model idr`, as in IDR.
IDR_EIKONAL_WEIGHT = 0.1


def mesh_formats(text: str) -> list[str]:
    """Return the formats of `--mesh_formats`; raise ConfigError for an unknown one."""
    return _words(text, "mesh_formats", MESH_FORMATS, ", or none")


def video_streams(text: str) -> list[str]:
    """Return the streams of `--video_streams`; raise ConfigError for an unknown one, or none."""
    streams = list(dict.fromkeys(_words(text, "video_streams", VIDEO_STREAMS, "")))
    if not streams:
        raise ConfigError("--video_streams names nothing, needed any of "
                          f"{', '.join(VIDEO_STREAMS)}; or give --test_spacetime_video 0")
    return streams


def _words(text: str, flag: str, known: tuple[str, ...], otherwise: str) -> list[str]:
    """Return the words of a flag but `none`; raise ConfigError for one that is not known."""
    words = [word for word in text.replace(",", " ").split() if word != "none"]
    unknown = sorted(set(words) - set(known))
    if unknown:
        raise ConfigError(f"--{flag} has {', '.join(unknown)}, needed any of {', '.join(known)}"
                          f"{otherwise}")
    return words


def parse_resolution(text: str, *, flag: str = "resolution") -> tuple[int, int]:
    """Return (W, H) of a text such as `128x96`; raise ConfigError that names the flag otherwise."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text)
    if not found:
        raise ConfigError(f"--{flag} is {text!r}, need WIDTHxHEIGHT in pixels, e.g. 128x96")
    return int(found[1]), int(found[2])


def crop_size(text: str) -> tuple[int, int]:
    """Return (w, h) of `--target_crop`; raise ConfigError where it is no size."""
    words = text.lower().split("x")
    if len(words) not in (1, 2) or not all(word.isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--target_crop is '{text}', needed N or WxH in pixels, such as 256 or "
                          "320x240")
    return int(words[0]), int(words[-1])


def losses_of(loss: LossConfig, sdf: SdfConfig) -> LossConfig:
    """Return the losses with the weight of the eikonal term that `--model` stands for."""
    if sdf.model != "idr" or not loss.opt_sdf_eikonal_w:
        return loss
    return replace(loss, opt_sdf_eikonal_w=IDR_EIKONAL_WEIGHT)
