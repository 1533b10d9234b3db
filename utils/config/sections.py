"""The flags of a run on one scene: run, rates, networks, views, data, tracing and losses.

Each field is one flag: its name, type and default are the field's, and `flag()` adds the help, the
unit and which values are admitted. Switches are the integers 0 and 1. Flags of the released code
that have no effect are not here but in `released_flags`.
"""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.flags import flag, switch


@dataclass(frozen=True)
class RunConfig:
    """Where a run is written, what it starts from, and when it ends."""

    logging_root: str = flag("./logs", "folder of all runs")
    experiment_name: str = flag("", "name of the run: its folder inside logging_root; "
                                "training on one scene takes scene and time where it is absent")
    checkpoint_path: str = flag("", "checkpoint of the whole model to start from")
    checkpoint_strict: int = switch(1, "1: a checkpoint must fit exactly")
    checkpoint_sdf: str = flag("", "checkpoint of the SDF network alone")
    checkpoint_img_encoder: str = flag("", "checkpoint that holds the image encoder")
    checkpoint_img_decoder: str = flag("", "checkpoint that holds the feature decoder")
    checkpoint_aggregation_mlp: str = flag("", "checkpoint that holds the aggregation MLP")
    resume: int = switch(1, "1: a run that is started again resumes where it stopped")
    restart: int = switch(0, "1: start from the beginning; deletes this run's earlier files")
    verbose_logging: int = switch(0, "1: log more, and more often")
    load_verbose_record: str = flag("", "recorded values of an earlier run")
    load_model_poses: int = switch(0, "1: take the cameras that the checkpoint holds")
    device: str = flag("auto", "where to compute; auto: CUDA if there is one",
                       choices=("auto", "cpu", "cuda"))
    batch_size: int = flag(32768, "points of the eikonal term; pre-training: image pairs",
                           minimum=1)
    num_epochs: int = flag(3000, "an epoch is total_number_source_views draws of a training view; "
                           "in meta-training those of all scenes, each an outer step; in "
                           "pre-training all pairs once", minimum=0)
    num_steps: int = flag(-1, "training steps, instead of num_epochs; -1: as num_epochs says",
                          unit="steps", minimum=-1)
    time_limit: float = flag(0.0, "stop and save after this time; 0: none", unit="s", minimum=0)
    epochs_til_ckpt: int = flag(1, "epochs between checkpoints", unit="epochs", minimum=1)
    steps_til_ckpt: int = flag(-1, "steps between checkpoints; -1: as epochs_til_ckpt says",
                               unit="steps", minimum=-1)
    keep_checkpoints: int = flag(3, "how many of the latest checkpoints are kept", minimum=1)
    steps_til_summary: int = flag(1, "steps between scalars in TensorBoard; 0: none",
                                  unit="steps", minimum=0)
    steps_til_pictures: int = flag(100, "steps between image grids, the first with the first "
                                   "scores; 0: none", unit="steps", minimum=0)
    image_batch_size: int = flag(4, "target views of a step (l in the paper)", minimum=1)
    seed: int = flag(0, "seed of everything random", minimum=0)
    num_threads: int = flag(0, "CPU threads; 0: as torch chooses", minimum=0)
    eval_steps: tuple[int, ...] = flag((), "steps at which held-out views are scored: 50,100,200",
                                       unit="steps", element=int, minimum=0)
    eval_interval: int = flag(0, "score held-out views every so many steps; 0: never",
                              unit="steps", minimum=0)


@dataclass(frozen=True)
class RatesConfig:
    """Learning rates, and which steps train the shape."""

    lr: float = flag(1e-4, "learning rate of encoder, decoder and aggregation", minimum=0)
    lr_sdf: float = flag(5e-5, "learning rate of the SDF network", minimum=0)
    lr_decay_factor: float = flag(0.5, "factor of each decay of the learning rates", minimum=0)
    lr_sdf_decay_steps: int = flag(0, "decay interval of lr_sdf; 0: none", unit="steps", minimum=0)
    lr_encdec_decay_steps: int = flag(0, "decay interval of lr; 0: none", unit="steps", minimum=0)
    lr_image_warmup_steps: int = flag(0, "first steps over which lr rises from 0; 0: none",
                                      unit="steps", minimum=0)
    lr_sdf_warmup_steps: int = flag(0, "first steps over which lr_sdf rises from 0; 0: none",
                                    unit="steps", minimum=0)
    lr_alternating_interval: int = flag(0, "steps between shape and image training",
                                        unit="steps", minimum=0)
    clip_gradients: str = flag("whole", "what is clipped to norm 1: the whole gradient, as the "
                               "released code does; or parts: that of the SDF, and that of "
                               "encoder, aggregation and decoder", choices=("whole", "parts"))
    average_decay: float = flag(0.9, "decay of the moving average of encoder, aggregation and "
                                "decoder that renders views; 0: as after the last step",
                                minimum=0)
    shape_warmup_steps: int = flag(-1, "first steps, all of which train the shape; -1: by "
                                   "dataset_name (dtu 50, nlr 100, shapenet 2000)",
                                    unit="steps", minimum=-1)
    shape_interval: int = flag(-1, "afterwards every so many steps train the shape; -1: by "
                               "dataset_name (dtu 7, nlr 3, shapenet 5)", unit="steps", minimum=-1)


@dataclass(frozen=True)
class SdfConfig:
    """The SDF network and what it starts as."""

    model: str = flag("ours", "idr: the eikonal term weighs 0.1; nothing else depends on it",
                      choices=("ours", "idr", "deepsdf"))
    model_activation_sdf: str = flag("sine", "non-linearity of the hidden layers",
                                     choices=("sine", "relu", "softplus", "swish", "elu", "selu",
                                              "tanh", "sigmoid"))
    model_hidden_layers_sdf: int = flag(3, "hidden layers, without the first and the last",
                                        minimum=0)
    model_hidden_dims_sdf: int = flag(128, "width of the hidden layers", minimum=1)
    model_skips_sdf: str = flag("", "skip connection, a pair i,j of layers; none: no skip",
                                many=True)
    feature_vector: int = flag(-1, "length of a feature vector beside the SDF; 0 or -1: none",
                               minimum=-1)
    posenc_sdf: str = flag("none", "encoding of the points",
                           choices=("none", "nerf", "idr", "ff"))
    posenc_sdf_bands: int = flag(0, "frequency bands of the encoding; 0: 10 for "
                                 "nerf, none for idr and ff", minimum=0)
    posenc_sdf_sigma: float = flag(1.0, "spread of the random frequencies (ff)", minimum=0)
    posenc_sdf_expbands: int = switch(0, "1: the bands of idr grow as powers of two")
    init_sphere: int = switch(0, "1: start from the shipped sphere of radius 0.5, with relu and "
                              "softplus from weights drawn for it")
    init: str = flag("sphere", "what the surface starts as: the sphere, as init_sphere says; the "
                     "visual hull of the training masks; a surface by stereo inside the hull; or "
                     "auto: the best of these by rendering the training views from each other",
                     choices=("sphere", "hull", "stereo", "auto"))
    start_shape_steps: int = flag(0, "steps that train the shape alone before the first step, by "
                                  "photo-consistency, masks and eikonal term, where the surface "
                                  "starts as hull or stereo", unit="steps", minimum=0)
    init_regularized: int = switch(0, "1: start from weights that were fitted with regularisation")
    fit_sphere: int = switch(0, "1: fit the SDF to the sphere, nothing else")
    init_plane: int = switch(0, "1: start from a plane")
    fit_plane: int = switch(0, "1: fit the SDF to a plane, nothing else")


@dataclass(frozen=True)
class CnnConfig:
    """The image encoder and the feature decoder."""

    model_image_encoder_depth: int = flag(3, "stages of the encoder's trunk",
                                          choices=(1, 2, 3, 4, 5))
    model_image_encoder_features: int = flag(16, "feature channels of a pixel", minimum=1)
    feature_type: str = flag("learned", "what is gathered from the source views",
                             choices=("learned", "rgb"))
    image_encoder: str = flag("auto", "trunk of the encoder: residual blocks, or plain as in the "
                              "release; auto: by the weights it starts from",
                              choices=("auto", "residual", "plain"))
    encoder_init: str = flag("torch", "random weights of the encoder's skip and up paths: torch: "
                             "PyTorch's default, as the release; he: larger by sqrt(6), biases 0, "
                             "so that features live and training from scratch is faster",
                             choices=("torch", "he"))
    precision: str = flag("auto", "of E, G and D in training; auto: bf16 with --tracer fast where "
                          "the processor computes it, else fp32", choices=("auto", "fp32", "bf16"))
    memory_format: str = flag("auto", "how maps and weights of E and D lie in memory; auto: "
                              "channels_last in bf16, channels_first in fp32",
                              choices=("auto", "channels_first", "channels_last"))
    compile_networks: int = switch(0, "1: E and D are compiled by torch.compile for training, "
                                   "which takes a minute at the start and a compiler")
    resnet_weights: str = flag("", "file of ResNet-18 weights with torchvision's names")


@dataclass(frozen=True)
class ViewsConfig:
    """Which source views a target is rendered from, and how."""

    feature_aggregation_method: str = flag(
        "learned", "weights of the source views at a pixel; learned_prior: a learned factor, 1 "
        "before training, times lumigraph_epipolar's",
        choices=("sum", "mean", "lumigraph", "lumigraph_epipolar", "learned", "learned_prior"))
    source_views_per_target: int = flag(25, "source views of a step (k in the paper); -1: all",
                                        minimum=-1)
    total_number_source_views: int = flag(-1, "draws of an epoch; -1: one of each training view",
                                          minimum=-1)
    source_view_selection_mode: str = flag("random", "how source views are chosen",
                                           choices=("random", "nearest"))
    occlusion_method: str = flag("raytrace", "what tells whether a source sees a point",
                                 choices=("raytrace", "correlation", "agreement"))
    sampling: str = flag("ours", "how source views are sampled; release: pixels whose ray misses "
                         "take features at the point of minimum SDF, source masks are read at the "
                         "nearest pixel, maps are 0 beyond their borders, samples that sum to 0 do "
                         "not count; slower", choices=("ours", "release"))
    blend_residuals: int = switch(0, "1: what decoder and encoder lose of the source photographs "
                                  "is blended as the features are, and added to the image")
    refine_cameras: int = switch(0, "1: all training cameras but the first are trained too, after "
                                 "the first steps, which all train the shape")
    lr_cameras: float = flag(5e-4, "learning rate of the refined cameras: radians, and "
                             "translations as a fraction of the distance; it decays as lr",
                             minimum=0)
    target_crop: str = flag("", "size, N or WxH, of the crops of its targets that a step renders, "
                            "for images that do not fit into memory; empty: whole targets",
                            unit="pixels")
    cuda_graphs: int = switch(0, "1: image steps and frames are recorded once, as CUDA graphs, and "
                              "replayed; whole targets and given cameras only. On a CPU, for "
                              "trials, their operations are repeated, which saves nothing")


@dataclass(frozen=True)
class DataConfig:
    """The scene: folder, views, scale, normalisation."""

    dataset_path: str = flag("", "folder of the scene; for meta-learning the folder of scenes")
    dataset_name: str = flag("", "whose named split and shape schedule hold",
                             choices=("", "dtu", "nlr", "shapenet"))
    load_pcd: int = switch(1, "1: read the scene's point cloud where there is one")
    use_pcd: int = switch(1, "1: supervise the shape with the point cloud where there is one")
    load_images: int = switch(1, "1: read the images")
    work_radius: float = flag(0.99, "radius that the object is scaled to", unit="object units",
                              minimum=0)
    scene_radius_scale: float = flag(1.0, "factor on the measured radius", minimum=0)
    scene_normalization: str = flag("cache,yaml,pcd,camera",
                                    "where the model matrix comes from, first found first")
    reference_view: int = flag(-1, "the view that tests look from, and that meta-training "
                               "shows; -1: the middle one",
                               minimum=-1)
    train_views: str = flag("", "training views, ranges and lists: 0-5,9; empty: named split")
    test_views: str = flag("", "held-out views: 0-5,9 or all; empty: named split")
    num_train_views: int = flag(0, "train on this many of the training views, evenly spread among "
                                "them; the held-out views stay the same; 0: on all", minimum=0)
    randomize_cameras: float = flag(0.0, "noise on the training cameras: standard deviation of "
                                    "angles, and of translations as a fraction of the distance",
                                    unit="radians", minimum=0)
    randomize_shifts: float = flag(-1.0, "standard deviation of those translations; -1: as "
                                   "randomize_cameras",
                                   unit="fraction of the distance", minimum=-1)
    load_im_scale: float = flag(1.0, "factor on the size of the images when they are read",
                                minimum=0)
    im_scale: float = flag(1.0, "factor on the size of the video's frames", minimum=0)
    precomputed_3D_point_buffers: str = flag("", "folder of the hits of all views; NAME.pth: "
                                             "files NAME_....pth beside it")
    save_3D_point_buffers: int = switch(0, "1: write the hits of all views there")
    load_3D_point_buffers: int = switch(0, "1: read the hits of all views from there")


@dataclass(frozen=True)
class TracingConfig:
    """Tracing of rays, the soft mask and the occlusion test."""

    tracer: str = flag("fast", "implementation; both find the same hits",
                       choices=("fast", "reference"))
    rt_num_mask_steps: int = flag(100, "points of a ray searched for the minimum SDF of the soft "
                                  "mask", minimum=2)
    rt_mask_alpha: float = flag(50.0, "sharpness of the soft mask at the start", minimum=0)
    start_mask_alpha: float = flag(0.0, "minimum sharpness where the surface starts as hull or "
                                   "stereo, which rt_mask_alpha would blur; 0: as rt_mask_alpha",
                                   minimum=0)
    rt_mask_alpha_period: int = flag(5000, "steps between doublings of the sharpness; 0: none",
                                     unit="steps", minimum=0)
    rt_mask_alpha_period_epochs: int = flag(-1, "the same in epochs, instead of "
                                            "rt_mask_alpha_period; -1: not used", unit="epochs",
                                            minimum=-1)
    rt_mask_alpha_period_max: int = flag(5, "how often the sharpness is doubled; -1: no limit",
                                         minimum=-1)
    occ_threshold: tuple[float, ...] = flag(
        (1e-3, 1e-4, 1e-5), "squared distance up to which a source sees a point, one a phase",
        unit="object units squared", element=float, minimum=0)
    occ_threshold_steps: tuple[int, ...] = flag(
        (5000, 10000), "steps at which the next phase of occ_threshold begins", unit="steps",
        element=int, minimum=0)


@dataclass(frozen=True)
class TrainedPartsConfig:
    """Which parts of the model are trained."""

    train_decoder_sdf: int = switch(1, "1: train the SDF network")
    train_image_encoder: int = switch(1, "1: train the image encoder")
    train_feature_decoder: int = switch(1, "1: train the feature decoder")
    train_feature_blending: int = switch(1, "1: train the aggregation")
    train_batch_statistics: int = switch(1, "0: batch normalisation of the encoder keeps the "
                                         "running statistics that it starts with, and trains with "
                                         "these instead of those of the batch")


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
    photo_consistency_weight: float = flag(
        0.0, "weight of photo-consistency: windows of the targets should look alike in the "
        "sources, along the surface (1 - NCC); 0: none", minimum=0)
    match_points_weight: float = flag(
        0.0, "weight of |SDF| at points where features of the training photographs match; 0: none",
        minimum=0)
    soft_mask_rim: int = switch(0, "1: rays near the mask's outline count in the silhouette loss "
                                "where they hit inside it, too; without, the surface settles "
                                "ln 2 / alpha inside the mask")
    loss_eikonal_metric: str = flag("l1", "norm of the eikonal term", choices=("l1", "l2"))
