"""Steps that are not finite: skipped, undone by a return to a checkpoint, or the end of a run."""
from __future__ import annotations

import pytest
import torch
from support.counting import Counter, RemoteCounter, steps_of

from utils.runs.recovery import RecoveryState
from utils.runs.task import LoopOptions


def test_a_step_that_is_not_finite_is_skipped_and_counted(make_loop, caplog):
    made, task = make_loop(LoopOptions(num_steps=6, save_interval=2))
    task.fails_at[3] = FloatingPointError("loss not finite: image")
    progress = made.run()
    assert progress.step == 6 and task.tried == [(step, 1.0) for step in range(6)]
    assert (progress.recovery.skipped, progress.recovery.returns) == (1, 0)
    assert [row["step"] for row in progress.curve if "loss_total" in row] == [1, 2, 3, 5, 6]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == \
        ["step 3 skipped, 1 so far: loss not finite: image"]


class Fragile(Counter):
    """Fails at some steps while the rates are above a bound."""

    def __init__(self, steps, bound):
        super().__init__()
        self.steps, self.bound = steps, bound

    def train_step(self, step):
        losses = super().train_step(step)
        if step in self.steps and self.rate_factor > self.bound:
            raise FloatingPointError("loss not finite: image")
        return losses


def test_three_in_a_row_return_with_half_the_rates(make_loop, caplog):
    """The numbers drawn after the return are those that were drawn before it."""
    options = LoopOptions(num_steps=9, save_interval=4)
    made, task = make_loop(options, task=Fragile({5, 6, 7}, 0.5))
    progress = made.run()
    assert [step for step, _ in task.tried] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8]
    assert [factor for _, factor in task.tried] == [1.0] * 8 + [0.5] * 5
    assert progress.step == 9 and progress.recovery.returns == 1
    assert [row["step"] for row in progress.curve] == list(range(1, 10))
    assert "returns to step 4, with 0.5 of the learning rates" in caplog.text
    plain, twin = make_loop(options, "--experiment_name", "plain")
    plain.run()
    assert torch.equal(task.total, twin.total)
    again, other = make_loop(LoopOptions(num_steps=10), task=Fragile(set(), 0))
    again.run()
    assert other.tried == [(9, 0.5)]              # a resumed run keeps the smaller rates


def test_before_the_first_checkpoint_it_returns_to_the_start(make_loop):
    made, task = make_loop(LoopOptions(num_steps=6), task=Fragile({1, 2, 3}, 0.25))
    progress = made.run(lambda: setattr(task, "total", torch.ones(())))
    assert [step for step, _ in task.tried] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert progress.recovery.rate_factor == 0.25 and progress.recovery.skipped == 6
    assert task.total >= 1 and steps_of(made) == [6]


def test_a_run_that_returns_do_not_help_ends_with_what_was_tried(make_loop):
    made, task = make_loop(LoopOptions(num_steps=9, save_interval=2), task=Fragile({3, 4, 5}, 0))
    with pytest.raises(FloatingPointError) as caught:
        made.run()
    for word in ("step 5", "loss not finite: image", "3 returns", "0.125 of the learning rates",
                 str(made.folder.checkpoints), "--lr"):
        assert word in str(caught.value)
    assert steps_of(made) == [2]                  # none in the midst of what fails
    assert [step for step, _ in task.tried] == [0, 1] + [2, 3, 4, 5] * 4


def test_failures_that_were_overcome_do_not_add_up(make_loop):
    """Each place needs one return; there are more places than tries."""
    made, task = make_loop(LoopOptions(num_steps=40, save_interval=4))
    plain = task.train_step

    def train_step(step):
        losses = plain(step)
        if step % 8 >= 5 and task.rate_factor > 0.5 ** (step // 8 + 1):
            raise FloatingPointError("loss not finite: image")
        return losses

    task.train_step = train_step
    progress = made.run()
    assert progress.step == 40 and progress.recovery.returns == 5


@pytest.mark.parametrize("stored", [{}, {"setbacks": None}, {"setbacks": {"other": 1}},
                                    {"setbacks": {"skipped": "many"}},
                                    {"setbacks": {"returns": -3}}])
def test_recovery_states_of_other_versions_are_new(stored):
    assert RecoveryState.of(stored) == RecoveryState()
    assert RecoveryState.of({"setbacks": {"skipped": 3, "returns": 1, "other": 2}}) == \
        RecoveryState(skipped=3, returns=1)


def test_a_total_on_a_gpu_that_is_not_finite_is_never_saved(make_loop):
    """It is seen when losses are next read, and the run returns to a checkpoint at once."""
    made, task = make_loop(LoopOptions(num_steps=50, save_interval=4), task=RemoteCounter(bad=5))
    with pytest.raises(FloatingPointError, match="step 8: .*3 returns.*last good state"):
        made.run()
    assert steps_of(made) == [4]
    assert [step for step, _ in task.tried] == list(range(8)) + [4, 5, 6, 7] * 3
