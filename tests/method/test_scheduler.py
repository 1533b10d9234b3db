"""The schedules of the method's training section, step by step."""
from __future__ import annotations

import pytest

from scheduler import (
    OuterPlan,
    ShapeSchedule,
    StepPlan,
    is_shape_step,
    learning_rate_factor,
    mask_alpha,
    mask_loss_weight,
    occlusion_threshold,
    plan_outer_step,
    plan_step,
    shape_schedule,
    warmup_factor,
)
from utils.config import parser as cfg
from utils.config.sections import RatesConfig, TracingConfig
from utils.config.stage_sections import MetaConfig
from utils.errors import ConfigError


@pytest.mark.parametrize("interval", [500, 2000])
def test_rates_halve_when_the_levels_are_reached(interval):
    for count, level in enumerate((1, 3, 7, 15, 31, 63), start=1):
        assert learning_rate_factor(level * interval - 1, interval) == 0.5 ** (count - 1)
        assert learning_rate_factor(level * interval, interval) == 0.5 ** count
    assert learning_rate_factor(10 ** 9, interval) == 0.5 ** 6
    # interval 30 of the release jumped from level 4 to 6; here nothing happens there
    assert learning_rate_factor(30 * interval, interval) == 0.5 ** 4


def test_rates_without_decay_and_with_another_factor():
    assert learning_rate_factor(10 ** 6, 0) == 1.0
    assert learning_rate_factor(3000, 1000, 0.1) == pytest.approx(0.01)


def test_alpha_doubles_at_most_three_times():
    expected = {0: 50, 1999: 50, 2000: 100, 3999: 100, 4000: 200, 6000: 400, 8000: 400, 99999: 400}
    assert {step: mask_alpha(step, 50.0, period=2000, max_doublings=3)
            for step in expected} == expected
    assert mask_alpha(10 ** 6, 50.0, period=0, max_doublings=3) == 50
    assert mask_alpha(2000 * 7, 50.0, period=2000, max_doublings=-1) == 50 * 2 ** 7   # no limit
    assert mask_alpha(10 ** 9, 50.0, period=2000, max_doublings=-1) < 1e20    # finite in float32
    assert mask_loss_weight(50.0) == 2.0 and mask_loss_weight(400.0) == 0.25


@pytest.mark.parametrize("starts, changes", [((5000, 10000), (5000, 10000)),
                                             ((3000, 8000), (3000, 8000))])
def test_occlusion_thresholds(starts, changes):
    values = (1e-3, 1e-4, 1e-5)
    assert occlusion_threshold(0, values, starts) == 1e-3
    for index, step in enumerate(changes):
        assert occlusion_threshold(step - 1, values, starts) == values[index]
        assert occlusion_threshold(step, values, starts) == values[index + 1]
    assert occlusion_threshold(10 ** 6, values, starts) == 1e-5
    assert occlusion_threshold(10 ** 6, (5e-4,), ()) == 5e-4


def test_thresholds_and_their_steps_must_fit():
    with pytest.raises(ConfigError, match="occ_threshold has 2 values and occ_threshold_steps 2"):
        occlusion_threshold(0, (1e-3, 1e-4), (5000, 10000))


@pytest.mark.parametrize("name, expected", [
    ("dtu", (50, 7)), ("nlr", (100, 3)), ("shapenet", (2000, 5)), ("", (50, 7))])
def test_shape_schedule_by_dataset_and_by_flags(name, expected):
    def rates(*flags: str) -> RatesConfig:
        return cfg.parse_config(cfg.TRAIN_SECTIONS, ["--experiment_name", "x", *flags]).rates

    assert shape_schedule(rates(), name) == ShapeSchedule(*expected)
    flags = ("--shape_warmup_steps", "0", "--shape_interval", "2")
    assert shape_schedule(rates(*flags), name) == ShapeSchedule(0, 2)
    mixed = shape_schedule(rates("--shape_interval", "4"), name)
    assert mixed == ShapeSchedule(expected[0], 4)


@pytest.mark.parametrize("name, warmup, interval", [("dtu", 50, 7), ("nlr", 100, 3),
                                                    ("shapenet", 2000, 5)])
def test_steps_that_train_the_shape(name, warmup, interval):
    """All of the first, then every interval-th: the steps that the interval divides."""
    schedule = shape_schedule(RatesConfig(), name)
    chosen = [step for step in range(warmup + 50) if is_shape_step(step, schedule)]
    assert chosen[:warmup] == list(range(warmup))
    later = chosen[warmup:]
    assert later[0] - (warmup - 1) <= interval
    assert {b - a for a, b in zip(later, later[1:])} == {interval}


def test_no_interval_means_never_again():
    chosen = [is_shape_step(step, ShapeSchedule(2, 0)) for step in range(5)]
    assert chosen == [True, True, False, False, False]


def test_plan_of_a_step_joins_the_schedules():
    rates = RatesConfig(lr=5e-4, lr_sdf=1e-4, lr_sdf_decay_steps=500, lr_encdec_decay_steps=2000)
    tracing = TracingConfig(rt_mask_alpha_period=2000, rt_mask_alpha_period_max=3)
    first = plan_step(0, rates, tracing, dataset_name="dtu", steps_per_epoch=10)
    assert (first.train_shape, first.alpha, first.occ_threshold) == (True, 50, 1e-3)
    assert (first.lr_sdf, first.lr) == (1e-4, 5e-4)
    later = plan_step(6001, rates, tracing, dataset_name="dtu", steps_per_epoch=10)
    assert (later.train_shape, later.alpha, later.occ_threshold) == (False, 400, 1e-4)
    assert later.lr_sdf == pytest.approx(1e-4 / 8)         # 500, 1500 and 3500 are past
    assert later.lr == pytest.approx(5e-4 / 4)             # 2000 and 6000 are past
    assert plan_step(6006, rates, tracing, dataset_name="dtu", steps_per_epoch=10).train_shape


def test_alpha_period_in_epochs_goes_before_the_one_in_steps():
    tracing = TracingConfig(rt_mask_alpha_period=1000, rt_mask_alpha_period_epochs=3)
    for step, alpha in ((29, 50), (30, 100), (60, 200)):
        plan = plan_step(step, RatesConfig(), tracing, dataset_name="dtu", steps_per_epoch=10)
        assert plan.alpha == alpha


def test_outer_steps_halve_the_inner_rates():
    """Every 60 outer steps those of E, D and G, every 400 that of Phi."""
    meta = MetaConfig(meta_lr=1e-2, meta_lr_decay_steps=500)
    assert plan_outer_step(0, meta) == OuterPlan(1e-2, 5e-2, 1.0, 1.0)
    assert plan_outer_step(59, meta) == plan_outer_step(0, meta)
    assert plan_outer_step(60, meta).inner_factor == 0.5
    later = plan_outer_step(800, meta)
    assert (later.inner_factor_sdf, later.inner_factor) == (1 / 4, 1 / 2**13)
    assert (later.meta_lr_sdf, later.meta_lr) == (5e-3, 2.5e-2)
    still = plan_outer_step(10**6, MetaConfig(meta_inner_decay_steps=0,
                                              meta_inner_sdf_decay_steps=0, meta_lr_decay_steps=0))
    assert (still.inner_factor_sdf, still.inner_factor, still.meta_lr_sdf) == (1, 1, 0.1)


def test_an_inner_step_always_trains_the_shape():
    plan = StepPlan(train_shape=False, alpha=50, occ_threshold=5e-4, lr_sdf=1e-4, lr=5e-4)
    inner = OuterPlan(1e-2, 5e-2, 0.5, 0.25).inner(plan)
    assert inner == StepPlan(True, 50, 5e-4, 5e-5, 1.25e-4)


def test_the_rate_of_the_first_steps_rises_evenly():
    assert [warmup_factor(step, 4) for step in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1, 1, 1]
    assert warmup_factor(0, 0) == 1


def test_rates_warm_up_each_by_its_own_steps():
    rates = RatesConfig(lr=1.0, lr_sdf=2.0, lr_image_warmup_steps=4, lr_sdf_warmup_steps=2)
    plans = [plan_step(step, rates, TracingConfig(), dataset_name="dtu", steps_per_epoch=7)
             for step in range(5)]
    assert [plan.lr for plan in plans] == [0.25, 0.5, 0.75, 1, 1]
    assert [plan.lr_sdf for plan in plans] == [1, 2, 2, 2, 2]
