"""Pre-training: warping in closed form, what counts, ghost batches, resume, and what it learns."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.flow_cases import write_flyingchairs2
from support.tiny_runs import differing, final_state
from torch import nn
from torch.nn import functional as F

from data_processing.flow.batches import BatchStream, PairBatch, TrainingSamples
from data_processing.flow.synthetic_pairs import SyntheticPairs
from stages import pretraining
from stages.models import build_image_networks
from stages.pair_evaluation import warp
from stages.pretraining import (
    PairTrainer,
    build_pair_trainer,
    open_pairs,
    write_pretraining,
)
from utils.checkpoints.checkpoint import open_checkpoint
from utils.config.parser import PRETRAIN_SECTIONS, parse_config
from utils.config.sections import RatesConfig
from utils.config.stage_sections import PretrainConfig
from utils.errors import CheckpointError, ConfigError
from utils.runs.distributed import ONE_PROCESS, Ranks
from utils.runs.progress import run_facts
from utils.runs.ranked_training import train_on_ranks
from utils.runs.run import start_run
from utils.runs.task import LoopOptions

TINY = ("--crop_size 24x16 --batch_size 4 --precision fp32 --model_image_encoder_depth 1 "
        "--model_image_encoder_features 2 --num_threads 1 --lr 1e-3 --lr_warmup_steps 0").split()


@pytest.fixture(autouse=True)
def few_scored(monkeypatch):
    """One synthetic pair is scored: most of these tests are not about scores."""
    monkeypatch.setattr(pretraining, "NUM_SYNTHETIC_SCORED", 1)


class Copies(nn.Module):
    """An encoder whose features are the image (and a batch norm to be counted), a plain decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def encode(self, images):
        self.encoder(images)
        return images

    def decode(self, features):
        return self.decoder(features)


def config_of(*flags):
    return parse_config(PRETRAIN_SECTIONS, [str(f) for f in ("--experiment_name", "run", *TINY,
                                                             *flags)])


def trainer_of(*flags, ranks=ONE_PROCESS):
    config = config_of(*flags)
    torch.manual_seed(0)
    model = build_image_networks(config.cnn, config.run,
                                 convolution=config.pretrain.convolution_type)
    return build_pair_trainer(model, open_pairs(config), config, ranks=ranks)


def run_of(root, *flags, steps=3, score_steps=(0,)):
    config = config_of("--logging_root", root, *flags)
    run = start_run(config)
    model = build_image_networks(config.cnn, config.run,
                                 convolution=config.pretrain.convolution_type)
    trainer = build_pair_trainer(model, open_pairs(config), config, ranks=ONE_PROCESS,
                                 start=run.start)
    options = LoopOptions(num_steps=steps, save_interval=2, score_steps=score_steps)
    progress = train_on_ranks(trainer, run, options)
    trainer.stream.close()
    return trainer, run, progress


def batch_of(image_0, image_1, flow, *, known=None, seen=None):
    known = torch.ones_like(image_1[:, :1], dtype=torch.bool) if known is None else known
    return PairBatch(image_0, image_1, flow, known, known if seen is None else seen & known)


def with_copies(**options):
    stream = BatchStream(TrainingSamples(SyntheticPairs((24, 16), 0), (24, 16), 0), 2)
    return PairTrainer(Copies(), stream, SyntheticPairs((24, 16), 1, num_pairs=2),
                       rates=RatesConfig(), flags=PretrainConfig(**options))


def test_warping_by_whole_pixels_is_a_shift():
    maps = torch.rand(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(2, 2, 7, 9)
    flow[0, 0], flow[1, 1] = 2, -3
    warped, inside = warp(maps, flow)
    torch.testing.assert_close(warped[0, :, :, :-2], maps[0, :, :, 2:])
    torch.testing.assert_close(warped[1, :, 3:], maps[1, :, :-3])
    assert inside.shape == (2, 1, 7, 9)
    assert inside[0, 0, :, :7].all() and not inside[0, 0, :, 7:].any()
    assert inside[1, 0, 3:].all() and not inside[1, 0, :3].any()


def test_warping_of_a_ramp_is_exact_between_pixels():
    """Bilinear sampling of a linear map has no error; half a pixel beyond the centres is inside."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    ramp = (2 * x + 3 * y)[None, None]
    flow = torch.empty(1, 2, 6, 8).uniform_(-3, 3, generator=torch.Generator().manual_seed(1))
    warped, inside = warp(ramp, flow)
    at_x, at_y = x + flow[0, 0], y + flow[0, 1]
    clear = (at_x >= 0) & (at_x <= 7) & (at_y >= 0) & (at_y <= 5)
    torch.testing.assert_close(warped[0, 0][clear], (2 * at_x + 3 * at_y)[clear])
    assert torch.equal(inside[0, 0], (at_x >= -0.5) & (at_x <= 7.5) & (at_y >= -0.5)
                       & (at_y <= 5.5))
    single, _ = warp(torch.ones(1, 1, 1, 1), torch.zeros(1, 2, 1, 1))
    assert single.item() == 1


def test_warping_has_gradients():
    maps = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.rand(1, 2, 4, 5, dtype=torch.float64) * 2 - 1
    assert torch.autograd.gradcheck(lambda m: warp(m, flow)[0], maps)


def test_losses_are_those_of_the_method():
    """With a model that copies, the loss is the L1 of the warped image, zero where unseen."""
    generator = torch.Generator().manual_seed(2)
    image_0, image_1 = torch.rand(2, 2, 3, 6, 8, generator=generator)
    flow = torch.zeros(2, 2, 6, 8)
    flow[:, 0] = 1
    known = torch.ones(2, 1, 6, 8, dtype=torch.bool)
    known[0, 0, 2] = False
    seen = torch.ones_like(known)
    seen[1, 0, :, 3] = False
    found = with_copies().losses(batch_of(image_0, image_1, flow, known=known, seen=seen))
    moved = F.pad(image_0[..., 1:], (0, 1)) * (seen & known)
    expected = ((moved - image_1).abs() * known).mean()
    torch.testing.assert_close(found["warped"], expected)
    torch.testing.assert_close(found["input"], torch.zeros(()))
    squared = with_copies(color_loss="l2").losses(batch_of(image_0, image_1, flow, known=known,
                                                           seen=seen))
    torch.testing.assert_close(squared["warped"], ((moved - image_1).square() * known).mean())
    one = with_copies(input_image_loss=0).losses(batch_of(image_0, image_1, flow))
    assert set(one) == {"warped"}


def test_unknown_pixels_have_no_influence():
    trainer = trainer_of()
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 2, 3, 16, 24, generator=generator)
    known = torch.ones(2, 1, 16, 24, dtype=torch.bool)
    known[:, :, 4:8] = False
    results = []
    for value in (0.0, 9.0):
        image_1, flow = images[1].clone(), torch.ones(2, 2, 16, 24)
        image_1[:, :, 4:8], flow[:, :, 4:8] = value, value / 3
        batch = batch_of(images[0], image_1, flow, known=known)
        results.append(trainer._accumulate([batch])["warped"])
    assert torch.equal(*results)


def test_images_reach_the_encoder_in_plus_minus_one():
    trainer, seen = trainer_of(), []
    trainer.model.encoder.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    trainer.losses(batch_of(torch.zeros(1, 3, 16, 24), torch.ones(1, 3, 16, 24),
                            torch.zeros(1, 2, 16, 24)))
    trainer.losses(batch_of(torch.ones(1, 3, 16, 24), torch.ones(1, 3, 16, 24),
                            torch.zeros(1, 2, 16, 24)))
    assert (seen[0] == -1).all() and (seen[1] == 1).all()


def test_micro_batches_are_means_of_steps_of_their_own():
    """Gradients, losses and running statistics, each against one micro-batch alone."""
    trainer = trainer_of("--num_micro_batches", 2)
    before = [value.clone() for value in trainer.statistics]
    parts = trainer.stream.at(0)
    assert [len(part.image_0) for part in parts] == [2, 2]
    alone = []
    for part in parts:
        torch._foreach_copy_(trainer.statistics, before)
        losses = trainer._accumulate([part])
        alone.append(([p.grad.clone() for p in trainer.model.parameters()],
                      [value.clone() for value in trainer.statistics], losses["total"]))
    torch._foreach_copy_(trainer.statistics, before)
    losses = trainer._accumulate(parts)
    together = ([p.grad for p in trainer.model.parameters()], trainer.statistics,
                [losses["total"]])
    one, other = (([*grads, *stats, total]) for grads, stats, total in alone)
    for mean, a, b in zip([*together[0], *together[1], *together[2]], one, other, strict=True):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-5, atol=1e-7)   # order of sums
    assert not torch.equal(before[0], trainer.statistics[0])


def test_a_step_follows_adam_and_its_rate():
    trainer = trainer_of("--lr_encdec_decay_steps", 2, "--average_decay", 0)
    start = [p.detach().clone() for p in trainer.model.parameters()]
    for step, rate in enumerate((1e-3, 1e-3, 5e-4)):
        trainer.train_step(step)
        assert trainer.optimizer.param_groups[0]["lr"] == rate
    moved = max((p - q).abs().max() for p, q in zip(trainer.model.parameters(), start))
    assert 1e-3 < moved < 4e-3                            # three steps of Adam
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert norm <= 1 + 1e-5


def test_the_rate_rises_from_a_grey_start():
    trainer = trainer_of("--lr_warmup_steps", 4)
    assert (trainer.model.decoder.out.bias == 0.5).all()
    for step, rate in ((0, 2.5e-4), (1, 5e-4), (3, 1e-3), (7, 1e-3)):
        trainer.train_step(step)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    trainer = trainer_of()
    with torch.no_grad():
        trainer.model.decoder.out.bias[0] = torch.nan
    weights = [p.detach().clone() for p in trainer.model.encoder.parameters()]
    with pytest.raises(FloatingPointError, match="warped, input, total"):
        trainer.train_step(0)
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.encoder.parameters(), weights))


@pytest.mark.parametrize("flags", [
    ["--convolution_type", "partial"], ["--convolution_type", "meta"],
    ["--precision", "bf16"], ["--input_image_loss", 0], ["--image_encoder", "residual"],
    ["--num_micro_batches", 4], ["--dataset_path", "made"], ["--crop_size", "17x19"],
    ["--average_decay", 0]])
def test_every_option_trains(flags):
    trainer = trainer_of(*flags)
    losses = trainer.train_step(0)
    assert torch.isfinite(losses["total"])
    assert ("input" in losses) == ("--input_image_loss" not in flags)
    assert set(trainer.score(1)) == {"psnr_reconstruction", "psnr_warped", "psnr_image_warped"}


@pytest.mark.parametrize("flag, network", [
    ("--train_image_encoder", "encoder"), ("--train_feature_decoder", "decoder")])
def test_a_part_that_is_not_trained_stays_to_the_bit(flag, network):
    trainer = trainer_of(flag, 0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step(0)
    changed = {name.split(".")[0] for name, value in trainer.model.state_dict().items()
               if not torch.equal(value, before[name])}
    assert changed == {"encoder", "decoder"} - {network}


def test_it_learns_to_copy_and_to_move():
    """30 steps on one batch bring both losses from 0.13, all grey, to 0.06; asked is 0.09."""
    trainer = trainer_of("--lr", 2e-3, "--batch_size", 2, "--model_image_encoder_features", 16)
    parts = trainer.stream.at(0)
    trainer.stream.at = lambda step: parts
    first = trainer.train_step(0)
    for step in range(1, 30):
        last = trainer.train_step(step)
    for name in ("warped", "input", "total"):
        assert last[name] < 0.7 * first[name]


def test_metrics_count_what_is_seen():
    """The warped features of a model that copies are the warped image."""
    trainer = with_copies()
    for metrics in trainer.metrics().values():
        assert metrics["psnr_reconstruction"] == pytest.approx(100)
        assert metrics["psnr_warped"] == pytest.approx(metrics["psnr_image_warped"], abs=1e-3)
        assert metrics["psnr_warped"] > 15


def test_stopped_and_started_again_is_as_never_stopped(tmp_path):
    run_of(tmp_path / "whole", steps=5)
    run_of(tmp_path / "parts", steps=3)
    _, run, progress = run_of(tmp_path / "parts", "--num_workers", 1, steps=5)
    assert run.start is not None and progress.curve[0]["step"] == 0
    one, other = (final_state(tmp_path / name / "run") for name in ("whole", "parts"))
    assert differing(one["task"], other["task"]) == [] and one["step"] == other["step"] == 5
    assert differing(one["random"], other["random"]) == []


def test_a_run_with_other_batches_does_not_go_on(tmp_path):
    run_of(tmp_path, steps=1)
    with pytest.raises(CheckpointError, match="batch_size was 4, is 8.*--restart 1"):
        run_of(tmp_path, "--batch_size", 8, steps=2)
    with pytest.raises(CheckpointError, match="micro was 1, is 2"):
        run_of(tmp_path, "--num_micro_batches", 2, steps=2)


def test_a_run_keeps_its_number_of_micro_batches(tmp_path):
    run_of(tmp_path, "--num_micro_batches", 2, steps=1)
    trainer, *_ = run_of(tmp_path, steps=2)
    assert trainer.stream.micro == 2 and final_state(tmp_path / "run")["step"] == 2
    with pytest.raises(ConfigError, match="batch_size 3 in 2 micro-batches on 1 processes"):
        run_of(tmp_path, "--batch_size", 3, steps=3)


def test_results_hold_weights_metrics_and_pictures(tmp_path):
    trainer, run, progress = run_of(tmp_path, steps=2)
    text = write_pretraining(trainer, run.folder, curve=progress.curve,
                             facts=run_facts(run, progress))
    folder = run.folder.path
    assert all(path in text for path in map(str, (folder / "encdec.pth", folder / "curve.csv")))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 2 and len(metrics["pairs"]) == 1
    assert metrics["mean"] == pytest.approx(trainer.score(2))
    assert metrics["before"]["psnr_warped"] == progress.curve[0]["psnr_warped"]
    stored = open_checkpoint(folder / "encdec.pth").networks.tensors
    averaged = trainer.average.averaged_model()
    assert set(stored) == {"encoder", "decoder"}
    assert differing(stored["decoder"], dict(averaged.decoder.state_dict())) == []
    live = open_checkpoint(next((folder / "checkpoints").glob("*.pth"))).networks.tensors
    assert set(live) == {"encoder", "decoder"}            # a checkpoint serves as well
    sheet = trainer.pictures(2)["pairs"]
    assert sheet.dtype == np.uint8 and min(sheet.shape[:2]) > 200 and sheet.std() > 20


def test_a_folder_is_trained_on_and_scored(tmp_path):
    write_flyingchairs2(tmp_path / "pairs", 3, (30, 20))
    trainer = trainer_of("--dataset_path", tmp_path / "pairs", "--eval_path", tmp_path / "pairs")
    assert torch.isfinite(trainer.train_step(0)["total"]) and len(trainer.metrics()) == 3
    assert len(trainer.stream.samples.source) == 3


def test_flags_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="batch_size 4 in 3 micro-batches on 1 proc"):
        trainer_of("--num_micro_batches", 3)
    with pytest.raises(ConfigError, match="batch_size 4 in 4 micro-batches on 3 processes"):
        trainer_of("--num_micro_batches", 4, ranks=Ranks(0, 3))
    with pytest.raises(ConfigError, match="--crop_size is '24', need"):
        trainer_of("--crop_size", 24)
    with pytest.raises(ConfigError, match="leave nothing to train; give 1 for one"):
        trainer_of("--train_image_encoder", 0, "--train_feature_decoder", 0)
    with pytest.raises(ConfigError, match="feature_type rgb.*nothing to pre-train"):
        trainer_of("--feature_type", "rgb")
