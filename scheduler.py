"""Pure functions from the number of a step to its settings (docs/method.md, section 7)."""
from __future__ import annotations

from dataclasses import dataclass, replace

from utils.config.sections import RatesConfig, TracingConfig
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError

LR_DECAY_LEVELS = (1, 3, 7, 15, 31, 63)  # learning rates halve where step / interval reaches these


@dataclass(frozen=True)
class ShapeSchedule:
    """When the surface is trained: in the first `warmup` steps, then in every `interval`-th."""

    warmup: int
    interval: int


#: Of the soft mask's sharpness: far beyond every use, and finite.
MOST_DOUBLINGS = 60
SHAPE_SCHEDULES = {"dtu": ShapeSchedule(50, 7), "nlr": ShapeSchedule(100, 3),
                   "shapenet": ShapeSchedule(2000, 5)}


@dataclass(frozen=True)
class StepPlan:
    """Settings of one training step.

    Attributes:
        train_shape: whether the surface is traced anew and the losses on the shape count.
        alpha: sharpness of the soft mask.
        occ_threshold: squared distance of the occlusion test, object units squared.
        lr_sdf: learning rate of Phi.
        lr: learning rate of E, G and D.
        lr_cameras: learning rate of refined cameras; 0 in the warm-up, when the surface is not yet
            that of the object and masks would move the cameras to fit it.
        average_decay: decay of the moving average of E, G and D, with which views are rendered.
        clip_parts: whether the gradients of Phi and of E, G and D are clipped apart.
    """

    train_shape: bool
    alpha: float
    occ_threshold: float
    lr_sdf: float
    lr: float
    lr_cameras: float = 0.0
    average_decay: float = 0.0
    clip_parts: bool = False

    def scaled(self, factor: float) -> StepPlan:
        """Return the same plan with all learning rates multiplied by a factor."""
        return replace(self, lr_sdf=self.lr_sdf * factor, lr=self.lr * factor,
                       lr_cameras=self.lr_cameras * factor)


@dataclass(frozen=True)
class OuterPlan:
    """Settings of one outer step of meta-training.

    Attributes:
        meta_lr_sdf, meta_lr: outer learning rate beta of Phi, and of E, G and D.
        inner_factor_sdf, inner_factor: factors of the learning rates of the inner steps.
    """

    meta_lr_sdf: float
    meta_lr: float
    inner_factor_sdf: float
    inner_factor: float

    def inner(self, plan: StepPlan) -> StepPlan:
        """Return a single scene's plan as that of an inner step: each of them trains the shape."""
        return replace(plan, train_shape=True, lr_sdf=plan.lr_sdf * self.inner_factor_sdf,
                       lr=plan.lr * self.inner_factor)


def plan_outer_step(step: int, meta: MetaConfig) -> OuterPlan:
    """Return the settings of outer step `step` (from 0)."""
    meta_lr = meta.meta_lr * halvings(step, meta.meta_lr_decay_steps, meta.meta_lr_decay_factor)
    decay = meta.meta_inner_decay_factor
    return OuterPlan(meta_lr, meta_lr * meta.meta_lr_image_factor,
                     halvings(step, meta.meta_inner_sdf_decay_steps, decay),
                     halvings(step, meta.meta_inner_decay_steps, decay))


def halvings(step: int, interval: int, decay: float = 0.5) -> float:
    """Return decay^(step // interval), or 1 if the interval is 0."""
    return decay ** (step // interval) if interval > 0 else 1.0


def shape_schedule(rates: RatesConfig, dataset_name: str) -> ShapeSchedule:
    """Return the schedule of a dataset; flags that are not negative override it.

    Datasets that have none of their own take that of DTU.
    """
    default = SHAPE_SCHEDULES.get(dataset_name, SHAPE_SCHEDULES["dtu"])
    return ShapeSchedule(
        default.warmup if rates.shape_warmup_steps < 0 else rates.shape_warmup_steps,
        default.interval if rates.shape_interval < 0 else rates.shape_interval)


def plan_step(step: int, rates: RatesConfig, tracing: TracingConfig, *, dataset_name: str,
              steps_per_epoch: int, lr_cameras: float = 0.0) -> StepPlan:
    """Return the settings of step `step` (from 0).

    Args:
        step: number of steps before this one.
        rates: learning rates and their decay.
        tracing: schedules of the soft mask and of the occlusion test.
        dataset_name: chooses the default of the shape schedule.
        steps_per_epoch: unit of `rt_mask_alpha_period_epochs`.
        lr_cameras: initial learning rate of refined cameras.
    """
    schedule = shape_schedule(rates, dataset_name)
    period = tracing.rt_mask_alpha_period
    if tracing.rt_mask_alpha_period_epochs > 0:
        period = tracing.rt_mask_alpha_period_epochs * steps_per_epoch
    decay = rates.lr_decay_factor
    return StepPlan(
        train_shape=is_shape_step(step, schedule),
        alpha=mask_alpha(step, tracing.rt_mask_alpha, period=period,
                         max_doublings=tracing.rt_mask_alpha_period_max),
        occ_threshold=occlusion_threshold(step, tracing.occ_threshold, tracing.occ_threshold_steps),
        lr_sdf=rates.lr_sdf * warmup_factor(step, rates.lr_sdf_warmup_steps)
        * learning_rate_factor(step, rates.lr_sdf_decay_steps, decay),
        lr=rates.lr * warmup_factor(step, rates.lr_image_warmup_steps)
        * learning_rate_factor(step, rates.lr_encdec_decay_steps, decay),
        lr_cameras=0.0 if step < schedule.warmup else
        lr_cameras * learning_rate_factor(step, rates.lr_encdec_decay_steps, decay),
        average_decay=rates.average_decay, clip_parts=rates.clip_gradients == "parts")


def is_shape_step(step: int, schedule: ShapeSchedule) -> bool:
    """Whether step `step` (from 0) trains the shape."""
    return step < schedule.warmup or (schedule.interval > 0 and step % schedule.interval == 0)


def learning_rate_factor(step: int, interval: int, decay: float = 0.5) -> float:
    """Return decay^(number of LR_DECAY_LEVELS that step / interval has reached).

    It is 1 if the interval is 0.
    """
    if interval <= 0:
        return 1.0
    return decay ** sum(step >= level * interval for level in LR_DECAY_LEVELS)


def warmup_factor(step: int, num_steps: int) -> float:
    """Return a factor that rises linearly to 1 over the first `num_steps` steps."""
    return min(1.0, (step + 1) / num_steps) if num_steps > 0 else 1.0


def mask_alpha(step: int, start: float, *, period: int, max_doublings: int) -> float:
    """Return the sharpness of the soft mask.

    It is doubled every `period` steps (0: never), at most `max_doublings` times; -1 doublings are
    no limit but MOST_DOUBLINGS.
    """
    limit = max_doublings if max_doublings >= 0 else MOST_DOUBLINGS
    doublings = 0 if period <= 0 else min(step // period, limit)
    return start * 2.0 ** doublings


def mask_loss_weight(alpha: float) -> float:
    """Return the weight of the soft-mask loss, 100 / alpha."""
    return 100.0 / alpha


def occlusion_threshold(step: int, values: tuple[float, ...], starts: tuple[int, ...]) -> float:
    """Return the threshold of the occlusion test, a squared distance in object units squared.

    Args:
        step: number of steps before this one.
        values: thresholds in order of use, one more than `starts`.
        starts: steps at which the second, third, ... value begins.
    """
    if len(values) != len(starts) + 1:
        raise ConfigError(f"occ_threshold has {len(values)} values and occ_threshold_steps "
                          f"{len(starts)}, need one step less than values")
    return values[sum(step >= start for start in starts)]
