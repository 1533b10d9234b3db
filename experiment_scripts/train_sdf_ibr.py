"""Train NLR++ on one scene and write its pictures, mesh, video, metrics and report.

    python experiment_scripts/train_sdf_ibr.py --config_filepath configs/nlrpp_dtu.txt \
        --experiment_name skull --dataset_path DTU/scan65 --num_steps 400

Started again, it resumes where it stopped; `--restart 1` starts afresh. All results are in
LOGGING_ROOT/EXPERIMENT_NAME, report.html first. With `--config_filepath configs/fit_sphere.txt`
it fits the sphere that scenes start from instead, and puts it into assets/base.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Parse, then train the scene or fit the sphere."""
    from utils.config.parser import TRAIN_SECTIONS, parse_config
    from utils.files.text import show

    config = parse_config(TRAIN_SECTIONS, argv, names_run=True)

    from stages.scene import train_scene
    from stages.shape_fitting import fit_sphere

    show(fit_sphere(config) if config.sdf.fit_sphere else train_scene(config))


if __name__ == "__main__":
    run_script(main)
