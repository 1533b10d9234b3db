"""Meta-learn a start for all scenes of a folder, by Reptile or first-order MAML.

    python experiment_scripts/train_sdf_ibr_meta.py --config_filepath configs/nlrpp_dtu_meta.txt \
        --experiment_name meta --dataset_path DTU/meta

DATASET_PATH holds a folder for each scene, of any mix of formats and sizes. An outer step takes 64
training steps on one scene (about 50 s at 64x48 on one core). The start goes to
LOGGING_ROOT/EXPERIMENT_NAME/meta_start.pth, for test_sdf_ibr_meta.py; checkpoints serve too.
Started again, it goes on where it stopped. Several processes share each meta-batch:

    torchrun --nproc_per_node 4 experiment_scripts/train_sdf_ibr_meta.py ... --meta_batch_size 4
"""
from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_processing.scene_pool import open_pool  # noqa: E402
from meta_training import MetaTrainer, meta_train  # noqa: E402
from scene_run import check_meta, model_of, task_on_scene  # noqa: E402
from sdf_meshing import write_curve  # noqa: E402
from utils.config import META_SECTIONS, parse_config  # noqa: E402
from utils.config_stages import META_DEFAULTS  # noqa: E402
from utils.distributed import finish_ranks, start_ranks  # noqa: E402
from utils.loop import loop_options  # noqa: E402
from utils.run import run_script, start_run  # noqa: E402
from utils.weights import NETWORKS, save_networks, with_meta_start  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Parse, open the scenes, meta-train, save."""
    config = parse_config(META_SECTIONS, argv, defaults=META_DEFAULTS)
    check_meta(config)
    if config.meta.meta_initialization:
        config = with_meta_start(config)
    run, ranks = start_run(config), start_ranks(config.run.device)
    pool = open_pool(config.data, config.meta, seed=config.run.seed)
    trainer = MetaTrainer(model_of(config, run.device), pool, partial(task_on_scene, config=config),
                          meta=config.meta, rates=config.rates, seed=config.run.seed, ranks=ranks)
    if config.meta.meta_eval_path:
        trainer.trials = open_pool(config.data, config.meta, path=config.meta.meta_eval_path,
                                   flag="meta_eval_path", is_scored=True)
    progress = meta_train(trainer, run, loop_options(config.run, 1))
    if progress is not None:
        model, path = trainer.learned_model(), run.folder.path / "meta_start.pth"
        save_networks(path, **{name: getattr(model, name) for name in NETWORKS})
        write_curve(progress.curve, run.folder.path / "curve.csv")
        print(f"{path}: {progress.step} outer steps, {progress.seconds:.0f} s")
    finish_ranks()


if __name__ == "__main__":
    run_script(main)
