"""Pre-training of encoder and decoder on image pairs with flow (METHOD 7).

E(I_0), warped by the flow from image 1 to image 0 and zero where that is occluded, is decoded
against I_1, and D(E(I_0)) against I_0: features that survive being moved, and a decoder that fills
small holes. A step's batch consists of micro-batches, each normalised in E by its own statistics;
gradients and running statistics are their means. N processes that share the micro-batches so do
what one process does with all of them.
"""
from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_processing.flow.batches import BatchStream, PairBatch, TrainingSamples, as_batch
from data_processing.flow.pairs import FlowPair, FolderPairs, PairSource
from data_processing.flow.synthetic_pairs import HELD_OUT, SyntheticPairs
from loss_functions import image_loss
from scheduler import learning_rate_factor, warmup_factor
from sdf_rendering import sample_maps
from utils.checkpoints.checkpoint import Checkpoint
from utils.checkpoints.storage import load_state
from utils.checkpoints.weights import save_networks
from utils.config.parser import Config
from utils.config.sections import RatesConfig
from utils.config.stage_sections import PretrainConfig
from utils.config.values import parse_resolution
from utils.errors import ConfigError
from utils.files.atomic import write_text_atomic
from utils.optimization.finite import keeping_statistics, running_statistics
from utils.optimization.weight_average import WeightAverage
from utils.results.curve import write_curve
from utils.results.metrics import psnr_foreground
from utils.results.pictures import error_map, image_grid, save_png, to_uint8
from utils.runs.distributed import (
    Ranks,
    average_gradients,
    average_tensors,
    broadcast_int,
    broadcast_tensors,
    failing_together,
)
from utils.runs.folder import RunFolder
from utils.runs.loop import Loop, LoopOptions, Progress
from utils.runs.run import Run

log = logging.getLogger(__name__)

TRAINED = ("encoder", "decoder")
#: `--dataset_path` that asks for made pairs, as an empty one does.
MADE = "made"
NUM_MADE_SCORED = 8       # made pairs that are scored where no folder is given
MOST_SCORED = 50          # of a folder's pairs, at even distances
NUM_DRAWN = 4             # pairs of the picture sheet
WEIGHTS_FILE = "encdec.pth"
#: What is not counted, in the sheet's error pictures.
GREY = 128
STOP = -1                 # the step that tells the other processes to end
COLUMNS = ("image 0", "reconstruction", "image 1", "image 1 from warped\nfeatures of image 0",
           "its error, black 0 to\nyellow 0.2, grey: unseen")


def warp(maps: Tensor, flow_10: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of image 0 as image 1 sees them: W(x) = maps(x + flow_10(x)), bilinear.

    Args:
        maps: (B, C, H, W) on image 0's pixels.
        flow_10: (B, 2, H, W), pixels.
    Returns:
        (B, C, H, W), differentiable in maps, and (B, 1, H, W) bool, inside image 0, whose border
        is half a pixel beyond the outer centres; outside it the border is repeated.
    """
    height, width = flow_10.shape[2:]
    size = torch.tensor([width, height], dtype=flow_10.dtype, device=flow_10.device)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([x, y], -1).to(flow_10) + flow_10.permute(0, 2, 3, 1)     # (B, H, W, 2)
    inside = ((at >= -0.5) & (at <= size - 0.5)).all(-1)[:, None]
    grid = at * (2 / (size - 1).clamp(min=1)) - 1          # first and last centre at -1 and 1
    return sample_maps(maps, grid[:, None])[:, 0], inside


class PairTrainer:
    """Encoder, decoder and optimiser over a stream of pairs; a `Task` of the loop.

    Args:
        model: `modules_sdf.ImageNetworks`, trained in place.
        stream: of the micro-batches that are this process's.
        scored: withheld pairs.
        rates: first rate, its decay, and the average that is scored and stored.
        flags: whether image 0 itself is decoded too; steps in which the rate rises.
        ranks: the processes; each makes a trainer of its own with the same weights.
    """

    def __init__(self, model: nn.Module, stream: BatchStream, scored: PairSource, *,
                 rates: RatesConfig, flags: PretrainConfig, ranks: Ranks = Ranks()) -> None:
        self.model, self.stream, self.scored, self.rates = model, stream, scored, rates
        self.flags, self.ranks = flags, ranks
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rates.lr)
        self.average = WeightAverage(model, TRAINED, rates.average_decay)
        self._latest: tuple[int, dict[str, dict[str, float]]] | None = None
        self._is_shared = ranks.size == 1
        self.rate_factor = 1.0
        self.statistics = running_statistics(model)

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of all processes; the others do their share in `follow`.

        Returns:
            Unweighted losses and their total, means over the whole batch, detached scalars.
        Raises:
            FloatingPointError: a loss or gradient is not finite; nothing was updated.
            UserError: a pair cannot be read, or another process is gone.
        """
        broadcast_int(step, self.ranks)
        return self._step(step)

    def follow(self) -> None:
        """What all processes but the main one do: their share of its steps, until it ends."""
        while (step := broadcast_int(STOP, self.ranks)) != STOP:
            with suppress(FloatingPointError):             # the main process skips the step too
                self._step(step)

    def finish(self) -> None:
        """Tell the other processes that the run is over."""
        broadcast_int(STOP, self.ranks)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def notices(self) -> dict[str, str]:
        """None."""
        return {}

    def _step(self, step: int) -> dict[str, Tensor]:
        if self.ranks.size > 1 and not broadcast_int(int(self._is_shared), self.ranks):
            self._share_start()
        with keeping_statistics(self.statistics):
            return self._update(step)

    def _update(self, step: int) -> dict[str, Tensor]:
        with failing_together(self.ranks):
            losses = self._accumulate(self.stream.at(step))
        parameters = list(self.model.parameters())
        average_gradients(parameters, self.ranks)
        average_tensors([*self.statistics, *losses.values()], self.ranks)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError("the gradient is not finite, the losses are")
        self.optimizer.param_groups[0]["lr"] = self.rates.lr * learning_rate_factor(
            step, self.rates.lr_encdec_decay_steps, self.rates.lr_decay_factor) * warmup_factor(
            step, self.flags.lr_warmup_steps) * self.rate_factor
        self.optimizer.step()
        self.average.update()
        return losses

    def _share_start(self) -> None:
        """Give all processes the main one's networks and Adam's state, new or resumed: others may
        not see the run's folder."""
        state, parameters = self.optimizer.state, list(self.model.parameters())
        counts = torch.tensor([int(state[p]["step"]) if p in state else 0 for p in parameters],
                              device=self.ranks.device)
        factor = torch.tensor(self.rate_factor, device=self.ranks.device)
        broadcast_tensors([*self.model.state_dict().values(), counts, factor], self.ranks)
        self.rate_factor = float(factor)
        for parameter, count in zip(parameters, counts.tolist(), strict=True):
            if count and not self.ranks.is_main:
                state[parameter] = {"step": torch.tensor(float(count)),
                                    "exp_avg": torch.zeros_like(parameter),
                                    "exp_avg_sq": torch.zeros_like(parameter)}
        moments = [state[p][name] for p in parameters if p in state
                   for name in ("exp_avg", "exp_avg_sq")]
        broadcast_tensors(moments, self.ranks)
        self._is_shared = True

    def _accumulate(self, batches: Sequence[PairBatch]) -> dict[str, Tensor]:
        """Mean gradients, losses and running statistics of this process's micro-batches."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        before = [value.clone() for value in self.statistics]
        sums = [torch.zeros_like(value) for value in self.statistics]
        means: dict[str, Tensor] = {}
        for batch in batches:
            torch._foreach_copy_(self.statistics, before)
            losses = self.losses(batch.to(before[0].device))
            losses["total"] = sum(losses.values())
            if not torch.isfinite(losses["total"]):
                bad = [name for name, value in losses.items() if not torch.isfinite(value)]
                raise FloatingPointError(f"loss not finite: {', '.join(bad)}")
            (losses["total"] / len(batches)).backward()
            torch._foreach_add_(sums, self.statistics)
            for name, value in losses.items():
                means[name] = means.get(name, 0) + value.detach() / len(batches)
        torch._foreach_copy_(self.statistics, [value / len(batches) for value in sums])
        return means

    def losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Mean L1 of both reconstructions; unknown pixels are left out.

        Args:
            batch: on the model's device.
        """
        features = self.model.encode(batch.image_0)
        warped, inside = warp(features, batch.flow_10)
        maps = [warped * (batch.seen_mask & inside)]
        if self.flags.input_image_loss:
            maps.append(features)
        images = self.model.decode(torch.cat(maps)).split(len(features))      # D knows no batch
        found = {"warped": image_loss(images[0], batch.image_1, batch.known_mask)}
        if self.flags.input_image_loss:
            found["input"] = image_loss(images[1], batch.image_0,
                                        torch.ones_like(batch.known_mask))
        return {name: value / len(features) for name, value in found.items()}

    def score(self, step: int) -> dict[str, float]:
        """Mean figures of the withheld pairs, of the averaged weights."""
        found = list(self.figures().values())
        return {name: float(np.mean([figures[name] for figures in found]))
                for name in found[0]} if found else {}

    def figures(self) -> dict[str, dict[str, float]]:
        """PSNR of each withheld pair in dB: reconstruction over all pixels of image 0; warped
        reconstruction, and for comparison image 0 itself warped, over the pixels of image 1 that
        are seen in image 0. They are kept until the next step."""
        if self._latest is not None and self._latest[0] == self.average.num_updates:
            return self._latest[1]
        found, model = {}, self.average.averaged_model().eval()
        for index in self._evenly(MOST_SCORED):
            pair = self.scored.pair(index)
            batch, counts, images = self._reconstruct(model, pair)
            plain = warp(batch.image_0, batch.flow_10)[0]
            if counts.any():
                found[pair.name] = {
                    "psnr_reconstruction": psnr_foreground(images[0], batch.image_0[0],
                                                           torch.ones_like(counts)),
                    "psnr_warped": psnr_foreground(images[1], batch.image_1[0], counts),
                    "psnr_image_warped": psnr_foreground(plain[0], batch.image_1[0], counts)}
        self._latest = self.average.num_updates, found
        return found

    def _reconstruct(self, model: nn.Module, pair: FlowPair) -> tuple[PairBatch, Tensor, Tensor]:
        """(batch of one, (1, H, W) bool what counts, (2, 3, H, W) both reconstructions)."""
        batch = as_batch([pair]).to(self.statistics[0].device)
        with torch.no_grad():
            features = model.encode(batch.image_0)
            warped, inside = warp(features, batch.flow_10)
            counts = batch.seen_mask & inside
            images = [model.decode(maps)[0] for maps in (features, warped * counts)]
        return batch, counts[0].cpu(), torch.stack(images)

    def _evenly(self, most: int) -> list[int]:
        """Numbers of at most so many withheld pairs, at even distances."""
        count = len(self.scored)
        return [i * count // min(most, count) for i in range(min(most, count))]

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """A sheet of withheld pairs: images, reconstructions, error."""
        rows, labels, model = [], [], self.average.averaged_model().eval()
        for index in self._evenly(NUM_DRAWN):
            pair = self.scored.pair(index)
            batch, counts, images = self._reconstruct(model, pair)
            error = error_map(images[1], batch.image_1[0])
            error[~counts[0].numpy()] = GREY
            rows.append([pair.image_0, to_uint8(images[0]), pair.image_1, to_uint8(images[1]),
                         error])
            labels.append(f"pair\n{pair.name}")
        return {"pairs": image_grid(rows, labels, COLUMNS, f"after {step} steps")} if rows else {}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser and average; the stream needs the step's number alone."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(), "batch_size": self.stream.batch_size,
                "micro": self.stream.micro}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; ValueError where the batches are others."""
        for name in ("batch_size", "micro"):
            if state[name] != getattr(self.stream, name):
                raise ValueError(f"{name} was {state[name]}, is {getattr(self.stream, name)}")
        load_state(self.model, state["model"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self._latest, self._is_shared = None, self.ranks.size == 1


def open_pairs(config: Config) -> tuple[PairSource, PairSource]:
    """Pairs to train on and withheld pairs, by the flags.

    Raises:
        ConfigError, SceneError: no such folder, or nothing in it.
    """
    path, flags, seed = config.data.dataset_path, config.pretrain, config.run.seed
    size = parse_resolution(flags.crop_size, flag="crop_size")
    training: PairSource = FolderPairs(path) if path not in ("", MADE) else \
        SyntheticPairs(size, seed, pictures=flags.pictures)
    scored: PairSource = FolderPairs(flags.eval_path) if flags.eval_path else \
        SyntheticPairs(size, seed, pictures=flags.pictures, stream=HELD_OUT,
                       num_pairs=NUM_MADE_SCORED)
    return training, scored


def build_pair_trainer(model: nn.Module, training: PairSource, scored: PairSource,
                       config: Config, *, ranks: Ranks,
                       start: Checkpoint | None = None) -> PairTrainer:
    """A trainer by the flags. Where no flag says into how many micro-batches a batch is divided, a
    run that goes on keeps its number, on however many processes.

    Args:
        model: on this process's device.
        training, scored: pairs.
        config: with the sections of pre-training.
        ranks: the processes.
        start: the checkpoint that the main one goes on from, or None.
    Raises:
        ConfigError: the batch cannot be divided as asked, or as the run so far was.
    """
    flags, batch_size = config.pretrain, config.run.batch_size
    micro = flags.num_micro_batches or _micro_so_far(start, ranks) or ranks.size
    if batch_size % micro or micro % ranks.size:
        raise ConfigError(f"--batch_size {batch_size} in {micro} micro-batches on {ranks.size} "
                          "processes: need a batch size that is a multiple of the micro-batches, "
                          "and as many of those for each process; give other numbers")
    samples = TrainingSamples(training, parse_resolution(flags.crop_size, flag="crop_size"),
                              config.run.seed)
    stream = BatchStream(samples, batch_size, micro=micro, share=ranks.share(micro),
                         num_workers=flags.num_workers)
    return PairTrainer(model, stream, scored, rates=config.rates, flags=flags, ranks=ranks)


def _micro_so_far(start: Checkpoint | None, ranks: Ranks) -> int:
    """The number of micro-batches of the run that the main process goes on with; 0: none."""
    micro = start.task.get("micro") if start is not None and ranks.is_main else 0
    return broadcast_int(micro if isinstance(micro, int) else 0, ranks)


def pretrain(trainer: PairTrainer, run: Run, options: LoopOptions) -> Progress | None:
    """Train on all processes; only the main one reads and writes the run's folder.

    Returns:
        How far it came; None on processes that only follow.
    """
    try:
        if not trainer.ranks.is_main:
            trainer.follow()
            return None
        progress = Loop(trainer, run, options).run()
        trainer.finish()
        return progress
    finally:
        trainer.stream.close()


def write_pretraining(trainer: PairTrainer, folder: RunFolder, *,
                      curve: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Write weights, figures, curve and picture sheet of a run.

    Args:
        trainer: after its last step.
        folder: of the run.
        curve: rows of figures against steps; figures before training are those of step 0.
        facts: further entries of metrics.json.
    Returns:
        Figures and paths as text.
    """
    pairs = trainer.figures()
    names = list(next(iter(pairs.values()), {}))
    after = {name: float(np.mean([figures[name] for figures in pairs.values()])) for name in names}
    first = next((row for row in curve if row["step"] == 0), {})
    before = {name: first.get(name) for name in names}
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
              for name in names]
    return "\n".join([*lines, "", "written:", *(f"  {path}" for path in files)])


def _text(value: float | None) -> str:
    return "   n/a" if value is None else f"{value:6.2f}"
