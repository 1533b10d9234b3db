"""Import a capture into a scene folder, with the report and the picture of its check."""
from __future__ import annotations

from pathlib import Path

from data_processing.checks.sheet import check_sheet, check_text
from data_processing.captures.importing import import_capture
from data_processing.checks.scene_checks import check_scene
from data_processing.scenes.writing import REPORT_FILES, check_target, write_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import ConfigError
from utils.files.atomic import whole_file
from utils.results.pictures import save_png


def import_scene(settings: ImportConfig) -> tuple[str, bool]:
    """Read, check and write; the scene is written even where the check finds errors.

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
    check_target(output, settings.scene_format, overwrite=bool(settings.overwrite))
    imported = import_capture(settings)
    result = check_scene(imported.scene)
    picture = check_sheet(imported.scene, result)
    write_scene(imported.scene, output, settings.scene_format,
                overwrite=bool(settings.overwrite))
    report, image = (output / name for name in REPORT_FILES)
    save_png(image, picture)
    text = check_text(result, imported.notes)
    with whole_file(report) as partial:
        partial.write_text(text, encoding="utf-8")
    return f"{text}written: {output} ({report.name}, {image.name})\n", result.has_errors
