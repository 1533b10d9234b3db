"""Pre-train encoder and decoder on image pairs with optical flow.

    python experiment_scripts/pretrain_features.py --experiment_name X --batch_size N \
        --dataset_path FLYINGCHAIRS2/train --eval_path FLYINGCHAIRS2/val

Without `--dataset_path`, or with `made`, pairs are made while it runs: no download is needed.
LOGGING_ROOT/X/encdec.pth then starts `train_sdf_ibr.py --checkpoint_img_encoder`; metrics.json has
the withheld pairs' PSNR before and after. Several processes share each batch:

    torchrun --nproc_per_node 2 experiment_scripts/pretrain_features.py --experiment_name X
"""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.models import build_image_networks  # noqa: E402
from stages.pretraining import build_pair_trainer, open_pairs, pretrain, write_pretraining  # noqa: E402
from utils.config.parser import PRETRAIN_SECTIONS, Config, parse_config  # noqa: E402
from utils.fast.memory import keep_freed_memory  # noqa: E402
from utils.runs.distributed import Ranks, finish_ranks, start_ranks  # noqa: E402
from utils.runs.loop import loop_options, run_facts  # noqa: E402
from utils.runs.run import run_script, start_run  # noqa: E402

DEFAULTS = {"batch_size": 16, "num_epochs": 300}


def main(argv: list[str] | None = None) -> None:
    """Parse, then train in this process and those that torchrun started beside it."""
    config = parse_config(PRETRAIN_SECTIONS, argv, defaults=DEFAULTS)
    ranks = start_ranks(config.run.device)
    try:
        train(config, ranks)
    finally:
        finish_ranks()


def train(config: Config, ranks: Ranks) -> None:
    """Data, model, training, results."""
    run = start_run(config, is_main=ranks.is_main)
    training, scored = open_pairs(config)
    if ranks.device.type == "cpu":
        keep_freed_memory()
    model = build_image_networks(config.cnn, config.run,
                                 convolution=config.pretrain.convolution_type).to(ranks.device)
    trainer = build_pair_trainer(model, training, scored, config, ranks=ranks,
                                 start=run.start)
    options = loop_options(config.run, max(len(training) // config.run.batch_size, 1))
    progress = pretrain(trainer, run, replace(options, score_steps=(0, *options.score_steps)))
    if progress is not None:
        print(write_pretraining(trainer, run.folder, curve=progress.curve,
                                facts=run_facts(run, progress)))


if __name__ == "__main__":
    run_script(main)
