"""A web page that shows an exported scene: no server, no library, no request to anywhere.

The page is a template, a style and one classic script from `realtime/page/`; the parts of the scene
go in as base64. In a single file everything is inside it. In a folder each part is a script of its
own, as pages that are opened from a disk may not read other kinds of files.
"""
from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realtime.archive import DESCRIPTION, MAX_DESCRIPTION_BYTES, open_parts
from realtime.description import migrated
from realtime.glb import read_glb
from realtime.page_blocks import page_sizes, uniform_blocks
from realtime.reading import read_scene
from utils.errors import WriteError
from utils.files.atomic import write_text_atomic
from utils.files.text import visible

log = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().parent / "page"
#: In the order in which they are put together to one script.
SCRIPTS = ("cameras.js", "scene.js", "shaders.js", "renderer.js", "viewer.js", "hands.js")
INDEX, SCRIPT, STYLE, PARTS = "index.html", "viewer.js", "page.css", "parts"
#: The part that holds all uniform blocks, one after the other, float32.
BLOCKS = "blocks"
#: Positions (float32), then the corners of triangles (uint32).
MESH = "mesh"
MARK = re.compile(r"\{\{(\w+)\}\}")


def write_page(scene: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page of an exported scene.

    Args:
        scene: a folder or zip archive (docs/scene_format.md).
        output: a file that ends in .html, or a folder.
        overwrite: an earlier page may be there.
    Returns:
        what is to be opened: the file, or the folder's index.html.
    Raises:
        ExportedSceneError: the scene is missing, damaged or not consistent.
        WriteError: something is there already, or nothing can be written.
    """
    output = Path(output)
    check_page_free(output, overwrite)
    description, parts = _checked_parts(scene)
    is_single = _is_single(output)
    files = {"": page_text(description, parts)} if is_single else page_folder(description, parts)
    for name, text in files.items():
        write_text_atomic(output / name, text)
    log.info("%s: %.1f MB", output, sum(map(len, files.values())) / 1e6)
    return output if is_single else output / INDEX


def page_beside(scene: str | Path) -> Path:
    """Return where the page of an exported scene goes by itself: NAME.html beside it."""
    scene = Path(scene)
    return scene.with_suffix(".html") if scene.suffix.lower() == ".zip" else \
        scene.with_name(f"{scene.name}.html")


def _is_single(output: Path) -> bool:
    return output.suffix.lower() in (".html", ".htm")


def check_page_free(output: Path, overwrite: bool) -> None:
    """Raise WriteError where something else, or something that must stay, is in the way."""
    is_single = _is_single(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    is_page = output.is_file() if is_single else (output / INDEX).is_file()
    if not is_page:
        raise WriteError(f"{output}: something else than a page is there; give another --output")
    if not overwrite:
        raise WriteError(f"{output} exists already; give another --output, or --overwrite 1")


def _checked_parts(scene: str | Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what the page is told and holds, after everything in the scene was read once."""
    read_scene(scene)
    with open_parts(scene) as files:
        content = json.loads(files.read(DESCRIPTION, MAX_DESCRIPTION_BYTES))
        description = migrated(content, f"{scene}: {DESCRIPTION}")
        parts = {part["name"]: files.read(part["name"], part["bytes"])
                 for part in description["parts"]}
    return as_drawn(description, parts)


def as_drawn(description: Mapping[str, Any],
             parts: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return scene.json and parts as the page takes them: uniform blocks in place of weights, and
    of the mesh its positions and triangles alone.

    Args:
        description: content of scene.json.
        parts: name to content of every part.
    """
    blocks, start, places = uniform_blocks(description, parts[description["weights"]]), 0, {}
    for name, numbers in blocks.items():
        places[name] = [start, start + len(numbers)]
        start += len(numbers)
    held = {name: data for name, data in parts.items()
            if name not in (description["weights"], description["mesh"])}
    mesh = read_glb(parts[description["mesh"]], description["mesh"])
    held[MESH] = mesh.vertices_obj.astype("<f4").tobytes() + mesh.faces.astype("<u4").tobytes()
    held[BLOCKS] = b"".join(numbers.tobytes() for numbers in blocks.values())
    views = [{**view, "name": visible(view["name"])} for view in description["views"]]
    loaded = [{"name": name, "bytes": len(data)} for name, data in held.items()
              if name != description["poster"]]
    return {**description, "views": views, "parts": loaded, "sizes": page_sizes(description),
            "blocks": places, "num_vertices": len(mesh.vertices_obj)}, held


def framed_page(scene: str | Path) -> tuple[str, str]:
    """Return the page of an exported scene for a frame of another page, and its scripts' nonce.

    Raises:
        ExportedSceneError: the scene is missing, damaged or not consistent.
    """
    description, parts = _checked_parts(scene)
    return page_text(description, parts), _nonce(description)


def page_text(description: Mapping[str, Any], parts: Mapping[str, bytes]) -> str:
    """Return the page as one file.

    Args:
        description, parts: as `as_drawn` gives them.
    """
    nonce = _nonce(description)
    scripts = [_script(), *(_part_script(name, data) for name, data in parts.items()
                            if name != description["poster"])]
    inside = "\n".join(f'<script nonce="{nonce}">{text}</script>' for text in scripts)
    style = f'<style nonce="{nonce}">{_style(description)}</style>'
    return _filled(description, parts, inside, style)


def page_folder(description: Mapping[str, Any], parts: Mapping[str, bytes]) -> dict[str, str]:
    """Return the files of the page as a folder by name; arguments as in `page_text`."""
    nonce = _nonce(description)
    names = [name for name in parts if name != description["poster"]]
    files = {f"{PARTS}/{number}.js": _part_script(name, parts[name])
             for number, name in enumerate(names)}
    tags = "\n".join(f'<script nonce="{nonce}" src="{path}"></script>'
                     for path in (SCRIPT, *files))
    style = f'<link rel="stylesheet" nonce="{nonce}" href="{STYLE}">'
    index = _filled(description, parts, tags, style)
    return {INDEX: index, SCRIPT: _script(), STYLE: _style(description), **files}


def _script() -> str:
    """Return the page's script."""
    texts = ((SOURCES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return '"use strict";\n' + "\n".join(texts)


def _style(description: Mapping[str, Any]) -> str:
    """Return the page's style; it knows the shape of the picture before there is one."""
    width, height = description["resolution"]
    return (f":root {{ --aspect: {width} / {height}; }}\n"
            + (SOURCES / STYLE).read_text(encoding="utf-8"))


def _part_script(name: str, data: bytes) -> str:
    """Return the script that hands a part over; names of parts hold plain letters alone.

    Images are compressed as they are, other parts by zlib.
    """
    data = data if name.endswith(".webp") else zlib.compress(data, 9)
    return f'part("{name}", "{base64.b64encode(data).decode("ascii")}");'


def _filled(description: Mapping[str, Any], parts: Mapping[str, bytes], scripts: str,
            style: str) -> str:
    """Return the template with everything in its place; names are text there, never markup."""
    poster = base64.b64encode(parts[description["poster"]]).decode("ascii")
    values = {
        "nonce": _nonce(description), "style": style, "scripts": scripts,
        "name": html.escape(visible(description["name"])),
        "poster": f"data:image/webp;base64,{poster}",
        "scene": json.dumps(description).replace("<", "\\u003c")}
    template = (SOURCES / "page.html").read_text(encoding="utf-8")
    return MARK.sub(lambda match: values[match[1]], template)


def _nonce(description: Mapping[str, Any]) -> str:
    """Return the word that marks the page's own scripts; no name can hold it, as it is a sum."""
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]
