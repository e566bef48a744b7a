"""What is shipped is what validation found best: the record of a fold, and what a prediction makes of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from nnreg.dataset.keypoints import write_keypoints
from nnreg.engine import register
from nnreg.errors import PredictionError, RegistrationError
from nnreg.inference.registration import method as methods
from nnreg.inference.registration import pair_predictors
from nnreg.inference.registration.method import FILE_NAME, MethodRecord, method_of, read_record, write_record
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.rules.method import FEWEST_COMPARED, prediction_method
from nnreg.training import distributed

NOISE = np.random.default_rng(0).normal(size=20)
NO_FOLDS = dict.fromkeys(("network", "refined", "engine"), 0.0)


def _values(network: float, refined: float, engine: float, *, spread: float = 0.01, count: int = 20) -> dict[str, list[float]]:
    """Methods that share the difficulty of the pairs, each with a little noise of its own."""
    difficulty = 0.1 * NOISE[:count]
    means = {"network": network, "refined": refined, "engine": engine}
    return {name: list(mean + difficulty + spread * np.roll(NOISE, 5 * index)[:count]) for index, (name, mean) in enumerate(means.items())}


@pytest.mark.parametrize(
    ("means", "wins"), [((0.84, 0.81, 0.77), "network"), ((0.80, 0.86, 0.82), "refined"), ((0.70, 0.75, 0.80), "engine"), ((0.84, 0.841, 0.80), "network")]
)
def test_the_best_wins_and_of_equals_the_fastest(means, wins):
    found = prediction_method("dice_after", _values(*means), NO_FOLDS)
    assert found.value == wins
    assert "Dice over 20 validation pairs" in found.because


def test_distances_are_better_when_they_are_less():
    found = prediction_method("tre_mm_after", _values(2.0, 1.5, 2.5), NO_FOLDS)
    assert found.value == "refined"
    assert "network 1.980, refined 1.480" in found.because


def test_what_wins_is_never_beaten_by_the_engine_beyond_chance():
    rng = np.random.default_rng(1)
    for _ in range(50):
        values = {name: rng.normal(rng.normal(0.8, 0.02), 0.03, 15) for name in NO_FOLDS}
        gain = values["engine"] - values[prediction_method("dice_after", values, NO_FOLDS).value]
        assert gain.mean() <= 2 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_of_equals_those_that_do_not_fold_go_first():
    folds = NO_FOLDS | {"network": 0.4}
    assert prediction_method("dice_after", _values(0.84, 0.841, 0.80), folds).value == "refined"
    assert prediction_method("dice_after", _values(0.90, 0.841, 0.80), folds).value == "network"


def test_of_few_pairs_the_mean_decides():
    few = _values(0.80, 0.802, 0.79, spread=0.1, count=FEWEST_COMPARED - 1)
    best = max(few, key=lambda name: np.mean(few[name]))
    found = prediction_method("dice_after", few, NO_FOLDS)
    assert found.value == best
    assert "too few" in found.because


def _record(method: str, values: dict[str, list[float]]) -> MethodRecord:
    zeros = tuple(0.0 for _ in values["network"])
    measured = {name: {"dice_after": tuple(column), "sdlogj": zeros, "folding_percent": zeros, "seconds": zeros} for name, column in values.items()}
    return MethodRecord(method, "measured", "dice_after", tuple(f"p{index}" for index in range(len(zeros))), measured)


def test_folds_decide_together_and_speak_for_the_one_trained_on_all(tmp_path):
    for name in ("0", "1", "all"):
        (tmp_path / f"fold_{name}").mkdir()
    write_record(tmp_path / "fold_0", _record("network", _values(0.80, 0.79, 0.70, count=6)))
    write_record(tmp_path / "fold_1", _record("refined", _values(0.80, 0.90, 0.70)))
    assert read_record(tmp_path / "fold_0").method == "network"
    assert method_of(tmp_path, ["0"], Optimisation(), supervised=True).value == "network"
    for folds in (["0", "1"], ["all"]):
        assert method_of(tmp_path, folds, Optimisation(), supervised=True).value == "refined"


def test_a_fold_whose_pairs_have_no_labels_does_not_decide_by_correlation(tmp_path):
    """Of a network that labels taught: it stays alone, and the folds that have labels speak for the model."""
    for name in ("0", "1"):
        (tmp_path / f"fold_{name}").mkdir()
    write_record(tmp_path / "fold_0", MethodRecord("network", "labels taught it", "ncc_after", (), {}))
    for folds in (["0"], ["all"]):
        assert method_of(tmp_path, folds, Optimisation(), supervised=True).value == "network"
    write_record(tmp_path / "fold_1", _record("refined", _values(0.80, 0.90, 0.70)))
    assert method_of(tmp_path, ["0", "1"], Optimisation(), supervised=True).value == "refined"


@pytest.mark.parametrize(
    ("rows", "figure"),
    [
        ([{"dice_after": 0.8, "ncc_after": 0.9}, {"tre_mm_after": 2.0, "ncc_after": 0.9}, {"tre_mm_after": 2.0, "ncc_after": 0.9}], "tre_mm_after"),
        ([{"dice_after": 0.8}, {"tre_mm_after": 2.0}], "dice_after"),
        ([{"dice_after": float("nan"), "ncc_after": 0.9}], "ncc_after"),
        ([{}], None),
    ],
)
def test_what_most_pairs_have_decides(rows, figure):
    assert methods._figure(rows, Optimisation(similarity="lncc")) == figure


@pytest.mark.parametrize(
    ("folds", "supervised", "refinement", "wins"),
    [(["0"], True, "fast", "refined"), (["all"], True, "fast", "network"), (["all"], False, "fast", "refined"), (["0"], False, None, "network")],
)
def test_without_a_record_the_reason_says_so(tmp_path, folds, supervised, refinement, wins):
    found = method_of(tmp_path, folds, Optimisation(refinement=refinement), supervised=supervised)
    assert found.value == wins
    assert "compared" in found.because or "no refinement" in found.because


@pytest.mark.parametrize("content", ["{}", "[1]", "{"])
def test_a_damaged_record_is_told(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(PredictionError, match=FILE_NAME):
        read_record(tmp_path)


def test_a_fold_compares_on_the_pairs_it_did_not_see_and_a_prediction_follows(plane, flat, tmp_path, capsys):
    content = json.loads((plane.fold(0) / FILE_NAME).read_text())
    summary = json.loads((plane.fold(0) / "validation_summary.json").read_text())
    assert content["pairs"] == [pair["name"] for pair in summary["pairs"]]
    assert content["measured"]["network"]["dice_after"] == [pair["metrics"]["dice_after"] for pair in summary["pairs"]]
    assert set(content["measured"]) == {"network", "refined", "engine"}
    assert f"(SDlogJ {np.mean(content['measured']['network']['sdlogj']):.2f}, " in content["because"]
    assert all(second > 0 for columns in content["measured"].values() for second in columns["seconds"])
    assert f"nnreg_predict uses {content['method']}: {content['because']}" in (plane.fold(0) / "training_log.txt").read_text()
    # what was trained on every case has none of its own
    assert not (flat.fold("all") / FILE_NAME).exists()
    copy = plane.copy(tmp_path / "copy")
    shutil.rmtree(copy.fold(1))
    write_record(copy.fold(0), _record("engine", _values(0.1, 0.1, 0.9)))
    found = copy.predict(tmp_path / "out", refine=True)
    assert (found["method"], found["because"]) == ("engine", "measured")
    assert "predicting by engine: measured" in capsys.readouterr().out
    assert all("succeeded" in pair for pair in found["pairs"])


def test_what_labels_taught_is_not_judged_by_pairs_without_any(plane, tmp_path):
    """The cases of the fold's validation have no labels, the training cases have; and keypoints that do not correspond."""
    twin = plane.copy(tmp_path)
    (twin.raw / "keypointsTr").mkdir()
    for count, case in enumerate(json.loads((twin.preprocessed / "splits_final.json").read_text())[0]["val"], start=1):
        twin.label(case).unlink()
        (twin.arrays / f"{case}_seg.b2nd").unlink()
        write_keypoints(twin.raw / "keypointsTr" / f"{case}.csv", [[4.0, 5.0]] * count)
    twin.train(0, "-tr", "label_dice")
    found = json.loads((twin.fold(0, "label_dice") / FILE_NAME).read_text())
    assert (found["method"], found["pairs"]) == ("network", [])
    assert "no validation pair has them" in found["because"]


def test_tuning_compares_what_would_be_shipped(plane, tmp_path):
    from nnreg.dataset.pairs import Pair
    from nnreg.inference.registration.validation_scores import trained_networks
    from nnreg.planning.plans import Plans

    copy = plane.copy(tmp_path)
    pairs = [Pair(pair["fixed"], pair["moving"]) for pair in json.loads((copy.fold(0) / "validation_summary.json").read_text())["pairs"]]
    alone = read_record(copy.fold(0)).measured["network"]["dice_after"]
    values = {"network": [0.3] * len(pairs), "refined": [0.4] * len(pairs), "engine": [0.2] * len(pairs)}
    for method, expected in (("network", list(alone)), ("refined", [0.4] * len(pairs))):
        record = _record(method, values)
        write_record(copy.fold(0), MethodRecord(method, "measured", record.figure, tuple(pair.name for pair in pairs), record.measured))
        (found,) = trained_networks(copy.results, Plans.read(copy.preprocessed / "nnRegPlans.json"), "dice_after", pairs)
        assert [found.figures[pair.name]["dice_after"] for pair in pairs] == expected


def test_a_prediction_is_not_gone_on_with_by_another_method(plane, tmp_path, capsys):
    plane.predict(tmp_path, "-f", "0", "--method", "network", refine=True)
    again = ["-f", "0", "--continue_prediction"]
    assert plane.try_predict(tmp_path, *again, "--method", "network", refine=True) == 0
    assert plane.try_predict(tmp_path, *again, "--method", "refined", refine=True) == 2
    assert "were predicted by method network, now it is refined" in capsys.readouterr().err


@pytest.fixture
def engine_devices(monkeypatch):
    """Devices that the engine was asked for, in their order; on none of them it is run but on the processor."""
    asked: list[str] = []

    def registered(**named):
        asked.append(named["device"])
        return register(**named | {"device": "cpu"})

    monkeypatch.setattr(pair_predictors, "register", registered)
    monkeypatch.setattr(distributed, "device_named", lambda name: torch.device("cpu"))  # a machine with a GPU, of which only the name is used
    return asked


@pytest.mark.parametrize(("named", "engine"), [("cuda:1", "cuda:1"), ("auto", "cpu")])
def test_a_fold_compares_with_the_engine_on_the_gpu_that_is_named(plane, tmp_path, engine_devices, named, engine):
    twin = plane.copy(tmp_path)
    twin.train(0, "--val", "-device", named)
    found = read_record(twin.fold(0))
    assert engine_devices == [engine] * 2 * len(found.pairs)
    assert set(found.measured) == {"network", "refined", "engine"}


def test_a_comparison_that_a_gpu_refuses_is_made_on_the_processor(plane, tmp_path, engine_devices, monkeypatch):
    """It comes after the training, which must not be lost."""
    lenient = pair_predictors.register

    def too_small(**named):
        if named["device"] == "cuda":
            raise RegistrationError("-device cuda: the pair does not fit into its memory.")
        return lenient(**named)

    monkeypatch.setattr(pair_predictors, "register", too_small)
    twin = plane.copy(tmp_path)
    with pytest.warns(UserWarning, match="compared on the processor: .*does not fit"):
        twin.train(0, "--val", "-device", "cuda")
    found = read_record(twin.fold(0))
    assert found.failed == {}
    assert engine_devices == ["cpu"] * 2 * len(found.pairs)
