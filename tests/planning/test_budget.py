"""Plans for a time budget: laws that hold at any speed."""

import dataclasses
from itertools import pairwise

import pytest

from nnreg.errors import PlansError
from nnreg.planning.registration.duration import Budget, Speed, parse_duration, readable_duration, step_work
from nnreg.planning.registration.planner import plan
from nnreg.planning.registration.rules import budget

SPEED = Speed("a machine", 10.0, 1e-4, 1.5e-2, 1e-3, 0.1, 0.5, 4.0, 20.0)


@pytest.fixture
def brains(fingerprint, image):
    return fingerprint({f"case{index}": image((160, 192, 144), (1.0, 1.0, 1.0)) for index in range(12)})


def _planned(measured, seconds, speed=SPEED):
    plans = plan(measured, time_budget=Budget(seconds, speed))
    configuration = plans.configuration(plans.to_train)
    return configuration, configuration.training.epochs * configuration.training.iterations_per_epoch


def _faster(times):
    return Speed("a faster machine", *(value / times for value in dataclasses.astuple(SPEED)[1:9]))


def test_what_is_planned_fits_and_is_worth_it(brains):
    for seconds in (900, 3600, 50_000, 1e7):
        configuration, steps = _planned(brains, seconds)
        assert configuration.training_seconds <= (1 - budget.MARGIN) * seconds
        assert steps >= budget.FEWEST_STEPS
        assert max(configuration.grid) >= budget.COARSEST[3]


def test_a_longer_budget_or_a_faster_machine_never_plans_less(brains):
    budgets = [700 * 2.1**power for power in range(6)]
    for speed in (SPEED, _faster(2)):
        plans = [_planned(brains, seconds, speed) for seconds in budgets]
        for (shorter, fewer), (longer, more) in pairwise(plans):
            assert more >= fewer
            assert all(after <= before for after, before in zip(longer.spacing, shorter.spacing, strict=True))
            assert longer.training.validation_pairs >= shorter.training.validation_pairs
            assert longer.training.compared_pairs >= shorter.training.compared_pairs
    # everything twice as fast is the same as twice the time
    for seconds in budgets:
        assert _planned(brains, seconds, _faster(2))[0].grid == _planned(brains, 2 * seconds)[0].grid


def test_six_pairs_are_compared_before_the_network_registers_more():
    validation = budget.Validation(6.0, 50, 24.0, 20)
    fitting = [validation.fitting(seconds) for seconds in range(30, 2000)]
    assert [validation.fitting(seconds) for seconds in (30, 120, 180, 240, 960)] == [(1, 1), (4, 4), (6, 6), (16, 6), (50, 20)]
    for (pairs, compared), (more_pairs, more_compared) in pairwise(fitting):
        assert more_pairs >= pairs
        assert more_compared >= compared
    assert all(6 * pairs + 24 * compared <= seconds for seconds, (pairs, compared) in enumerate(fitting, 30))


def test_half_precision_is_planned_where_it_was_measured_to_be_quicker(brains):
    for measured, planned in (("bf16", "bf16"), ("off", "auto"), ("auto", "auto")):
        configuration, _ = _planned(brains, 3600, dataclasses.replace(SPEED, precision=measured))
        assert configuration.training.mixed_precision == planned
        assert "training.mixed_precision" in configuration.because


def test_labels_and_little_time_change_rate_weights_and_field_and_nothing_else_does(fingerprint, image):
    def planned(seconds, labels=True, **pairing):
        measured = fingerprint({f"case{index:02d}": image((36, 52, 36), (1.0, 1.0, 1.0), labels=labels) for index in range(20)}, **pairing)
        return plan(measured, time_budget=None if seconds is None else Budget(seconds, SPEED)).configuration("3d_fullres")

    def choices(configuration):
        training = configuration.training
        weights = [term.weight for term in (*training.supervision, *training.regularisation)]
        return weights, training.learning_rate, training.lr_schedule, configuration.architecture.kwargs["field_resolution"]

    assert choices(planned(None)) == ([1.0, 1.0], 1e-3, "poly", 1)
    assert choices(planned(1800)) == ([3.0, 2.0], 5e-3, "cosine", 2)
    assert choices(planned(1e9)) == choices(planned(None))  # time for every step of a training without a budget
    assert choices(planned(1800, labels=False)) == ([1.0], 1e-3, "poly", 2)
    within = {"pairing": "pairs", "pairs": tuple((f"case{index:02d}", f"case{index + 1:02d}") for index in range(0, 20, 2))}
    assert choices(planned(1800, **within)) == ([1.0, 1.0], 1e-3, "poly", 2)
    told = planned(1800).because
    for key in ("training.supervision", "training.regularisation", "training.optimizer", "architecture.kwargs.field_resolution"):
        assert "[evidence: short trainings]" in told[key]


def test_without_end_the_plan_is_the_one_without_a_budget(brains):
    unlimited = plan(brains)
    configuration, steps = _planned(brains, 1e9)
    expected = unlimited.configuration(unlimited.to_train)
    assert (configuration.grid, configuration.architecture) == (expected.grid, expected.architecture)
    assert steps == expected.training.epochs * expected.training.iterations_per_epoch


def test_what_is_too_short_says_what_would_do(brains):
    with pytest.raises(PlansError, match=r"--time_budget 1m00s.*need (\S+)\. Allow") as error:
        _planned(brains, 60)
    needed = parse_duration(str(error.value).split("need ")[1].split(". Allow")[0])
    assert _planned(brains, 1.01 * needed)[1] >= budget.FEWEST_STEPS


def test_every_decision_of_a_budget_says_so(brains):
    configuration, _ = _planned(brains, 3600)
    for told in ("--time_budget", "a machine"):
        assert told in configuration.because["training.epochs"]
    assert "time budget" in configuration.because["spacing"]
    assert plan(brains).configurations["3d_fullres"].training_seconds is None


def test_work_grows_with_grid_width_and_channels(brains):
    unlimited = plan(brains).configurations["3d_lowres"]
    work = step_work(unlimited.grid, unlimited.architecture, channels=1)
    finer = step_work([2 * size for size in unlimited.grid], unlimited.architecture, channels=1)
    assert 7 < finer.products / work.products < 9
    assert 7 < finer.numbers / work.numbers < 9
    assert step_work(unlimited.grid, unlimited.architecture, channels=2).numbers > work.numbers


def test_times_are_read_as_they_are_written():
    assert [parse_duration(text) for text in ("90s", "30m", "2h", "1h30m", "1.5h", "1d")] == [90, 1800, 7200, 5400, 5400, 86400]
    for text in ("", "30", "m", "-5m", "0s", "5 m x", "30m1h"):
        with pytest.raises(PlansError, match="--time_budget"):
            parse_duration(text)
    for seconds in (61, 5400, 7260, 45):
        assert parse_duration(readable_duration(seconds)) == seconds
