"""The check of a scene folder, and a copy of it in which mistakes that are certain are undone."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_processing.checks.findings import CheckResult
from data_processing.checks.scene_checks import check_scene, check_with_mistakes
from data_processing.checks.sheet import check_sheet, check_text
from data_processing.checks.states import repaired
from data_processing.scenes.idr_format import is_idr_folder
from data_processing.scenes.scene import Scene, load_scene
from data_processing.scenes.writing import REPORT_FILES, check_apart, check_target, write_scene
from utils.command_names import typed
from utils.config.sections import DataConfig
from utils.config.tool_sections import CheckConfig
from utils.errors import ConfigError
from utils.files.atomic import write_text_atomic
from utils.results.pictures import save_png


def check_folder(data: DataConfig, check: CheckConfig) -> tuple[CheckResult, Path]:
    """Check the scene that the flags name, and write its image grid.

    Returns:
        What was found, and the path of the image grid.
    Raises:
        SceneError, ConfigError, WriteError: see `load_scene`, `save_png`.
    """
    scene = _loaded(data)
    result = check_scene(scene)
    return result, _save_sheet(scene, result, check)


def fix_folder(data: DataConfig, check: CheckConfig) -> tuple[str, bool]:
    """Check a scene, write a copy with its certain mistakes undone, and check the copy.

    The copy has the format of the scene, and its full size. Mistakes of single views stay, as what
    is right for them is not known.

    Returns:
        What was found and done, in lines, and whether the copy (the scene, where nothing was
        written) has errors.
    Raises:
        SceneError, ConfigError, WriteError: nothing was written.
    """
    source, target = Path(data.dataset_path).expanduser(), Path(check.fix).expanduser()
    scene_format = "idr" if is_idr_folder(source) else "processed"
    check_apart(source, target, "--fix", source_name="the scene")
    check_target(target, scene_format, what="--fix")
    scene = _loaded(replace(data, load_im_scale=1.0))
    result, mistakes = check_with_mistakes(scene)
    text = check_text(result)
    if not mistakes:
        path = _save_sheet(scene, result, check)
        return f"{text}picture: {path}\nnothing to undo with certainty: {target} was not " \
               "written\n", result.has_errors
    for mistake in mistakes:
        scene = repaired(scene, mistake)
    write_scene(scene, target, scene_format)
    again = load_scene(target, load_pcd=bool(data.load_pcd), allow_behind=True)
    found = check_scene(again)
    notes = tuple(f"undone: {mistake.found}" for mistake in mistakes)
    report, image = (target / name for name in REPORT_FILES)
    save_png(image, check_sheet(again, found))
    write_text_atomic(report, check_text(found, notes))
    return f"{text}\n{check_text(found, notes)}written: {target} ({report.name}, {image.name})\n", \
        found.has_errors


def _loaded(data: DataConfig) -> Scene:
    """Read the scene that the flags name."""
    if not data.dataset_path:
        raise ConfigError(f"give the folder of a scene: {typed('check')} DIR")
    return load_scene(data.dataset_path, im_scale=data.load_im_scale,
                      scene_normalization=data.scene_normalization, work_radius=data.work_radius,
                      scene_radius_scale=data.scene_radius_scale, load_pcd=bool(data.load_pcd),
                      allow_behind=True)


def _save_sheet(scene: Scene, result: CheckResult, check: CheckConfig) -> Path:
    """Write the image grid of a check, and return its path."""
    path = Path(check.check_sheet or Path("logs") / "check" / f"{scene.name}.png").expanduser()
    save_png(path, check_sheet(scene, result))
    return path
