"""The flags of losses, meta-learning, tests, pre-training, scene making and the benchmark.

Fields are made as in `utils/config/sections.py`; `utils/config/parser.py` parses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.sections import flag, switch

IMAGE_LOSS = "the image and soft-mask losses act on the shape whenever it is trained"


@dataclass(frozen=True)
class TrainedPartsConfig:
    """Which parts of the model are trained."""

    train_decoder_sdf: int = switch(1, "1: train the SDF network")
    train_image_encoder: int = switch(1, "1: train the image encoder")
    train_feature_decoder: int = switch(1, "1: train the feature decoder")
    train_feature_blending: int = switch(1, "1: train the aggregation")
    train_decoder_color: int = switch(0, "train a colour network",
                                      no_effect="there is no colour network")


@dataclass(frozen=True)
class LossConfig:
    """Which losses there are, and their weights."""

    color_loss: str = flag("l2", "image loss", choices=("l2", "l1", "smooth_l1"))
    image_loss_region: str = flag("all", "what the image loss is averaged over: all pixels (as "
                                  "the release) or the foreground (as the paper)",
                                  choices=("all", "foreground"))
    opt_sdf_onsurface: int = switch(1, "1: |SDF| on known surface points")
    opt_sdf_offsurface: int = switch(1, "1: exp(-100 |SDF|) away from known surface points")
    opt_sdf_normal: int = switch(1, "1: 1 - cos of normals at known surface points")
    opt_sdf_eikonal: int = switch(1, "1: the eikonal term")
    opt_sdf_eikonal_w: float = flag(1.0, "weight of the eikonal term", minimum=0)
    opt_sdf_direct: int = switch(0, "1: SDF values themselves at known points")
    loss_eikonal_metric: str = flag("l1", "norm of the eikonal term", choices=("l1", "l2"))
    regularize_weights_sdf: float = flag(0.0, "weight decay of the SDF network",
                                         no_effect="its weights are not regularised")
    opt_render_shape: int = switch(0, "image loss on the shape", no_effect=IMAGE_LOSS)
    opt_render_softmask: int = switch(0, "soft-mask loss", no_effect=IMAGE_LOSS)
    opt_render_color: int = switch(0, "loss of a colour network",
                                   no_effect="there is no colour network")
    opt_sdf_color: int = switch(0, "colour at surface points",
                                no_effect="there is no colour network")
    opt_sdf_front: int = switch(0, "SDF in front of the surface",
                                no_effect="the soft-mask loss keeps free space free")
    opt_sdf_rear: int = switch(0, "SDF behind the surface",
                               no_effect="the soft-mask loss keeps the object filled")
    opt_sdf_lapl: int = switch(0, "Laplacian of the SDF", no_effect="there is no such loss")
    opt_sdf_curvature: int = switch(0, "curvature of the SDF", no_effect="there is no such loss")
    opt_rays_sdf_curvature: int = switch(0, "curvature along rays",
                                         no_effect="there is no such loss")
    opt_perceptual_loss: int = switch(0, "perceptual loss",
                                      no_effect="color_loss is the image loss")
    batch_size_2d: int = flag(65536, "rays of a step",
                              no_effect="a step takes whole images, image_batch_size of them")


@dataclass(frozen=True)
class MetaConfig:
    """Meta-learning by Reptile, and starting from what it learned."""

    num_meta_steps: int = flag(64, "inner steps on one scene", unit="steps", minimum=1)
    meta_lr_type: str = flag("static", "how inner rates are kept",
                             no_effect="inner rates follow meta_inner_*_decay_steps")
    meta_lr: float = flag(1e-1, "rate of the outer step on the SDF network", minimum=0)
    meta_lr_image_factor: float = flag(5.0, "factor on meta_lr for encoder, decoder and "
                                       "aggregation (the paper: 1)", minimum=0)
    meta_lr_decay_factor: float = flag(0.5, "what a decay multiplies meta_lr with", minimum=0)
    meta_lr_decay_steps: int = flag(0, "outer steps between decays of meta_lr; 0: none",
                                    unit="outer steps", minimum=0)
    meta_inner_decay_factor: float = flag(0.5, "what a decay multiplies inner rates with",
                                          minimum=0)
    meta_inner_decay_steps: int = flag(60, "outer steps between decays of the inner rate of "
                                       "encoder, decoder and aggregation; 0: none",
                                       unit="outer steps", minimum=0)
    meta_inner_sdf_decay_steps: int = flag(400, "the same for the SDF network",
                                           unit="outer steps", minimum=0)
    meta_first_order: int = switch(0, "no second derivatives",
                                   no_effect="reptile and fomaml are of first order")
    meta_algorithm: str = flag("reptile", "how the start is learned",
                               choices=("reptile", "fomaml", "maml"))
    meta_initialization: str = flag("", "checkpoint of a meta-learned start")
    meta_parts: str = flag("all", "what is taken from it: the shape (sdf), the image networks "
                           "(features: encoder, decoder, aggregation), or all",
                           choices=("all", "sdf", "features"))
    meta_batch_size: int = flag(0, "scenes of an outer step, whose updates are averaged; 0: one "
                                "for each process", minimum=0)
    meta_eval_path: str = flag("", "a withheld scene, or a folder of them, that the start is tried "
                               "on when eval_steps or eval_interval say so")
    meta_eval_steps: int = flag(30, "steps of such a trial", unit="steps", minimum=1)
    max_image_side: int = flag(0, "images with longer sides are made smaller to this when scenes "
                               "are read, after load_im_scale; 0: none are", unit="pixels",
                               minimum=0)
    scene_memory_mb: int = flag(2048, "pixels of all scenes in memory, the one in use and the one "
                                "that is read among them, in each process, and as much again for "
                                "withheld scenes; a scene that alone is larger is read all the "
                                "same", unit="MiB", minimum=1)


#: What train_sdf_ibr_meta.py and test_sdf_ibr_meta.py have other defaults for (METHOD 7); in
#: meta-training an epoch is one outer step.
META_DEFAULTS = {"num_epochs": 300, "occ_threshold": (5e-4,), "occ_threshold_steps": ()}
SPECIALISE_DEFAULTS = {
    "occ_threshold_steps": (3000, 8000), "eval_interval": 100,
    "eval_steps": (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 125, 200)}


@dataclass(frozen=True)
class TestConfig:
    """What an evaluation computes and writes."""

    __test__ = False

    is_test_only: int = switch(1, "1: evaluate only; 0: train first (specialisation)")
    checkpoint_path_test: str = flag("", "checkpoint to evaluate; empty: the run's latest")
    image_crop: tuple[int, ...] = flag((), "crop of the video's frames: left top width height",
                                       unit="pixels", element=int, length=4, minimum=0)
    test_plot: int = switch(1, "1: plots of SDF slices")
    test_rt: int = switch(1, "1: rendered views")
    test_spacetime_video: int = switch(1, "1: a video of new views")
    test_cameras: int = switch(1, "1: a plot of the cameras")
    test_metrics: int = switch(1, "1: the table of figures")
    benchmark_all_views: int = switch(0, "1: figures of every view, not of the withheld alone",
                                      aliases=("benchark_all_views",))
    lpips_weights: str = flag("", "file of LPIPS weights; empty: those of the lpips extra")
    mesh_resolution: int = flag(256, "marching-cubes samples along an edge", minimum=8)
    mesh_formats: str = flag("ply,obj,glb", "mesh files, any of ply, obj, glb; none: no mesh")
    video_num_frames: int = flag(150, "frames of the video", unit="frames", minimum=1)
    video_fps: float = flag(30.0, "frames a second", unit="1/s", minimum=1)
    video_path_type: str = flag("interpolate", "camera path of the video",
                                choices=("interpolate", "eight", "linear"))
    video_yaw: float = flag(180.0, "range of the path", unit="degrees")
    video_pivot_offset: tuple[float, ...] = flag((0.0, 0.0, 0.0), "shift of the path's pivot",
                                                 unit="world units", element=float, length=3)
    video_save_frames: int = switch(0, "1: write every frame as a picture too")


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of encoder and decoder on pairs of images with optical flow."""

    convolution_type: str = flag("standard", "convolutions of encoder and decoder",
                                 choices=("standard", "partial", "meta"))
    input_image_loss: int = switch(1, "1: the first image itself is decoded and scored too")
    lr_warmup_steps: int = flag(200, "first steps, in which the rate rises to lr; at once, most "
                                "features of the encoder die in the first ten", unit="steps",
                                minimum=0)
    crop_size: str = flag("256x192", "random crops that are trained on, WxH; size of made pairs",
                          unit="pixels")
    num_workers: int = flag(0, "processes that prepare pairs; 0: the training process itself",
                            minimum=0)
    num_micro_batches: int = flag(0, "parts of a batch, each normalised by its own statistics; "
                                  "their gradients are averaged; 0: as the run so far, else one a "
                                  "process", minimum=0)
    pictures: str = flag("", "folder of pictures that made pairs are textured with; empty: "
                         "procedural textures")
    eval_path: str = flag("", "folder of withheld pairs that are scored; empty: made ones")


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
