"""The small networks are taught by G and D: first the decoder, then both.

In the first stage the decoder is given the teacher's blending weights, in the second those of the
small aggregation. The loss is the mean absolute difference to the teacher's picture, near the
surface.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from realtime.students import StudentAggregation, StudentDecoder
from stages.exporting.teaching import Lesson

#: Adam's learning rate at the first step; it falls to LAST_RATE of it along a cosine.
LEARNING_RATE, LAST_RATE = 4e-3, 0.02
#: Fraction of the steps of the first stage.
DECODER_SHARE = 0.5
#: Weight of the difference to the teacher's blending weights in the second stage.
WEIGHTS_TERM = 0.1
#: Lessons of a step.
LESSONS_A_STEP = 2


def teach_decoder(decoder: StudentDecoder, lessons: Sequence[Lesson], num_steps: int,
                  generator: torch.Generator) -> None:
    """Fit the decoder to the teacher's pictures, with the teacher's blending weights.

    Args:
        decoder: changed in place; it starts as "show the blended colours".
        lessons: at least one.
        num_steps: gradient steps.
        generator: on the CPU, draws lessons.
    """
    nn.init.zeros_(decoder.out.weight)
    nn.init.zeros_(decoder.out.bias)

    def loss(lesson: Lesson) -> Tensor:
        return picture_loss(decoder(lesson.blend(lesson.weights)), lesson)

    _fit([decoder], loss, lessons, num_steps, generator, title="student D")


def teach_both(aggregation: StudentAggregation, decoder: StudentDecoder,
               lessons: Sequence[Lesson], num_steps: int, generator: torch.Generator) -> None:
    """Fit the aggregation to the teacher's weights and pictures, the decoder with it.

    Args:
        aggregation, decoder: changed in place; the decoder from `teach_decoder`.
        lessons, num_steps, generator: as in `teach_decoder`.
    """
    nn.init.zeros_(aggregation.out.weight)
    nn.init.zeros_(aggregation.out.bias)

    def loss(lesson: Lesson) -> Tensor:
        weights = lesson.prior * aggregation(lesson.features.float(), lesson.dirs_obj.float())
        pictures = picture_loss(decoder(lesson.blend(weights)), lesson)
        return pictures + WEIGHTS_TERM * weight_loss(weights, lesson)

    _fit([aggregation, decoder], loss, lessons, num_steps, generator, title="student G")


def picture_loss(images: Tensor, lesson: Lesson) -> Tensor:
    """Return the mean absolute difference of images (1, 3, h, w) to the target where it counts."""
    difference = (images[0] - lesson.target).abs() * lesson.counts_mask
    return difference.sum() / (3 * lesson.counts_mask.sum()).clamp(min=1)


def weight_loss(weights: Tensor, lesson: Lesson) -> Tensor:
    """Return the mean absolute difference of normalised weights (M,) to the teacher's."""
    count = lesson.counts_mask.numel()
    total = weights.new_zeros(count).index_add(0, lesson.pixel, weights)[lesson.pixel]
    taught = weights.new_zeros(count).index_add(0, lesson.pixel, lesson.weights)[lesson.pixel]
    return (weights / total - lesson.weights / taught).abs().mean()


def _fit(networks: Sequence[nn.Module], loss: Callable[[Lesson], Tensor],
         lessons: Sequence[Lesson], num_steps: int, generator: torch.Generator, *,
         title: str) -> None:
    """Take gradient steps on lessons drawn at random, each once before any comes again."""
    parameters = [p for network in networks for p in network.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    drawn = _draws(len(lessons), generator)
    bar = tqdm(range(num_steps), desc=title, unit="step", dynamic_ncols=True)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor(step / num_steps)
        optimizer.zero_grad()
        total = 0.0
        for _ in range(LESSONS_A_STEP):
            found = loss(lessons[next(drawn)]) / LESSONS_A_STEP
            found.backward()
            total += found.item()
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss={total:.4f}")
    for network in networks:
        network.requires_grad_(False).eval()


def rate_factor(progress: float) -> float:
    """Return the factor on the learning rate after a fraction of the steps: 1 to LAST_RATE."""
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def _draws(count: int, generator: torch.Generator) -> Iterator[int]:
    """Yield numbers below `count` for ever, in random order, all once in each round."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
