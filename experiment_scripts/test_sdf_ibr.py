"""Evaluate a trained scene: metrics, pictures, mesh, video and report of a checkpoint.

    python experiment_scripts/test_sdf_ibr.py --config_filepath configs/nlrpp_dtu.txt \
        --experiment_name skull --dataset_path DTU/scan65 --checkpoint_path_test CHECKPOINT

Without `--checkpoint_path_test` the run's latest checkpoint is taken. Seconds to minutes; results
are in LOGGING_ROOT/EXPERIMENT_NAME as those of training. `--test_views all` scores every view
that is not trained on.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_processing.scenes.opening import open_scene  # noqa: E402
from stages.evaluation import trained_scene_of  # noqa: E402
from stages.models import model_of  # noqa: E402
from stages.results import write_results  # noqa: E402
from stages.scene import build_scene_trainer  # noqa: E402
from utils.checkpoints.weights import checkpoint_to_evaluate, whole_checkpoint  # noqa: E402
from utils.config.parser import TRAIN_SECTIONS, parse_config  # noqa: E402
from utils.files.text import show  # noqa: E402
from utils.runs.progress import run_facts, stored_progress  # noqa: E402
from utils.runs.run import run_script, start_run  # noqa: E402
from utils.views.training_views import views_of  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Parse, load, evaluate, write."""
    config = parse_config(TRAIN_SECTIONS, argv)
    scene, split = open_scene(config.data, config.run.seed)
    run = start_run(config, is_training=False)
    checkpoint = checkpoint_to_evaluate(config, run.start)
    model = model_of(config, run.device, whole_checkpoint(checkpoint, config.run))
    trainer = build_scene_trainer(model, views_of(scene, split.train, run.device), config,
                                  generator=run.generator)
    trainer.load_cameras(checkpoint.task)
    trainer.average.load_state_dict(checkpoint.task.get("average"))
    progress = stored_progress(checkpoint)
    checkpoint.release()
    trained = trained_scene_of(trainer, scene, split, step=progress.step,
                               all_views=bool(config.test.benchmark_all_views))
    run.begin()
    show(write_results(trained, run.folder, test=config.test, data=config.data,
                        curve=progress.curve, facts=run_facts(run, progress)))


if __name__ == "__main__":
    run_script(main)
