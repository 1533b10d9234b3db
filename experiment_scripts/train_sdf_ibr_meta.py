"""Meta-learn a start for all scenes of a folder, by Reptile or first-order MAML.

    python experiment_scripts/train_sdf_ibr_meta.py --config_filepath configs/nlrpp_dtu_meta.txt \
        --experiment_name meta --dataset_path DTU/meta

DATASET_PATH holds a folder for each scene, of any formats and sizes. An outer step is 64 steps on
one scene (about 50 s at 64x48 on one core). LOGGING_ROOT/EXPERIMENT_NAME/meta_start.pth is for
test_sdf_ibr_meta.py. Started again, it goes on. Several processes share each meta-batch:

    torchrun --nproc_per_node 4 experiment_scripts/train_sdf_ibr_meta.py ... --meta_batch_size 4
"""
from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_processing.scenes.pool import open_pool  # noqa: E402
from stages.meta_training import MetaTrainer, check_meta, meta_train, task_on_scene  # noqa: E402  # noqa: E402
from stages.models import model_of  # noqa: E402
from utils.checkpoints.networks import NETWORKS  # noqa: E402
from utils.checkpoints.weights import InitialWeights, save_networks, with_meta_start  # noqa: E402
from utils.config.parser import META_SECTIONS, Config, parse_config  # noqa: E402
from utils.config.stage_sections import META_DEFAULTS  # noqa: E402
from utils.results.curve import write_curve  # noqa: E402
from utils.runs.distributed import Ranks, finish_ranks, start_ranks  # noqa: E402
from utils.runs.loop import loop_options  # noqa: E402
from utils.runs.run import run_script, start_run  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Parse, then meta-train in this process and those that torchrun started beside it."""
    config = parse_config(META_SECTIONS, argv, defaults=META_DEFAULTS)
    check_meta(config)
    config, initial = with_meta_start(config) if config.meta.meta_initialization else (config, None)
    ranks = start_ranks(config.run.device)
    try:
        train(config, ranks, initial)
    finally:
        finish_ranks()


def train(config: Config, ranks: Ranks, initial: InitialWeights | None) -> None:
    """Scenes, model, meta-training, results."""
    run = start_run(config, is_main=ranks.is_main)
    pool = open_pool(config.data, config.meta, seed=config.run.seed)
    model = model_of(config, run.device, initial)
    trainer = MetaTrainer(model, pool, partial(task_on_scene, config=config), meta=config.meta,
                          rates=config.rates, seed=config.run.seed, ranks=ranks)
    if config.meta.meta_eval_path:
        trainer.trials = open_pool(config.data, config.meta, path=config.meta.meta_eval_path,
                                   flag="meta_eval_path", is_scored=True)
    if (progress := meta_train(trainer, run, loop_options(config.run, 1))) is not None:
        path, model = run.folder.path / "meta_start.pth", trainer.learned_model()
        save_networks(path, **{name: getattr(model, name) for name in NETWORKS})
        write_curve(progress.curve, run.folder.path / "curve.csv")
        print(f"{path}: {progress.step} outer steps, {progress.seconds:.0f} s")


if __name__ == "__main__":
    run_script(main)
