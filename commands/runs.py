"""Commands that train and evaluate networks."""
from __future__ import annotations

#: The commands that share their work between processes.
RANKED = ("pretrain", "meta-train")
PRETRAIN_DEFAULTS = {"batch_size": 16, "num_epochs": 300}


def train(argv: list[str] | None = None) -> None:
    """Train on one scene and write views, mesh, video, metrics and report (NLR++)."""
    from utils.config.parser import TRAIN_SECTIONS, parse_config
    from utils.files.text import show

    config = parse_config(TRAIN_SECTIONS, argv, names_run=True)

    from stages.scene import train_scene
    from stages.shape_fitting import fit_sphere

    show(fit_sphere(config) if config.sdf.fit_sphere else train_scene(config))


def specialize(argv: list[str] | None = None) -> None:
    """Train on one scene from a meta-learned start (MetaNLR++)."""
    from utils.config.parser import META_SECTIONS, parse_config
    from utils.config.stage_sections import SPECIALISE_DEFAULTS
    from utils.files.text import show

    config = parse_config(META_SECTIONS, argv, defaults=SPECIALISE_DEFAULTS, names_run=True)

    from stages.scene import train_scene
    from utils.checkpoints.weights import with_meta_start

    show(train_scene(*with_meta_start(config)))


def evaluate(argv: list[str] | None = None) -> None:
    """Evaluate a trained scene again, from its latest checkpoint or another."""
    from utils.config.parser import TRAIN_SECTIONS, parse_config
    from utils.files.text import show

    config = parse_config(TRAIN_SECTIONS, argv)

    from stages.scene import evaluate_scene

    show(evaluate_scene(config))


def pretrain(argv: list[str] | None = None) -> None:
    """Pre-train encoder and decoder on image pairs, in all processes started together."""
    from utils.config.parser import PRETRAIN_SECTIONS, parse_config
    from utils.files.text import show

    config = parse_config(PRETRAIN_SECTIONS, argv, defaults=PRETRAIN_DEFAULTS)

    from stages import pretraining
    from utils.runs.distributed import joined_ranks

    with joined_ranks(config.run.device) as ranks:
        if text := pretraining.pretrain(config, ranks):
            show(text)


def meta_train(argv: list[str] | None = None) -> None:
    """Meta-learn a start for all scenes of a folder, in all processes started together."""
    from utils.config.parser import META_SECTIONS, parse_config
    from utils.config.stage_sections import META_DEFAULTS
    from utils.files.text import show

    config = parse_config(META_SECTIONS, argv, defaults=META_DEFAULTS)

    from stages import meta_training
    from stages.joint import run as joint
    from utils.checkpoints.weights import with_meta_start
    from utils.runs.distributed import joined_ranks

    is_joint = config.meta.num_meta_steps == 0
    check, learn = (joint.check_joint, joint.joint_train) if is_joint else \
        (meta_training.check_meta, meta_training.meta_train)
    check(config)
    config, initial = with_meta_start(config) if config.meta.meta_initialization else (config, None)
    with joined_ranks(config.run.device) as ranks:
        if text := learn(config, ranks, initial):
            show(text)
