"""The flags of further stages: meta-training, evaluation, pre-training."""
from __future__ import annotations

from dataclasses import dataclass

from utils.config.flags import flag, switch


@dataclass(frozen=True)
class MetaConfig:
    """Meta-learning by Reptile, and starting from its result."""

    num_meta_steps: int = flag(64, "inner steps on one scene; 0: the image networks are trained "
                               "jointly on all scenes, on the surfaces that --init gives them",
                               unit="steps", minimum=0)
    meta_lr: float = flag(1e-1, "learning rate of the outer step on the SDF network", minimum=0)
    meta_lr_image_factor: float = flag(5.0, "factor on meta_lr for encoder, decoder and "
                                       "aggregation (the paper: 1)", minimum=0)
    meta_lr_decay_factor: float = flag(0.5, "factor of each decay of meta_lr", minimum=0)
    meta_lr_decay_steps: int = flag(0, "outer steps between decays of meta_lr; 0: none",
                                    unit="outer steps", minimum=0)
    meta_inner_decay_factor: float = flag(0.5, "factor of each decay of the inner learning rates",
                                          minimum=0)
    meta_inner_decay_steps: int = flag(60, "outer steps between decays of the inner rate of "
                                       "encoder, decoder and aggregation; 0: none",
                                       unit="outer steps", minimum=0)
    meta_inner_sdf_decay_steps: int = flag(400, "the same for the SDF network",
                                           unit="outer steps", minimum=0)
    meta_algorithm: str = flag("reptile", "algorithm that learns the start",
                               choices=("reptile", "fomaml", "maml"))
    meta_initialization: str = flag("", "checkpoint of a meta-learned start")
    meta_parts: str = flag("all", "what is taken from it: the shape (sdf), the image networks "
                           "(features: encoder, decoder, aggregation), or all",
                           choices=("all", "sdf", "features"))
    meta_batch_size: int = flag(0, "scenes of an outer step, whose updates are averaged; 0: one "
                                "for each process", minimum=0)
    meta_eval_path: str = flag("", "a held-out scene, or a folder of them, on which the start is "
                               "evaluated when eval_steps or eval_interval say so")
    meta_eval_steps: int = flag(30, "steps of such an evaluation", unit="steps", minimum=1)
    start_precision: str = flag("fp32", "of the learned start's file; fp16: encoder, decoder and "
                                "aggregation in half the bytes, rounded to 11 bits",
                                choices=("fp32", "fp16"))
    max_image_side: int = flag(0, "longest side of images, to which larger ones are reduced after "
                               "load_im_scale when scenes are read; 0: no limit", unit="pixels",
                               minimum=0)
    scene_memory_mb: int = flag(2048, "bound of the pixels of scenes in memory, in each process, "
                                "the scene in use and the one being read included; as much again "
                                "for held-out scenes; a scene that alone is larger is still read",
                                unit="MiB", minimum=1)
#: Other defaults of train_sdf_ibr_meta.py and test_sdf_ibr_meta.py (docs/method.md, section 7). In
#: meta-training an epoch takes hours, and a checkpoint is written much more often.
META_DEFAULTS = {"num_epochs": 300, "steps_til_ckpt": 5, "occ_threshold": (5e-4,),
                 "occ_threshold_steps": ()}
SPECIALISE_DEFAULTS = {
    "occ_threshold_steps": (3000, 8000), "eval_interval": 100,
    "eval_steps": (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 125, 200)}


@dataclass(frozen=True)
class TestConfig:
    """What an evaluation computes and writes."""

    __test__ = False

    is_test_only: int = switch(1, "1: evaluate only; 0: train first (specialisation)")
    checkpoint_path_test: str = flag("", "checkpoint to evaluate; empty: the run's latest")
    image_crop: tuple[int, ...] = flag((), "also write this crop of the reference view and of its "
                                       "photograph: left, top, width, height",
                                       unit="pixels", element=int, length=4, minimum=0)
    test_plot: int = switch(1, "1: plots of SDF slices")
    test_rt: int = switch(1, "1: rendered views")
    test_spacetime_video: int = switch(1, "1: a video of new views")
    test_cameras: int = switch(1, "1: a plot of the cameras")
    test_metrics: int = switch(1, "1: the table of metrics")
    baseline: int = switch(0, "1: score hull and stereo surfaces with blended source colours, no "
                           "network, on the same views")
    benchmark_all_views: int = switch(0, "1: metrics of all views, not of the held-out views alone",
                                      aliases=("benchark_all_views",))
    eval_all: str = flag("end", "when scores also give the mean PSNR over all held-out views "
                         "(psnr_all) and over the training views, each kept from feeding itself "
                         "(psnr_train): with the results at the end, always, or never; it takes as "
                         "long as rendering all views", choices=("end", "always", "never"))
    lpips_weights: str = flag("", "file of LPIPS weights; empty: those of the lpips extra")
    renderer: str = flag("sdf", "what views are rendered from at the end, for scores, pictures "
                         "and the video: the SDF, which is traced, or its mesh, which is faster "
                         "and has a smooth outline", choices=("sdf", "mesh"))
    mesh_resolution: int = flag(256, "marching-cubes samples along an edge", minimum=8)
    mesh_formats: str = flag("ply,obj,glb", "mesh files, any of ply, obj, glb; none: no mesh")
    report_viewer: int = switch(0, "1: the report begins with the object, to be turned: that of "
                                "scene.zip in the run's folder (metanlr export)")
    video_num_frames: int = flag(150, "frames of the video", unit="frames", minimum=1)
    video_fps: float = flag(30.0, "frames a second", unit="1/s", minimum=1)
    video_path_type: str = flag("interpolate", "camera path of the video",
                                choices=("interpolate", "eight", "linear"))
    video_path: str = flag("", "file of a camera path that `metanlr view` saved, instead of "
                           "video_path_type")
    video_yaw: float = flag(180.0, "range of the path", unit="degrees")
    video_pivot_offset: tuple[float, ...] = flag((0.0, 0.0, 0.0), "offset of the path's pivot",
                                                 unit="object units", element=float, length=3)
    video_save_frames: int = switch(0, "1: write every frame as a picture too")
    video_streams: str = flag("color", "what is filmed, any of color, normals, shaded, depth, "
                              "mask: video.mp4 has the colours, video_STREAM.mp4 another one")


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of encoder and decoder on pairs of images with optical flow."""

    convolution_type: str = flag("standard", "convolutions of encoder and decoder",
                                 choices=("standard", "partial", "meta"))
    color_loss: str = flag("l1", "image loss; the release's default here is l2",
                           choices=("l2", "l1", "smooth_l1"))
    train_image_encoder: int = switch(1, "1: train the image encoder")
    train_feature_decoder: int = switch(1, "1: train the feature decoder")
    input_image_loss: int = switch(1, "1: the first image itself is reconstructed too")
    lr_warmup_steps: int = flag(200, "first steps, in which the learning rate rises to lr; without "
                                "them most features of the encoder die in the first ten",
                                unit="steps", minimum=0)
    crop_size: str = flag("256x192", "random crops to train on, WxH, and size of synthetic pairs",
                          unit="pixels")
    num_workers: int = flag(0, "processes that prepare pairs; 0: the training process itself",
                            minimum=0)
    num_micro_batches: int = flag(0, "parts of a batch, each normalised by its own statistics, "
                                  "whose gradients are averaged; 0: as in the run so far, else one "
                                  "for each process", minimum=0)
    pictures: str = flag("", "folder of pictures for the textures of synthetic pairs; empty: "
                         "procedural textures")
    eval_path: str = flag("", "folder of held-out pairs to score; empty: synthetic pairs")
