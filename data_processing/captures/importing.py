"""The import of a capture: recognise, read, mask, normalise, check and write a scene folder."""
from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_processing.captures.capture import CapturedView
from data_processing.captures.masks import (
    background_colour,
    clean_mask,
    find_masks,
    mask_from_background,
    plain_background,
)
from data_processing.captures.pinhole_images import fitting_views, pinhole_view, read_photo
from data_processing.captures.recognising import read_capture, recognise
from data_processing.checks.scene_checks import check_scene
from data_processing.checks.sheet import check_sheet, check_text
from data_processing.scenes.folder import check_num_views
from data_processing.scenes.object_space import choose_object_space
from data_processing.scenes.scene import Scene
from data_processing.scenes.world_origin import far_origin, moved_model, moved_view
from data_processing.scenes.writing import REPORT_FILES, check_apart, check_target, write_scene
from utils.command_names import typed
from utils.config.tool_sections import ImportConfig
from utils.errors import ConfigError, SceneError
from utils.files.atomic import write_text_atomic
from utils.geometry.cameras import Cameras, projection_from_intrinsics
from utils.results.pictures import save_png

log = logging.getLogger(__name__)
#: Of the frames that are left out, how many are named; of the others the number is given.
MAX_NAMED_FRAMES = 5
NO_MASKS = ("no masks: every pixel counts as object, so the background is modelled too, the shape "
            "gets no help from outlines and the check cannot use them; better: put masks into "
            "masks/NAME.png, photograph before a plain background and give --background auto")


@dataclass(frozen=True)
class Imported:
    """A scene that is ready to be written, and lines of text that say how it was made."""

    scene: Scene
    notes: tuple[str, ...]


def import_capture(settings: ImportConfig) -> Imported:
    """Read, mask and normalise what the flags name, without writing anything.

    Raises:
        SceneError, ConfigError, MissingExtraError: see the readers.
    """
    if not settings.input or not settings.output:
        raise ConfigError("--input and --output are needed: the folder of the capture and the one "
                          "to write")
    folder = Path(settings.input).expanduser()
    output = Path(settings.output).expanduser()
    source = recognise(folder) if settings.source == "auto" else settings.source
    log.info("%s: read as %s", folder, source)
    work = output.parent / f"{output.name}_colmap"
    if source == "photos":
        check_apart(folder, work, "COLMAP's folder of --output,")
    capture = read_capture(folder, source, work, settings.num_threads)
    mask_files = find_masks(capture.root, capture.views) if settings.background == "none" else \
        [None] * len(capture.views)
    views = tuple(replace(view, mask=file) for view, file in zip(capture.views, mask_files))
    for file in (file for view in views for file in (view.image, view.mask) if file is not None):
        if file.resolve().is_relative_to(output.resolve()):          # through a link in the capture
            check_apart(file.resolve().parent, output)
    views, size, odd = fitting_views(views, settings.max_size)
    pixels = _read_pixels(views, size, capture.least_foreground)
    pixels, from_where, without = _with_masks(pixels, settings)
    cameras = _cameras(pixels, size)
    masks = [p.mask for p in pixels if p.mask is not None]      # of all views, or of none
    scene_masks = torch.stack(masks) if masks else None
    origin = far_origin(cameras.view.numpy())
    cameras = replace(cameras, view=torch.from_numpy(moved_view(cameras.view.numpy(), origin)))
    points = None if capture.points_world is None else capture.points_world - origin
    given = None if capture.model is None else moved_model(capture.model, origin)
    space = choose_object_space(cameras, scene_masks, points, given=given,
                                word=settings.normalization)
    cameras = replace(cameras, model=torch.from_numpy(space.model)).to(torch.float32)
    images = torch.stack([p.image for p in pixels])
    scene = Scene(output.name, images, _all_or(scene_masks, images), cameras,
                  view_names=tuple(p.name for p in pixels), has_masks=scene_masks is not None,
                  world_origin=tuple(origin.tolist()))
    far = f", relative to {origin.tolist()}, as coordinates are far from 0" if origin.any() else ""
    notes = (f"source: {capture.source}, {len(scene)} views of {size[0]}x{size[1]}",
             *_left_out([*capture.left_out, *odd, *without]), f"masks: {from_where}",
             *_background_advice(scene, settings), f"object space: {space.reason}{far}")
    return Imported(scene, notes)


@dataclass(frozen=True)
class _Pixels:
    """One view: image (3, H, W), mask (1, H, W) bool or None, K (3, 3), view (4, 4)."""

    name: str
    image: Tensor
    mask: Tensor | None
    intrinsics: np.ndarray
    view: np.ndarray


def _read_pixels(views: list[CapturedView], size: tuple[int, int],
                 least_foreground: int) -> list[_Pixels]:
    """Read all photographs as pinhole images of one size (W, H)."""
    out = []
    for view in tqdm(views, desc="reading photographs", unit="view"):
        photo = read_photo(view, least_foreground)
        try:
            pinhole = pinhole_view(photo, size)
        except SceneError as problem:
            raise SceneError(f"{view.image}: {problem}") from problem
        mask = None if pinhole.mask is None else torch.from_numpy(pinhole.mask)[None]
        image = torch.from_numpy(np.ascontiguousarray(pinhole.rgb)).permute(2, 0, 1).contiguous()
        out.append(_Pixels(view.name, image, mask, pinhole.intrinsics, view.view))
    return out


def _with_masks(pixels: list[_Pixels], settings: ImportConfig) -> tuple[list[_Pixels], str,
                                                                        list[str]]:
    """Give the views the masks that the flags ask for.

    Returns the views, where the masks are from, and a line for each view left out.
    """
    left_out = []
    if settings.background != "none":
        arrays = [p.image.permute(1, 2, 0).numpy() for p in pixels]
        colour = background_colour(arrays, settings.background)
        pixels = [replace(p, mask=torch.from_numpy(mask_from_background(array, colour))[None])
                  for p, array in zip(pixels, arrays)]
        level = ", ".join(f"{value:.2f}" for value in colour)
        from_where = f"what differs from a background of colour ({level})"
    else:
        with_mask = [p for p in pixels if p.mask is not None]
        if not with_mask:
            return pixels, NO_MASKS, left_out
        left_out = [f"{p.name}: it has no mask, {len(with_mask)} others have"
                    for p in pixels if p.mask is None]
        pixels = with_mask
        check_num_views(Path(settings.input), len(pixels), "views with a mask")
        from_where = "given (files or alpha)"
    if settings.clean_masks:
        pixels = [replace(p, mask=torch.from_numpy(clean_mask(p.mask[0].numpy()))[None])
                  for p in pixels if p.mask is not None]
        from_where += ", cleaned of specks and holes"
    return pixels, from_where, left_out


def _background_advice(scene: Scene, settings: ImportConfig) -> list[str]:
    """Return the command that makes masks, where there are none and the background is plain."""
    word = "" if scene.has_masks else plain_background(
        [image.permute(1, 2, 0).numpy() for image in scene.images])
    if not word:
        return []
    changed = replace(settings, background=word, overwrite=1)
    given = {one.name: str(getattr(changed, one.name)) for one in fields(ImportConfig)
             if getattr(changed, one.name) != one.default}
    flags = shlex.join([part for name, value in given.items() for part in (f"--{name}", value)])
    return [f"the background is plain: make masks from it, else it is modelled too: "
            f"{typed('import')} {flags}"]


def _cameras(pixels: list[_Pixels], size: tuple[int, int]) -> Cameras:
    """Return the views' cameras, float64, with world space as object space."""
    k = torch.from_numpy(np.stack([p.intrinsics for p in pixels]))
    view = torch.from_numpy(np.stack([p.view for p in pixels]))
    return Cameras(view, projection_from_intrinsics(k, size), torch.eye(4).double(), size)


def _all_or(masks: Tensor | None, images: Tensor) -> Tensor:
    """Return the masks, or masks that are all foreground, (V, 1, H, W)."""
    return torch.ones_like(images[:, :1], dtype=torch.bool) if masks is None else masks


def _left_out(lines: list[str]) -> list[str]:
    """Return the report's line on frames that were left out."""
    if not lines:
        return []
    named = "; ".join(lines[:MAX_NAMED_FRAMES])
    more = f"; and {len(lines) - MAX_NAMED_FRAMES} more" if len(lines) > MAX_NAMED_FRAMES else ""
    return [f"{len(lines)} left out: {named}{more}"]


def import_scene(settings: ImportConfig) -> tuple[str, bool]:
    """Read, check and write a scene, which is written even where the check finds errors.

    Args:
        settings: the flags.
    Returns:
        the report, and whether the check found errors.
    Raises:
        ConfigError, SceneError, WriteError, MissingExtraError: nothing was written.
    """
    if not settings.output:
        raise ConfigError("--output is missing: give the scene folder to write, e.g. scenes/mine")
    output = Path(settings.output).expanduser()
    check_apart(Path(settings.input).expanduser(), output)
    check_target(output, settings.scene_format, overwrite=bool(settings.overwrite))
    imported = import_capture(settings)
    result = check_scene(imported.scene)
    picture = check_sheet(imported.scene, result)
    write_scene(imported.scene, output, settings.scene_format,
                overwrite=bool(settings.overwrite))
    report, image = (output / name for name in REPORT_FILES)
    save_png(image, picture)
    text = check_text(result, imported.notes)
    write_text_atomic(report, text)
    return f"{text}written: {output} ({report.name}, {image.name})\n", result.has_errors
