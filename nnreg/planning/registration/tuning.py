"""The empirical step, without the measuring: which alternatives to a plan are worth a try, which of them wins, and the plans that follow from it.

Ranked as Learn2Reg does: by accuracy, by the accuracy of the worst 30 % of the pairs, and by smoothness.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from nnreg.engine.names import AUTO
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import find_similarity, similarity_names
from nnreg.planning.decision import counted
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.engine_settings import Optimisation, Score, Tuning
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.planning.registration.rules.relation import DIFFERENT, MIXED, ONE, SCALE

PLANNED = "planned"
MOST_FOLDING = 0.1  # percent of the voxels of any pair
# by relation, the one that should suit it best first; those of other packages are tried after them
SIMILARITIES = {
    ONE: ("lncc", "lncc+mse", "mse", "nmi+gradient", "nmi", "mind"),
    SCALE: ("mse", "lncc+mse", "lncc", "nmi+gradient", "nmi", "mind"),
    DIFFERENT: ("nmi+gradient", "nmi", "mind"),
    MIXED: (AUTO, "nmi+gradient", "nmi", "mind"),
}
RADII, SMOOTHNESS = (3.0, 4.0), (0.8, 1.25)
NUMBERS = ("radius", "smoothness")  # settings that are numbers: a table of changes holds text
FREER = {"none": "rigid", "centre": "rigid", "rigid": "affine"}
STRICTER = {"affine": "rigid", "rigid": "centre", "centre": "none"}
TITLES = {"dice": "Dice", "keypoint_mm": "keypoints mm"}


def alternatives(planned: Optimisation, relation: str) -> dict[str, Optimisation]:
    """The planned settings first, then each that differs from them in one: presets, similarities, window, smoothness, alignment.

    Parameters
    ----------
    planned
        What the rules decided.
    relation
        Of the images of a pair (``modality_relation``): only similarities that suit it are tried.
    """
    tries = {
        "preset": PRESETS,
        "similarity": (*SIMILARITIES[relation], *_others(relation)),
        "radius": RADII if planned.similarity == AUTO or find_similarity(planned.similarity).windowed else (),
        "smoothness": SMOOTHNESS,
        "alignment": [table[planned.alignment] for table in (FREER, STRICTER) if planned.alignment in table],
    }
    result = {PLANNED: planned}
    for key, values in tries.items():
        for value in values:
            if value != getattr(planned, key):
                change: dict[str, Any] = {key: value}
                result[f"{key} {value}"] = dataclasses.replace(planned, **change)
    return result


def _others(relation: str) -> list[str]:
    """Similarities that no rule knows, as far as they suit the relation."""
    known = {name for names in SIMILARITIES.values() for name in names}
    return [name for name in similarity_names() if name not in known and (relation in (ONE, SCALE) or find_similarity(name).across_contrasts)]


def changes(planned: Optimisation, other: Optimisation) -> dict[str, str]:
    """Names and values of the settings that differ."""
    return {key: str(value) for key, value in _settings(other).items() if value != getattr(planned, key)}


def ranked(scores: Iterable[Score], *, higher_is_better: bool) -> tuple[Score, ...]:
    """The scores with their ranks, best first.

    The rank is the mean of three: by accuracy, by robust30 (`higher_is_better` or not) and by sdlogj (less is better); equal numbers share their ranks.
    Who folds more than 0.1 % in any pair, or has a problem already, comes last and gets no rank. Of equal ranks the planned settings come first, then the
    more accurate.
    """
    sign = -1.0 if higher_is_better else 1.0
    judged = [_judged(score) for score in scores]
    fair = [score for score in judged if not score.problem]
    columns = [[_number(score.accuracy, sign) for score in fair], [_number(score.robust30, sign) for score in fair], [_number(score.sdlogj) for score in fair]]
    means = np.mean([_ranks(column) for column in columns], axis=0) if fair else []
    placed = [dataclasses.replace(score, rank=float(mean)) for score, mean in zip(fair, means, strict=True)]
    placed.sort(key=lambda score: (score.rank, score.name != PLANNED, _number(score.accuracy, sign), score.name))
    return (*placed, *sorted((score for score in judged if score.problem), key=lambda score: (score.name != PLANNED, score.name)))


def before_tuning(plans: RegistrationPlans) -> RegistrationPlans:
    """The plans as the rules made them; settings edited since they were tuned are kept as they are, and count as planned."""
    tuning = plans.tuning
    if tuning is None:
        return plans
    bare = plans.replace(tuning=None)
    if _settings(plans.optimisation) != _settings(_winner(tuning)):
        return bare
    bare = bare.replace(optimisation=tuning.planned, because={key: text for key, text in plans.because.items() if key != "tuning"})
    if plans.recommended != _recommended(tuning):
        return bare
    return bare.replace(recommended=tuning.planned_recommended, because=bare.because | {"recommended": tuning.planned_because})


def tuned(plans: RegistrationPlans, tuning: Tuning) -> RegistrationPlans:
    """The plans (as the rules made them) with what won, why, and the table.

    `recommended` changes only if a trained network was measured too.
    """
    engine, planned = _best_engine(tuning), _planned_score(tuning)
    told = f"of {len(tuning.scores)} tried on {counted(len(tuning.pairs), 'training pair')}"
    because = dict(tuning.planned.because)
    if engine is None:
        result = f"{told} none is fit ({planned.problem}): as planned"
    elif engine.name == PLANNED:
        result = f"{told} the planned settings win: {describe(engine, tuning.measure)}"
    else:
        result = f"{told} {engine.name!r} wins: {describe(engine, tuning.measure)}; planned: {describe(planned, tuning.measure)}"
        for key in engine.changes:
            because[key] = f"tuned: {result}. The rules had {getattr(tuning.planned, key)!r}: {because.get(key, 'set by hand')}"
    reasons = plans.because | {"tuning": result}
    recommended = _recommended(tuning)
    if any(score.configuration for score in tuning.scores) and tuning.scores[0].rank is not None:
        reasons["recommended"] = f"tuned: {told} {tuning.scores[0].name!r} has the best rank. The rules had {plans.recommended!r}: {tuning.planned_because}"
    optimisation = dataclasses.replace(_winner(tuning), because=because)
    return plans.replace(optimisation=optimisation, recommended=recommended, because=reasons, tuning=tuning)


def still_tuned(plans: RegistrationPlans, earlier: Tuning | None, files: str | None) -> RegistrationPlans:
    """RegistrationPlans made anew, tuned as before where the same settings were planned and the measured files (their digest) are the same."""
    if earlier is None or files != earlier.files or _settings(earlier.planned) != _settings(plans.optimisation):
        return plans
    renewed = dataclasses.replace(
        earlier, planned=plans.optimisation, planned_recommended=plans.recommended, planned_because=plans.because.get("recommended", "set by hand")
    )
    if any(score.configuration is not None and score.configuration not in plans.configurations for score in earlier.scores):
        return plans
    return tuned(plans, renewed)


def describe(score: Score, measure: str) -> str:
    """A score in a few words."""
    if score.problem:
        return score.problem
    return (
        f"rank {score.rank:.2f}, {TITLES[measure]} {readable(score.accuracy, 4)}, worst 30 % {readable(score.robust30, 4)}, "
        f"SDlogJ {readable(score.sdlogj, 4)}, folding {readable(score.folding_percent, 4)} %, {readable(score.seconds, 1)} s"
    )


def table(tuning: Tuning) -> list[tuple[str, ...]]:
    """Rows of text with a head, best first."""
    rows: list[tuple[str, ...]] = [("alternative", "rank", TITLES[tuning.measure], "worst 30 %", "SDlogJ", "folding %", "s per pair", "")]
    for score in tuning.scores:
        numbers = (score.accuracy, score.robust30, score.sdlogj, score.folding_percent)
        rows.append((score.name, readable(score.rank, 2), *(readable(value, 4) for value in numbers), readable(score.seconds, 1), score.problem))
    return rows


def readable(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def _judged(score: Score) -> Score:
    if score.problem or score.folding_percent is None or score.folding_percent <= MOST_FOLDING:
        return dataclasses.replace(score, rank=None)
    return dataclasses.replace(score, rank=None, problem=f"folds {score.folding_percent:.3g} % of a pair, more than {MOST_FOLDING:g}")


def _number(value: float | None, sign: float = 1.0) -> float:
    """What less of is better; what was not measured is worst."""
    return math.inf if value is None else sign * value


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the least; equal values share the mean of their places."""
    return [1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values]


def _settings(optimisation: Optimisation) -> Mapping[str, object]:
    return {field.name: getattr(optimisation, field.name) for field in dataclasses.fields(optimisation) if field.name != "because"}


def _best_engine(tuning: Tuning) -> Score | None:
    return next((score for score in tuning.scores if score.configuration is None and score.rank is not None), None)


def _planned_score(tuning: Tuning) -> Score:
    return next(score for score in tuning.scores if score.name == PLANNED)


def _winner(tuning: Tuning) -> Optimisation:
    best = _best_engine(tuning)
    if best is None:
        return tuning.planned
    changed = {key: float(value) if key in NUMBERS else value for key, value in best.changes.items()}
    return dataclasses.replace(tuning.planned, **cast("dict[str, Any]", changed))


def _recommended(tuning: Tuning) -> str:
    first = tuning.scores[0]
    if first.rank is None or not any(score.configuration for score in tuning.scores):
        return tuning.planned_recommended
    return first.configuration or OPTIMISE
