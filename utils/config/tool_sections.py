"""The flags of losses, meta-learning, tests, pre-training, scene making and the benchmark.

Fields are made as in `utils/config/sections.py`; `utils/config/parser.py` parses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.flags import flag, switch


@dataclass(frozen=True)
class MakeSceneConfig:
    """What the scene generator makes."""

    output: str = flag("", "folder that is written (required)")
    kind: str = flag("all", "kind of the object; all: each in turn")
    seed: int = flag(0, "seed of shape, texture, light and cameras", minimum=0)
    num_scenes: int = flag(1, "scenes to make, each in a folder of its own if several", minimum=1)
    num_views: int = flag(49, "views of a scene", minimum=2)
    arrangement: str = flag("dtu", "cameras: an arc, a row, or the full sphere",
                            choices=("dtu", "nlr", "sphere"))
    resolution: str = flag("128x96", "size of the images, WxH", unit="pixels")
    scene_format: str = flag("processed", "format of the folder", choices=("processed", "idr"))
    supersampling: int = flag(3, "rays along each side of a pixel", minimum=1)
    overwrite: int = switch(0, "1: replace an earlier scene in the same folder")


@dataclass(frozen=True)
class MakeFlowConfig:
    """What the generator of image pairs with flow makes."""

    output: str = flag("", "folder that is written (required)")
    num_pairs: int = flag(100, "pairs to make", minimum=1)
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
                                "photos"))
    background: str = flag("none", "colour of a plain background to make masks from; none: masks "
                           "are files or alpha", choices=("none", "black", "white", "auto"))
    clean_masks: int = switch(0, "1: small holes and specks of the masks are removed")
    normalization: str = flag("auto", "what centre and radius come from; auto: the first there is",
                              choices=("auto", "given", "masks", "points", "cameras"))
    max_size: int = flag(800, "longest side of the images written; 0: as they are", unit="pixels",
                         minimum=0)
    scene_format: str = flag("processed", "format of the folder", choices=("processed", "idr"))
    num_threads: int = flag(0, "threads of the search for cameras; 0: all", minimum=0)
    overwrite: int = switch(0, "1: replace an earlier scene in the same folder")


@dataclass(frozen=True)
class CheckConfig:
    """What the check of a scene writes."""

    check_sheet: str = flag("", "picture that is written; empty: logs/check/SCENE.png")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What the benchmark measures."""

    device: str = flag("auto", "where to compute; auto: CUDA if there is one",
                       choices=("auto", "cpu", "cuda"))
    resolution: str = flag("128x96", "size of the images, WxH", unit="pixels")
    scene: str = flag("", "folder of the scene; empty: one is made")
    repeats: int = flag(3, "runs of each measurement", minimum=1)
    sweep: int = switch(0, "1: also how the figures grow from 100x75 to 800x600 and 3 to 49 views")
    json: str = flag("", "file that the figures are written to; empty: none")


@dataclass(frozen=True)
class RunTableConfig:
    """Which runs make a table, and what stands in it."""

    configs: tuple[str, ...] = flag((), "config files, each a row of the table", element=str)
    scenes: tuple[str, ...] = flag((), "folders of scenes", element=str)
    seeds: tuple[int, ...] = flag((0,), "seeds of each config and scene", element=int, minimum=0)
    num_steps: int = flag(-1, "steps of a run; -1: as its config says", unit="steps", minimum=-1)
    time_limit: float = flag(0.0, "training time of a run; 0: as its config says", unit="s",
                             minimum=0)
    meta_initialization: str = flag("", "checkpoint of the meta-learned start of configs that have "
                                    "meta_parts or meta_initialization")
    run_flags: str = flag("", "further flags of every run, in one pair of quotes", many=True)
    output: str = flag("tables", "folder of the table; runs are in its folder runs")
    at_steps: tuple[int, ...] = flag((), "also the PSNR after so many steps", unit="steps",
                                     element=int, minimum=0)
    at_seconds: tuple[float, ...] = flag((), "also the PSNR after so much training time", unit="s",
                                         element=float, minimum=0)
    print_commands: int = switch(0, "1: print a line for each run that is not finished, and run "
                                 "nothing", bare=True)
    table_only: int = switch(0, "1: make the table of what is finished, and run nothing",
                             bare=True)


@dataclass(frozen=True)
class CompareConfig:
    """Which finished runs are put side by side."""

    runs: tuple[str, ...] = flag((), "folders of finished runs of one scene", element=str)
    labels: tuple[str, ...] = flag((), "a name for each, _ for a space; none: the folders' names",
                                   element=str)
    comparison: str = flag("comparison.png", "the sheet of pictures that is written")
