"""``--time_budget`` as it is typed, on a machine whose speed is known already."""

import pytest

from nnreg.cli import plan_experiment
from nnreg.errors import PlansError
from nnreg.files import read_json, write_json
from nnreg.planning.plans import Plans
from nnreg.planning.registration.duration import Speed
from nnreg.preprocessing.registration.speed import FILE_NAME, machine_speed, measured_as
from nnreg.typed import to_mapping
from tests.tiny import NO_PAIRS, QUIET, Tiny, spaces, succeeded, write_dataset

FAST = Speed("a known machine", 1.0, 1e-6, 1e-4, 1e-4, 0.01, 0.01, 0.5, 2.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    from nnreg.cli import extract_fingerprint

    result = Tiny(tmp_path_factory.mktemp("budget"), "Dataset006_Budget", "2d")
    write_dataset(result.raw, spaces((30, 34), list("abcdef")))
    succeeded(extract_fingerprint.main, "-d", result.id, *QUIET, *NO_PAIRS, *result.where)
    return result


def _plan(tiny, *more):
    return plan_experiment.main(["-d", tiny.id, *tiny.where, *more])


def test_the_command_plans_for_the_known_speed(measured, capsys):
    assert _plan(measured, "-overwrite_plans_name", "nnRegPlansFree") == 0
    free = Plans.read(measured.preprocessed / "nnRegPlansFree.json")
    write_json(measured.preprocessed.parent / FILE_NAME, {measured_as(free): to_mapping(FAST)})
    assert _plan(measured, "--time_budget", "90s") == 0
    assert "a known machine" in capsys.readouterr().out
    planned = Plans.read(measured.preprocessed / "nnRegPlans.json").configuration("2d")
    assert 0 < planned.training_seconds <= 90
    assert planned.training.batch_size == 1
    expected = free.configuration("2d").training
    steps = planned.training.epochs * planned.training.iterations_per_epoch
    assert 300 <= steps <= expected.epochs * expected.iterations_per_epoch


def test_what_cannot_be_is_refused_in_one_line(measured, capsys):
    for given, message in (("1s", "too short"), ("soon", "expected a time")):
        assert _plan(measured, "--time_budget", given) != 0
        error = capsys.readouterr().err.strip()
        assert message in error
        assert len(error.splitlines()) == 1
    assert _plan(measured, "--time_budget", "1h", "--task", "dense_prediction") != 0
    assert "--time_budget" in capsys.readouterr().err


def test_a_damaged_speed_is_refused(measured, tmp_path):
    plans = Plans.read(measured.preprocessed / "nnRegPlansFree.json")
    write_json(tmp_path / FILE_NAME, {measured_as(plans): {"machine": "x"}})
    with pytest.raises(PlansError, match=FILE_NAME):
        machine_speed(tmp_path, plans)
    assert read_json(tmp_path / FILE_NAME)


@pytest.mark.parametrize(("pace", "expected"), [(1.0, "2d"), (1e6, "optimise")])
def test_without_a_budget_an_hour_is_proposed_where_labels_teach(tmp_path, capsys, monkeypatch, pace, expected):
    from nnreg.cli import extract_fingerprint
    from nnreg.preprocessing.registration import pipeline

    monkeypatch.setattr(pipeline, "accelerator_wanted", lambda device: False)
    tiny = Tiny(tmp_path, "Dataset007_Hour", "2d")
    write_dataset(tiny.raw, spaces((12, 14), [f"c{index:02d}" for index in range(20)]))
    succeeded(extract_fingerprint.main, "-d", tiny.id, *QUIET, *NO_PAIRS, *tiny.where)
    speed = Speed("a known machine", *(value * pace for value in (1.0, 1e-6, 1e-4, 1e-4, 0.01, 0.01, 0.5, 2.0)))
    monkeypatch.setattr(pipeline, "machine_speed", lambda folder, plans: speed)
    capsys.readouterr()
    assert _plan(tiny) == 0
    said = capsys.readouterr().out
    planned = Plans.read(tiny.preprocessed / "nnRegPlans.json")
    assert planned.recommended == expected
    assert "measuring once" in said
    assert "[evidence: taught networks]" in planned.because["recommended"]
    assert ("too short" in planned.because["recommended"]) == (expected == "optimise")
    assert (planned.configuration("2d").training_seconds is None) == (expected == "optimise")
