"""Train NLR++ on one scene and write its pictures, mesh, video, figures and report.

    python experiment_scripts/train_sdf_ibr.py --config_filepath configs/nlrpp_dtu.txt \
        --experiment_name skull --dataset_path DTU/scan65 --num_steps 400

Started again, it goes on where it stopped; `--restart 1` starts afresh. All results are in
LOGGING_ROOT/EXPERIMENT_NAME, report.html first. With `--config_filepath configs/fit_sphere.txt`
it fits the sphere that scenes start from instead, and puts it into assets/base.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules_sdf import build_sdf  # noqa: E402
from stages.models import sdf_architecture  # noqa: E402
from stages.scene import train_scene  # noqa: E402
from stages.shape_fitting import SphereTask  # noqa: E402
from utils.checkpoints.weights import save_sphere, sphere_asset  # noqa: E402
from utils.config.parser import TRAIN_SECTIONS, Config, parse_config  # noqa: E402
from utils.runs.loop import Loop, loop_options  # noqa: E402
from utils.runs.run import run_script, start_run  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Parse, then train the scene or fit the sphere."""
    config = parse_config(TRAIN_SECTIONS, argv)
    if config.sdf.fit_sphere:
        fit_sphere(config)
    else:
        print(train_scene(config))


def fit_sphere(config: Config) -> None:
    """The start of every scene; one batch an epoch."""
    run = start_run(config)
    sdf = build_sdf(sdf_architecture(config.sdf)).to(run.device)
    options = loop_options(config.run, 1)
    task = SphereTask(sdf, options.num_steps, config.rates.lr_sdf,
                      num_points=config.run.batch_size, loss=config.loss, generator=run.generator)
    progress = Loop(task, run, options).run()
    save_sphere(sphere_asset(config.sdf), sdf, task.score(progress.step))
    print(f"{sphere_asset(config.sdf)}: {task.score(progress.step)}")


if __name__ == "__main__":
    run_script(main)
