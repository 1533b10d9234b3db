"""Pre-training of encoder and decoder on image pairs with flow (docs/method.md, section 7).

E(I_0), warped by the flow from image 1 to image 0 and zero where that is occluded, is decoded and
compared with I_1, and D(E(I_0)) with I_0. So the features learn to survive being moved, and the
decoder to fill small holes. The batch of a step consists of micro-batches, each normalised in E by
its own statistics; gradients and running statistics are means over them. Therefore N processes
that share the micro-batches take the same step as one process with all of them.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_processing.flow.batches import BatchStream, PairBatch, TrainingSamples
from data_processing.flow.pairs import FolderPairs, PairSource
from data_processing.flow.synthetic_pairs import HELD_OUT, SyntheticPairs
from loss_functions import image_loss
from scheduler import learning_rate_factor, warmup_factor
from stages.models import build_image_networks, compile_if_asked
from stages.pair_evaluation import mean_metrics, pair_grid, pair_metrics, warp
from utils.checkpoints.checkpoint import Checkpoint
from utils.checkpoints.storage import load_state
from utils.checkpoints.weights import save_networks
from utils.config.parser import Config
from utils.config.sections import RatesConfig
from utils.config.stage_sections import PretrainConfig
from utils.config.values import parse_resolution
from utils.errors import ConfigError
from utils.fast.memory import keep_freed_memory
from utils.files.atomic import write_text_atomic
from utils.optimization.finite import FiniteGuard, keeping_statistics, running_statistics
from utils.optimization.parameter_groups import load_adam
from utils.optimization.weight_average import WeightAverage
from utils.results.curve import write_curve
from utils.results.pictures import save_png
from utils.runs.distributed import (
    ONE_PROCESS,
    Ranks,
    average_gradients,
    average_tensors,
    broadcast_adam,
    broadcast_int,
    broadcast_tensors,
    failing_together,
)
from utils.runs.folder import RunFolder
from utils.runs.progress import run_facts
from utils.runs.ranked_training import RankedTrainer, train_on_ranks
from utils.runs.run import start_run
from utils.runs.task import loop_options

TRAINED = ("encoder", "decoder")
#: `--dataset_path` that asks for synthetic pairs, as an empty one does.
SYNTHETIC = "made"
NUM_SYNTHETIC_SCORED = 8  # held-out pairs if no folder of them is given
WEIGHTS_FILE = "encdec.pth"


class PairTrainer(RankedTrainer):
    """Trains encoder and decoder on a stream of image pairs; a `Task` of the loop.

    Args:
        model: `modules_sdf.ImageNetworks`, trained in place.
        stream: micro-batches of this process.
        scored: held-out pairs.
        rates: learning rate, its decay, and the decay of the averaged weights that are scored and
            written.
        flags: what is trained, the image loss, whether image 0 itself is decoded too, and the
            steps in which the rate rises.
        ranks: the processes; each makes a PairTrainer with the same weights.
    """

    def __init__(self, model: nn.Module, stream: BatchStream, scored: PairSource, *,
                 rates: RatesConfig, flags: PretrainConfig, ranks: Ranks = ONE_PROCESS) -> None:
        super().__init__(ranks)
        self.model, self.stream, self.scored = model, stream, scored
        self.rates, self.flags = rates, flags
        self.is_trained = {"encoder": bool(flags.train_image_encoder),
                           "decoder": bool(flags.train_feature_decoder)}
        if not any(self.is_trained.values()):
            raise ConfigError("--train_image_encoder 0 and --train_feature_decoder 0 leave nothing "
                              "to train; give 1 for one of them")
        for name, is_trained in self.is_trained.items():
            getattr(model, name).requires_grad_(is_trained)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rates.lr)
        self.average = WeightAverage(model, TRAINED, rates.average_decay)
        self.guard, self.statistics = FiniteGuard(), running_statistics(model)
        self._latest: tuple[int, dict[str, dict[str, float]]] | None = None

    def shared_step(self, step: int) -> dict[str, Tensor]:
        """Take one step on the micro-batches of all processes.

        Returns:
            Unweighted losses and their total, means over the whole batch, detached scalars.
        Raises:
            FloatingPointError: on a CPU, a loss or gradient is not finite; nothing was updated. For
                GPUs see `FiniteGuard`.
            UserError: a pair cannot be read, or another process is gone.
        """
        with keeping_statistics(self.statistics):
            with failing_together(self.ranks):
                losses = self._accumulate(self.stream.at(step))
            parameters = list(self.model.parameters())
            average_gradients(parameters, self.ranks)
            average_tensors([*self.statistics, *losses.values()], self.ranks)
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            losses["total"] = self.guard.check_gradients(losses["total"], norm, parameters)
            self.optimizer.param_groups[0]["lr"] = self.learning_rate(step)
            self.optimizer.step()
            self.average.update()
        return losses

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rates = self.rates
        return rates.lr * learning_rate_factor(
            step, rates.lr_encdec_decay_steps, rates.lr_decay_factor) * warmup_factor(
            step, self.flags.lr_warmup_steps) * self.rate_factor

    def share_state(self) -> None:
        """Give all processes the main one's networks and Adam's state."""
        broadcast_tensors(list(self.model.state_dict().values()), self.ranks)
        broadcast_adam(self.optimizer, self.ranks)

    def _accumulate(self, batches: Sequence[PairBatch]) -> dict[str, Tensor]:
        """Compute mean gradients and running statistics of micro-batches; return mean losses."""
        for name, is_trained in self.is_trained.items():        # batch statistics rest too
            getattr(self.model, name).train(is_trained)
        self.optimizer.zero_grad(set_to_none=True)
        before = [value.clone() for value in self.statistics]
        sums = [torch.zeros_like(value) for value in self.statistics]
        means: dict[str, Tensor] = {}
        for batch in batches:
            torch._foreach_copy_(self.statistics, before)
            losses = self.losses(batch.to(before[0].device))
            losses["total"] = reduce(torch.add, losses.values())
            self.guard.check_losses(losses["total"], losses)
            (losses["total"] / len(batches)).backward()
            torch._foreach_add_(sums, self.statistics)
            for name, value in losses.items():
                means[name] = means.get(name, 0) + value.detach() / len(batches)
        torch._foreach_copy_(self.statistics, [value / len(batches) for value in sums])
        return means

    def losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the mean losses of both reconstructions; unknown pixels are left out.

        Args:
            batch: on the model's device.
        """
        features = self.model.encode(batch.image_0)
        warped, inside_mask = warp(features, batch.flow_10)
        maps = [warped * (batch.seen_mask & inside_mask)]
        if self.flags.input_image_loss:
            maps.append(features)
        images = self.model.decode(torch.cat(maps)).split(len(features))  # D normalises no batch
        metric = self.flags.color_loss
        found = {"warped": image_loss(images[0], batch.image_1, batch.known_mask, metric)}
        if self.flags.input_image_loss:
            found["input"] = image_loss(images[1], batch.image_0,
                                        torch.ones_like(batch.known_mask), metric)
        return {name: value / len(features) for name, value in found.items()}

    def score(self, step: int) -> dict[str, float]:
        """Return mean metrics of the held-out pairs, rendered with the averaged weights."""
        return mean_metrics(self.metrics())

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return metrics of each held-out pair (`pair_metrics`); they are kept until a step."""
        num_updates = self.average.num_updates
        if self._latest is None or self._latest[0] != num_updates:
            model = self.average.averaged_model().eval()
            self._latest = num_updates, pair_metrics(model, self.scored)
        return self._latest[1]

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Return an image grid of held-out pairs: images, reconstructions, error."""
        grid = pair_grid(self.average.averaged_model().eval(), self.scored, f"after {step} steps")
        return {} if grid is None else {"pairs": grid}

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and average; the stream depends on the step alone."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(), "batch_size": self.stream.batch_size,
                "micro": self.stream.micro}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; ValueError if the batches are divided otherwise."""
        for name in ("batch_size", "micro"):
            if state[name] != getattr(self.stream, name):
                raise ValueError(f"{name} was {state[name]}, is {getattr(self.stream, name)}")
        load_state(self.model, state["model"], "the run's checkpoint")
        load_adam(self.optimizer, state["optimizer"])
        self.average.load_state_dict(state["average"])
        self._latest = None
        self.guard.forget()
        self.state_changed()


def pretrain(config: Config, ranks: Ranks) -> str:
    """Pre-train encoder and decoder, and write them with their metrics.

    Args:
        config: of the pre-training script.
        ranks: the processes, each of which calls this.
    Returns:
        Metrics and paths as text; empty on all processes but the main one.
    """
    run = start_run(config, is_main=ranks.is_main)
    pairs = open_pairs(config)
    if ranks.device.type == "cpu":
        keep_freed_memory()
    model = build_image_networks(config.cnn, config.run,
                                 convolution=config.pretrain.convolution_type).to(ranks.device)
    compile_if_asked(model, config.cnn, ranks.device)
    trainer = build_pair_trainer(model, pairs, config, ranks=ranks, start=run.start)
    options = loop_options(config.run, max(len(pairs[0]) // config.run.batch_size, 1))
    options = replace(options, score_steps=(0, *options.score_steps))
    try:
        progress = train_on_ranks(trainer, run, options)
    finally:
        trainer.stream.close()
    if progress is None:
        return ""
    return write_pretraining(trainer, run.folder, curve=progress.curve,
                             facts=run_facts(run, progress))


def open_pairs(config: Config) -> tuple[PairSource, PairSource]:
    """Return training pairs and held-out pairs, as the flags say.

    Raises:
        ConfigError, SceneError: no such folder, or nothing in it.
    """
    path, flags, seed = config.data.dataset_path, config.pretrain, config.run.seed
    size = parse_resolution(flags.crop_size, flag="crop_size")
    training: PairSource = FolderPairs(path) if path not in ("", SYNTHETIC) else \
        SyntheticPairs(size, seed, pictures=flags.pictures)
    scored: PairSource = FolderPairs(flags.eval_path) if flags.eval_path else \
        SyntheticPairs(size, seed, pictures=flags.pictures, stream=HELD_OUT,
                       num_pairs=NUM_SYNTHETIC_SCORED)
    return training, scored


def build_pair_trainer(model: nn.Module, pairs: tuple[PairSource, PairSource], config: Config, *,
                       ranks: Ranks, start: Checkpoint | None = None) -> PairTrainer:
    """Return a trainer, set up as the flags say.

    Without --num_micro_batches a run that is resumed keeps the number that it had, on however many
    processes; a new run has one micro-batch for each process.

    Args:
        model: on this process's device.
        pairs: to train on, and held out (`open_pairs`).
        config: with the sections of pre-training.
        ranks: the processes.
        start: the checkpoint from which the main process resumes, or None.
    Raises:
        ConfigError: the batch cannot be divided as asked, or as the run so far was.
    """
    flags, batch_size = config.pretrain, config.run.batch_size
    micro = flags.num_micro_batches or _stored_micro(start, ranks) or ranks.size
    if batch_size % micro or micro % ranks.size:
        raise ConfigError(f"--batch_size {batch_size} in {micro} micro-batches on {ranks.size} "
                          "processes: need a batch size that is a multiple of the micro-batches, "
                          "and as many of those for each process; give other numbers")
    samples = TrainingSamples(pairs[0], parse_resolution(flags.crop_size, flag="crop_size"),
                              config.run.seed)
    stream = BatchStream(samples, batch_size, micro=micro, share=ranks.share(micro),
                         num_workers=flags.num_workers)
    return PairTrainer(model, stream, pairs[1], rates=config.rates, flags=flags, ranks=ranks)


def _stored_micro(start: Checkpoint | None, ranks: Ranks) -> int:
    """Return the number of micro-batches of the run that the main process resumes; 0 if none."""
    micro = start.task.get("micro") if start is not None and ranks.is_main else 0
    return broadcast_int(micro if isinstance(micro, int) else 0, ranks)


def write_pretraining(trainer: PairTrainer, folder: RunFolder, *,
                      curve: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Write weights, metrics, curve and image grid of a run.

    Args:
        trainer: after its last step.
        folder: of the run.
        curve: rows of metrics against steps; metrics before training are those of step 0.
        facts: further entries of metrics.json.
    Returns:
        Metrics and paths as text.
    """
    pairs = trainer.metrics()
    after = mean_metrics(pairs)
    first = next((row for row in curve if row["step"] == 0), {})
    before = {name: first.get(name) for name in after}
    metrics = {"before": before, "mean": after, "pairs": pairs, **facts}
    model = trainer.average.averaged_model()
    files = [folder.path / WEIGHTS_FILE, folder.path / "metrics.json",
             write_curve(curve, folder.path / "curve.csv")]
    save_networks(files[0], encoder=model.encoder, decoder=model.decoder)
    write_text_atomic(files[1], json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    for name, picture in trainer.pictures(facts["steps"]).items():
        files.append(folder.pictures / f"{name}.png")
        save_png(files[-1], picture)
    lines = [f"PSNR [dB], mean of {len(pairs)} pairs: before, after"]
    lines += [f"  {name.removeprefix('psnr_'):16}{_text(before[name])}  {after[name]:6.2f}"
              for name in after]
    return "\n".join([*lines, "", "written:", *(f"  {path}" for path in files)])


def _text(value: float | None) -> str:
    return "   n/a" if value is None else f"{value:6.2f}"
