"""Meta-learn a start for all scenes of a folder, by Reptile or first-order MAML.

    python experiment_scripts/train_sdf_ibr_meta.py --config_filepath configs/nlrpp_dtu_meta.txt \
        --experiment_name meta --dataset_path DTU/meta

DATASET_PATH holds a folder for each scene, of any formats and sizes. An outer step is 64 steps on
one scene (about 50 s at 64x48 on one core). LOGGING_ROOT/EXPERIMENT_NAME/meta_start.pth is for
test_sdf_ibr_meta.py. Started again, it resumes. Several processes share each meta-batch:

    python -m utils.launch 4 experiment_scripts/train_sdf_ibr_meta.py ... --meta_batch_size 4
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runs.script import run_script


def main(argv: list[str] | None = None) -> None:
    """Parse, then meta-train in this process and those that were started beside it."""
    from utils.config.parser import META_SECTIONS, parse_config
    from utils.config.stage_sections import META_DEFAULTS
    from utils.files.text import show

    config = parse_config(META_SECTIONS, argv, defaults=META_DEFAULTS)

    from stages.meta_training import check_meta, meta_train
    from utils.checkpoints.weights import with_meta_start
    from utils.runs.distributed import joined_ranks

    check_meta(config)
    config, initial = with_meta_start(config) if config.meta.meta_initialization else (config, None)
    with joined_ranks(config.run.device) as ranks:
        if text := meta_train(config, ranks, initial):
            show(text)


if __name__ == "__main__":
    run_script(main)
