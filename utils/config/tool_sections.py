"""The flags of the tools: synthetic scenes and pairs, import, check, benchmarks, comparisons."""
from __future__ import annotations

from dataclasses import dataclass

from utils.config.flags import flag, switch


@dataclass(frozen=True)
class MakeSceneConfig:
    """Which synthetic scenes are written."""

    output: str = flag("", "folder that is written (required)")
    kind: str = flag("all", "kind of the object; all: one kind after the other; varied: the same "
                     "with looks and photographs as various as real ones")
    seed: int = flag(0, "seed of shape, texture, light and cameras", minimum=0)
    num_scenes: int = flag(1, "scenes to write, each in a folder of its own if several", minimum=1)
    num_views: int = flag(0, "views of a scene; 0: 49, with --arrangement nlr 22", minimum=0)
    arrangement: str = flag("dtu", "cameras: rows on an arc; two wide rows and six views close "
                            "together, which come last; or the full sphere",
                            choices=("dtu", "nlr", "sphere"))
    resolution: str = flag("128x96", "size of the images, WxH", unit="pixels")
    scene_format: str = flag("processed", "format of the folder", choices=("processed", "idr"))
    supersampling: int = flag(3, "rays along each side of a pixel", minimum=1)
    overwrite: int = switch(0, "1: replace an earlier scene in the same folder")


@dataclass(frozen=True)
class MakeFlowConfig:
    """Which synthetic image pairs with flow are written."""

    output: str = flag("", "folder that is written (required)")
    num_pairs: int = flag(100, "pairs to write", minimum=1)
    resolution: str = flag("512x384", "size of the images, WxH", unit="pixels")
    seed: int = flag(0, "seed of all pairs", minimum=0)
    pictures: str = flag("", "folder of pictures for the textures; empty: procedural ones")


@dataclass(frozen=True)
class ImportConfig:
    """What the import of a capture reads and writes."""

    input: str = flag("", "folder of the capture (required)")
    output: str = flag("", "scene folder that is written (required)")
    source: str = flag("auto", "what the capture is; auto: recognised by its files",
                       choices=("auto", "transforms", "colmap", "middlebury", "idr", "processed",
                                "polycam", "metashape", "llff", "matrices", "photos"))
    background: str = flag("none", "colour of a plain background, which masks are made from; none: "
                           "masks are files or alpha", choices=("none", "black", "white", "auto"))
    clean_masks: int = switch(0, "1: remove small holes and specks of the masks")
    normalization: str = flag("auto", "where centre and radius come from; auto: the first there is",
                              choices=("auto", "given", "masks", "points", "cameras"))
    max_size: int = flag(800, "longest side of the images that are written; 0: as they are",
                         unit="pixels", minimum=0)
    scene_format: str = flag("processed", "format of the folder", choices=("processed", "idr"))
    num_threads: int = flag(0, "threads of the search for cameras; 0: all", minimum=0)
    overwrite: int = switch(0, "1: replace an earlier scene in the same folder")


@dataclass(frozen=True)
class CheckConfig:
    """Where the check of a scene is written, and a copy with its mistakes undone."""

    check_sheet: str = flag("", "image grid that is written; empty: logs/check/SCENE.png")
    fix: str = flag("", "folder for a copy of the scene in which mistakes that are certain are "
                    "undone; empty: none")


@dataclass(frozen=True)
class ExportConfig:
    """How a finished run becomes an exported scene."""

    output: str = flag("", "folder that is written, or archive if it ends in .zip (required)")
    overwrite: int = switch(0, "1: replace an earlier exported scene in the same place")
    mesh_tolerance: float = flag(2e-3, "distance by which the simplified mesh may be farther "
                                 "from the surface; 0: no simplifying", unit="object units",
                                 minimum=0)
    virtual_views: int = flag(58, "views that the small networks are taught from, fewer where they "
                              "would not fit into memory", minimum=1)
    distill_steps: int = flag(5000, "gradient steps of teaching; the first half for the decoder "
                              "alone", unit="steps", minimum=0)
    background: str = flag("white", "colour behind the object",
                           choices=("white", "black", "grey"))
    export_scores: int = switch(1, "1: score what each step of the export costs")
    web: int = switch(0, "1: a web page of it beside it, NAME.html")
    textured_mesh: str = flag("", "GLB file, too, of the mesh in world units with the photographs "
                              "as texture, for other programs; empty: none")
    texture_size: int = flag(1024, "side of that texture", unit="texels", minimum=64)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What the benchmark measures."""

    device: str = flag("auto", "where to compute; auto: CUDA if there is one",
                       choices=("auto", "cpu", "cuda"))
    resolution: str = flag("128x96", "size of the images, WxH", unit="pixels")
    scene: str = flag("", "folder of the scene; empty: a synthetic scene")
    repeats: int = flag(3, "runs of each measurement", minimum=1)
    render: int = switch(0, "1: measure pictures of exported scenes at 400x300 and 800x600 "
                         "instead, against full D and the traced SDF")
    sweep: int = switch(0, "1: also measure from 100x75 to 800x600 and with 3 to 49 views")
    json: str = flag("", "file that the measurements are written to; empty: none")


@dataclass(frozen=True)
class GpuConfig:
    """What `measure_gpu.py` measures, and for how long."""

    output: str = flag("", "folder that is written (required)")
    scene: str = flag("", "folder of the scene; empty: a synthetic scene")
    minutes: float = flag(9.0, "time of all parts together", unit="min", minimum=0)
    part: str = flag("all", "the part to measure; all: one after the other, as far as the time "
                     "goes", choices=("all", "tests", "quality", "render", "speed", "profile",
                                      "meta"))
    device: str = flag("auto", "where to compute; auto: CUDA if there is one",
                       choices=("auto", "cpu", "cuda"))
    resolution: str = flag("", "size of the images, WxH; empty: 800x600 on CUDA, 32x24 on a CPU",
                           unit="pixels")


@dataclass(frozen=True)
class RunTableConfig:
    """Which runs a table is made of, and what it contains."""

    configs: tuple[str, ...] = flag((), "config files, each a row of the table", element=str)
    scenes: tuple[str, ...] = flag((), "folders of scenes", element=str)
    seeds: tuple[int, ...] = flag((0,), "seeds of each config and scene", element=int, minimum=0)
    num_steps: int = flag(-1, "steps of a run; -1: as its config says", unit="steps", minimum=-1)
    time_limit: float = flag(0.0, "training time of a run; 0: as its config says", unit="s",
                             minimum=0)
    meta_initialization: str = flag("", "checkpoint of the meta-learned start of configs that have "
                                    "meta_parts or meta_initialization")
    run_flags: str = flag("", "further flags of all runs, in one pair of quotes", many=True)
    output: str = flag("tables", "folder of the table, whose folder runs holds the runs")
    at_steps: tuple[int, ...] = flag((), "also the PSNR after these steps", unit="steps",
                                     element=int, minimum=0)
    at_seconds: tuple[float, ...] = flag((), "also the PSNR after these training times", unit="s",
                                         element=float, minimum=0)
    print_commands: int = switch(0, "1: print a command for each run that is not finished, and "
                                 "run nothing", bare=True)
    table_only: int = switch(0, "1: make the table of what is finished, and run nothing",
                             bare=True)


@dataclass(frozen=True)
class EvaluateMeshConfig:
    """Which mesh is compared with which scan."""

    mesh: str = flag("", "mesh, .ply, in the scan's space (required)")
    dtu_folder: str = flag("", "folder with DTU's Points/stl and ObsMask; empty: none")
    scan: int = flag(0, "number of DTU's scan; 0: none", minimum=0)
    points: str = flag("", "true surface points, .ply, instead of a scan of DTU's; with normals, "
                       "if angles are wanted")
    mesh_json: str = flag("", "file that the distances are written to; empty: none")
    seed: int = flag(0, "seed of the mesh's points", minimum=0)


@dataclass(frozen=True)
class CompareConfig:
    """Which finished runs are compared side by side."""

    runs: tuple[str, ...] = flag((), "folders of finished runs of one scene", element=str)
    labels: tuple[str, ...] = flag((), "a name for each, _ for a space; none: the folders' names",
                                   element=str)
    comparison: str = flag("comparison.png", "the image grid that is written")


@dataclass(frozen=True)
class WebConfig:
    """Which exported scene becomes a web page, and where it is written."""

    input: str = flag("", "exported scene, a folder or .zip (required; may stand alone)")
    output: str = flag("", "page that is written: one file if it ends in .html, else a folder "
                       "(required; may stand alone)")
    overwrite: int = switch(0, "1: replace an earlier page in the same place")


@dataclass(frozen=True)
class ViewConfig:
    """What the live viewer shows, and where it is served."""

    input: str = flag("", "folder of a run, or an exported scene (required; may stand alone)")
    student: str = flag("", "exported scene of that run, which is drawn while the camera moves")
    host: str = flag("127.0.0.1", "address that is served; 0.0.0.0 lets other machines in")
    port: int = flag(8080, "port that is served", minimum=1)
    size: int = flag(600, "rows of the picture when the camera stands still", unit="pixels",
                     minimum=16)
    moving_size: int = flag(300, "rows of the picture while the camera moves", unit="pixels",
                            minimum=60)
    output: str = flag("view", "folder of saved camera paths and videos")
