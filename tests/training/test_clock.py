"""A time budget is kept, and what a bar promises is true."""

from __future__ import annotations

import pytest

from nnreg.planning.registration.plans import TimeBudget
from nnreg.training.logging import History
from nnreg.training.trainer.clock import Clock, time_left


class Day:
    """Epochs of given seconds, one after the other, on a clock of their own."""

    def __init__(self, budget: TimeBudget | None) -> None:
        self.time, self.history = 100.0, History()
        self.clock = Clock(budget, now=lambda: self.time)
        self.clock.start(self.history)

    def epoch(self, seconds: float) -> None:
        self.time += seconds
        self.history.add(len(self.history), {"epoch_seconds": seconds})


BUDGET = TimeBudget(seconds=1000, epoch_seconds=30, validation_seconds=100)


@pytest.mark.parametrize("pace", [0.5, 1.0, 1.1, 1.5, 3.0])
def test_whatever_the_pace_the_budget_is_kept(pace):
    day, epochs = Day(BUDGET), 28
    planned = epochs
    while len(day.history) < epochs:
        day.epoch(30 * pace * (2 if not len(day.history) else 1))
        epochs = day.clock.fitting(day.history, planned)
    total = day.time - 100 + 100 * max(1, pace)
    assert total <= 1.001 * 1000
    assert epochs == planned or total > 0.9 * 1000
    assert (epochs == planned) == (pace <= 1.0)


def test_a_slow_hour_is_made_up_for():
    day = Day(BUDGET)
    for seconds in (60, 60, 60, 60):
        day.epoch(seconds)
    fewer = day.clock.fitting(day.history, 28)
    for seconds in (10,) * 8:
        day.epoch(seconds)
    assert fewer < day.clock.fitting(day.history, 28) <= 28


def test_without_a_budget_nothing_is_shortened():
    day = Day(None)
    for _ in range(5):
        day.epoch(1e6)
    assert day.clock.fitting(day.history, 28) == 28


def test_what_is_left_is_right_after_two_epochs():
    day = Day(BUDGET)
    assert day.clock.left(day.history, 28, 3.0) is None
    day.epoch(90)
    day.epoch(30)
    for within in (0.0, 12.0):
        assert day.clock.left(day.history, 28, within) == pytest.approx(26 * 30 - within + 100)
    assert time_left(day.clock.left(day.history, 28, 0.0)) == ", 14m40s left"
    assert time_left(None) == ""


def test_earlier_sessions_count():
    day = Day(BUDGET)
    for _ in range(4):
        day.epoch(40)
    day.time += 5000  # the machine was off
    day.clock.start(day.history)
    assert day.clock.spent == pytest.approx(160)


def test_a_training_that_falls_behind_ends_in_time_and_says_so(plane, tmp_path):
    """Planned for a budget that is over at once: the epochs that have to be are trained, the fold is whole."""
    import json

    from nnreg.cli import train

    copy = plane.copy(tmp_path)
    path = copy.preprocessed / "nnRegPlans.json"
    content = json.loads(path.read_text())
    budget = {"seconds": 0.01, "epoch_seconds": 1.0, "validation_seconds": 1.0}
    content["configurations"]["2d"]["training"] |= {"epochs": 6, "iterations_per_epoch": 1, "validation_iterations": 1, "time_budget": budget}
    path.write_text(json.dumps(content))
    assert train.main([copy.id, "2d", "2", "-device", "cpu", "-q", *copy.where]) == 0
    log = (copy.fold(2) / "training_log.txt").read_text()
    assert "2 epochs instead of 6" in log
    assert "[Epoch 003" not in log
    assert (copy.fold(2) / "checkpoint_final.pth").is_file()
    # a length that is asked for is kept
    assert train.main([copy.id, "2d", "3", "--epochs", "3", "-device", "cpu", "-q", *copy.where]) == 0
    assert "[Epoch 003/003]" in (copy.fold(3) / "training_log.txt").read_text()
