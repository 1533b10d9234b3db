"""Commands that write and check scenes and image pairs."""
from __future__ import annotations

import sys


def make_scene(argv: list[str] | None = None) -> None:
    """Write synthetic scenes: photographs, masks, cameras, true surface points."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import MakeSceneConfig

    config = parse_config([MakeSceneConfig], argv)

    from data_processing.synthetic.scenes import make_scene_set

    make_scene_set(config.make_scene)


def import_capture(argv: list[str] | None = None) -> None:
    """Import photographs of your own, or another program's capture, as a scene folder."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import ImportConfig
    from utils.files.text import show

    config = parse_config([ImportConfig], argv)

    from data_processing.captures.importing import import_scene

    report, has_errors = import_scene(config.importing)
    show(report.rstrip("\n"))
    if has_errors:
        sys.exit(1)


def check_scene(argv: list[str] | None = None) -> None:
    """Check whether a scene can be trained on; the folder may stand alone."""
    from utils.config.parser import parse_config
    from utils.config.sections import DataConfig
    from utils.config.tool_sections import CheckConfig
    from utils.files.text import show

    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--dataset_path")
    config = parse_config([DataConfig, CheckConfig], argv)

    from data_processing.checks.folder_checks import check_folder, fix_folder
    from data_processing.checks.sheet import check_text

    if config.check.fix:
        text, has_errors = fix_folder(config.data, config.check)
    else:
        result, path = check_folder(config.data, config.check)
        text, has_errors = f"{check_text(result)}picture: {path}\n", result.has_errors
    show(text.rstrip("\n"))
    if has_errors:
        sys.exit(1)


def make_flow_pairs(argv: list[str] | None = None) -> None:
    """Write synthetic image pairs with exact optical flow and occlusion."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import MakeFlowConfig

    config = parse_config([MakeFlowConfig], argv)

    from data_processing.flow.synthetic_pairs import make_pair_folder

    make_pair_folder(config.make_flow)
