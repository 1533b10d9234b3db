"""Commands that make something to look at in real time of a finished run."""
from __future__ import annotations

import sys
from itertools import takewhile


def export(argv: list[str] | None = None) -> None:
    """Export a finished run as a small file that is shown in real time."""
    from utils.config.parser import META_SECTIONS, parse_config
    from utils.config.tool_sections import ExportConfig
    from utils.files.text import show

    config = parse_config((*META_SECTIONS, ExportConfig), argv)

    from stages.exporting.export import export_scene

    show(export_scene(config))


def web_page(argv: list[str] | None = None) -> None:
    """Make a web page of an exported scene; scene and page may stand alone."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import WebConfig
    from utils.files.text import show

    argv = list(sys.argv[1:] if argv is None else argv)
    plain = list(takewhile(lambda word: not word.startswith("-"), argv))[:2]
    named = [word for pair in zip(("--input", "--output"), plain) for word in pair]
    web = parse_config([WebConfig], named + argv[len(plain):]).web

    from realtime.web_page import write_page

    page = write_page(web.input, web.output, overwrite=bool(web.overwrite))
    show(f"{page}: open it in a browser")


def view(argv: list[str] | None = None) -> None:
    """Show a run or an exported scene live in a browser; it may stand alone."""
    from utils.config.parser import parse_config
    from utils.config.tool_sections import ViewConfig

    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--input")
    flags = parse_config([ViewConfig], argv).view

    from stages.viewing.live import serve

    serve(flags)
