"""Formats that are not read: named, with the export of the same tool that is."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

#: Characters of a file that tell its format.
HEAD = 4096
COLMAP_EXPORT = "the registration as COLMAP (Workflow > Export > Registration)"


def _head(path: Path) -> str:
    """Return the beginning of a text file; '' where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(HEAD)
    except OSError:
        return ""


def _reality_capture(folder: Path) -> list[Path]:
    """Return RealityCapture's tables of cameras: their first line names the columns."""
    return [path for path in sorted(folder.glob("*.csv"))
            if _head(path).lstrip("#").lower().startswith("name,x,y,alt")]


def _record3d(folder: Path) -> list[Path]:
    """Return Record3D's files: an archive .r3d, or the metadata of an unpacked one."""
    return [*sorted(folder.glob("*.r3d")),
            *(path for base in (folder, folder / "EXR_RGBD")
              for path in (base / "metadata", base / "metadata.json")
              if path.is_file() and any((base / name).is_dir() for name in ("rgbd", "rgb")))]


def _named(*patterns: str) -> Callable[[Path], list[Path]]:
    """Return a test for files by name."""
    return lambda folder: [path for pattern in patterns for path in sorted(folder.glob(pattern))]


#: Test, name of the format, what to export instead.
FORMATS: tuple[tuple[Callable[[Path], list[Path]], str, str], ...] = (
    (_reality_capture, "RealityCapture's table of cameras",
     f"export {COLMAP_EXPORT}, with undistorted images"),
    (_record3d, "Record3D's recording",
     "export 'EXR + RGB sequence' and let nerfstudio convert it: ns-process-data record3d --data "
     "EXR_RGBD --output-dir CAPTURE, which writes transforms.json"),
    (_named("bundle.out", "*/bundle.out", "*.nvm"), "a Bundler or VisualSFM model",
     "export COLMAP or NeRF's transforms.json from the same tool"),
    (_named("cameras.sfm", "*.sfm", "sfm_data.json"), "Meshroom's or OpenMVG's cameras",
     "export COLMAP: Meshroom's node ExportColmap, OpenMVG's openMVG_main_openMVG2Colmap"),
    (_named("*.psx", "*.psz"), "a project of Metashape",
     "export its cameras beside images/: File > Export > Export Cameras, Agisoft XML"),
    (_named("*.rcproj", "*.rsproj"), "a project of RealityCapture", f"export {COLMAP_EXPORT}"),
    (_named("*.zip"), "an archive", "unpack it: unzip FILE.zip -d CAPTURE, and give that folder"))


def foreign_capture(folder: Path) -> tuple[Path, str, str] | None:
    """Return a file of a format that is not read, the format's name and what to export instead.

    Returns:
        None where there is no such file.
    """
    for test, name, cure in FORMATS:
        found = test(folder)
        if found:
            return found[0], name, cure
    return None
