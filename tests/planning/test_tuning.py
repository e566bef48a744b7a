"""Laws of the ranking, what is tried, and what becomes of the plans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import rankdata

from nnreg.engine.names import ALIGNMENTS
from nnreg.planning.plans import OPTIMISE, Plans, check_plans
from nnreg.planning.registration.engine_settings import Optimisation, Score, Tuning
from nnreg.planning.registration.planner import plan
from nnreg.planning.registration.tuning import MOST_FOLDING, PLANNED, SIMILARITIES, alternatives, before_tuning, changes, ranked, still_tuned, table, tuned


def _score(name: str, accuracy: float, robust30: float, sdlogj: float, **more: object) -> Score:
    return Score(**{"name": name, "accuracy": accuracy, "robust30": robust30, "sdlogj": sdlogj, "folding_percent": 0.0, "seconds": 1.0, **more})


def _random(seed: int, count: int = 6) -> list[Score]:
    """Scores between 0 and 1, some equal."""
    numbers = np.random.default_rng(seed).integers(1, 6, (count, 3)) / 6
    return [_score(PLANNED if not index else f"other {index}", *row) for index, row in enumerate(numbers.tolist())]


def _tuning(plans: Plans, *scores: Score) -> Tuning:
    ordered = ranked(scores, higher_is_better=True)
    return Tuning("dice", ("a__b", "b__c"), "digest", ordered, plans.optimisation, plans.recommended, plans.because["recommended"])


@pytest.fixture
def plans(fingerprint):
    return plan(fingerprint())


@pytest.mark.parametrize("seed", range(5))
def test_what_is_better_in_everything_wins(seed):
    best = _score("best", 1.1, 1.1, 0.1)
    assert ranked([*_random(seed), best], higher_is_better=True)[0] == dataclasses.replace(best, rank=1.0)
    nearest = _score("nearest", 0.1, 0.1, 0.1)
    assert ranked([*_random(seed), nearest], higher_is_better=False)[0] == dataclasses.replace(nearest, rank=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_scores_does_not_matter(seed):
    scores = _random(seed)
    shuffled = [scores[index] for index in np.random.default_rng(seed).permutation(len(scores))]
    assert ranked(shuffled, higher_is_better=True) == ranked(scores, higher_is_better=True)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_the_means_of_average_ranks(seed):
    scores = _random(seed)
    columns = [[-score.accuracy for score in scores], [-score.robust30 for score in scores], [score.sdlogj for score in scores]]
    expected = dict(zip([score.name for score in scores], np.mean([rankdata(column) for column in columns], axis=0), strict=True))
    for score in ranked(scores, higher_is_better=True):
        assert score.rank == pytest.approx(expected[score.name])


def test_of_equal_ranks_the_planned_settings_come_first():
    same = [_score(name, 0.8, 0.7, 0.2) for name in ("a", PLANNED, "z")]
    assert [score.name for score in ranked(same, higher_is_better=True)] == [PLANNED, "a", "z"]


def test_folding_disqualifies_and_moves_nobody_else():
    scores = _random(1)
    folded = _score("folded", 2.0, 2.0, 0.0, folding_percent=MOST_FOLDING * 1.01)
    found = ranked([folded, *scores], higher_is_better=True)
    assert found[-1].name == "folded"
    assert found[-1].rank is None
    assert "folds" in found[-1].problem
    assert found[:-1] == ranked(scores, higher_is_better=True)
    allowed = dataclasses.replace(folded, folding_percent=MOST_FOLDING)
    assert ranked([allowed, *scores], higher_is_better=True)[0].name == "folded"


def test_what_was_not_measured_is_worst():
    scores = [_score(PLANNED, 0.1, 0.1, 0.9), _score("blank", None, None, None)]
    assert ranked(scores, higher_is_better=True)[0].name == PLANNED


@pytest.mark.parametrize("relation", SIMILARITIES)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_each_alternative_differs_in_one_setting_that_plans_allow(plans, relation, alignment):
    planned = Optimisation(similarity=SIMILARITIES[relation][0], alignment=alignment)
    found = alternatives(planned, relation)
    assert next(iter(found.items())) == (PLANNED, planned)
    assert len(set(map(str, found.values()))) == len(found)
    for name, settings in found.items():
        differing = changes(planned, settings)
        assert len(differing) == (name != PLANNED)
        assert " ".join(f"{key} {value}" for key, value in differing.items()) == (name if name != PLANNED else "")
        assert settings.similarity in SIMILARITIES[relation]
        check_plans(plans.replace(optimisation=settings), "here")
    assert {"preset fast", "preset accurate"} < found.keys()
    assert sum(name.startswith("alignment") for name in found) in (1, 2)
    assert {"smoothness 0.8", "smoothness 1.25"} < found.keys()
    assert ("radius 4.0" in found) == (planned.similarity in ("lncc", "nmi+gradient", "auto"))


def test_the_winner_is_in_the_plans_with_its_numbers_and_comes_out_again(plans, tmp_path):
    tuning = _tuning(plans, _score(PLANNED, 0.7, 0.6, 0.3), _score("preset fast", 0.8, 0.7, 0.2, changes={"preset": "fast"}))
    result = tuned(plans, tuning)
    assert (result.optimisation.preset, result.recommended) == ("fast", plans.recommended)
    for number in ("0.8000", "0.7000", "rank 1.00", "rank 2.00", plans.optimisation.because["preset"]):
        assert number in result.optimisation.because["preset"]
    result.write(tmp_path / "plans.json")
    assert Plans.read(tmp_path / "plans.json") == result
    assert before_tuning(result) == plans
    assert [row[0] for row in table(tuning)[1:]] == ["preset fast", PLANNED]


def test_a_number_that_wins_is_a_number_in_the_plans(plans, tmp_path):
    changed = {"radius": "4.0"}
    result = tuned(plans, _tuning(plans, _score(PLANNED, 0.7, 0.6, 0.3), _score("radius 4.0", 0.8, 0.7, 0.2, changes=changed)))
    assert result.optimisation.radius == 4.0
    result.write(tmp_path / "plans.json")
    assert Plans.read(tmp_path / "plans.json") == result
    assert before_tuning(result) == plans


def test_settings_edited_after_tuning_are_what_is_planned(plans):
    result = tuned(plans, _tuning(plans, _score(PLANNED, 0.7, 0.6, 0.3), _score("preset fast", 0.8, 0.7, 0.2, changes={"preset": "fast"})))
    edited = dataclasses.replace(result.optimisation, similarity="mind")
    assert before_tuning(result.replace(optimisation=edited)).optimisation == edited


def test_nothing_changes_where_all_are_disqualified(plans):
    scores = [_score(PLANNED, 0.7, 0.6, 0.3, folding_percent=1.0), _score("preset fast", 0.8, 0.7, 0.2, folding_percent=2.0, changes={"preset": "fast"})]
    result = tuned(plans, _tuning(plans, *scores))
    assert result.optimisation == plans.optimisation
    assert "as planned" in result.because["tuning"]


@pytest.mark.parametrize("accuracy", [0.9, 0.5])
def test_recommended_changes_only_where_a_network_was_measured(plans, accuracy):
    name = next(iter(plans.configurations))
    network = _score("trained", accuracy, accuracy, 1 - accuracy, configuration=name)
    fast = _score("preset fast", 0.8, 0.7, 0.2, changes={"preset": "fast"})
    result = tuned(plans, _tuning(plans, _score(PLANNED, 0.7, 0.6, 0.3), network, fast))
    assert result.recommended == (name if accuracy > 0.8 else OPTIMISE)
    assert result.because["recommended"].startswith("tuned")
    assert result.optimisation.preset == "fast"  # also what refines
    assert before_tuning(result) == plans


def test_plans_made_anew_are_tuned_while_files_and_settings_are_the_same(plans):
    tuning = _tuning(plans, _score(PLANNED, 0.7, 0.6, 0.3), _score("preset fast", 0.8, 0.7, 0.2, changes={"preset": "fast"}))
    assert still_tuned(plans, tuning, "digest") == tuned(plans, tuning)
    assert still_tuned(plans, tuning, "another") == plans
    other = plans.replace(optimisation=dataclasses.replace(plans.optimisation, alignment="none" if plans.optimisation.alignment != "none" else "rigid"))
    assert still_tuned(other, tuning, "digest") == other
