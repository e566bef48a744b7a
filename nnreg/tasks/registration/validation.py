"""The validation at the end of a fold: what its network does on held-out pairs, and whether the engine, alone or from the network's field, does better."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import Pair
from nnreg.evaluation import evaluate_folder
from nnreg.groups.training_guides import TrainingGuides, guided
from nnreg.inference.predictor import Predictor
from nnreg.inference.registration.cases import TrainingCases
from nnreg.inference.registration.method import compare, write_record
from nnreg.inference.registration.predict import GUIDES, predict_training_cases
from nnreg.planning.registration.plans import RegistrationTraining, registration_plans
from nnreg.progress import Progress


def validate(
    predictor: Predictor, pairs: list[Pair], *, raw: Path, arrays: Path, held_out: Collection[str], output: Path, on_progress: Progress
) -> dict[str, Any]:
    """Register pairs by the network and evaluate them; of cases that it was not trained on, compare with the engine, and keep what wins beside `output`.

    Parameters
    ----------
    predictor
    pairs
        Of cases that are `held_out` for the validation.
    raw, arrays
        Folders of the raw dataset, and of its preprocessed arrays.
    held_out
        Labels of all others may guide the engine, where the plans say so.
    output
        For predictions; ``prediction_method.json`` and ``guides`` go beside it.

    Returns
    -------
    dict
        The summary of the network alone; with ``method`` and ``because`` where methods were compared.
    """
    dataset, training = RawDataset.open(raw), cast(RegistrationTraining, predictor.configuration.training)
    settings, source = registration_plans(predictor.plans).optimisation, TrainingCases(dataset, arrays)
    registered, compared = _drawn_pairs(pairs, training, _known(pairs, dataset), sharing=settings.guides > 0)
    predict_training_cases(predictor, dataset, arrays, registered, output, on_progress=on_progress)
    summary = evaluate_folder(output, dataset, processes=1, surface=False, complete=False, on_progress=on_progress)
    compared = compared if predictor.held_out else []
    if compared and settings.guides:
        guides = TrainingGuides(raw, settings, [case for case in dataset.cases if case not in held_out], predictor.engine)
        source = guided(source, compared, guides, output.parent / GUIDES, on_progress)
    record = compare(predictor, source, dataset, compared, settings=settings, summary=summary, on_progress=on_progress) if compared else None
    write_record(output.parent, record)
    return summary if record is None else summary | {"method": record.method, "because": record.because}


def _known(pairs: Sequence[Pair], dataset: RawDataset) -> set[Pair]:
    """Pairs of which both cases have labels, or both keypoints: what they measure is the truth."""
    cases = {case for pair in pairs for case in (pair.fixed, pair.moving)}
    kinds = [{case for case in cases if path_of(case) is not None} for path_of in (dataset.label_path, dataset.keypoints_path)]
    return {pair for pair in pairs if any({pair.fixed, pair.moving} <= having for having in kinds)}


def _drawn_pairs(pairs: list[Pair], training: RegistrationTraining, known: Collection[Pair], *, sharing: bool) -> tuple[list[Pair], list[Pair]]:
    """Pairs that the network registers in the validation, and those of them that are compared with the engine, where possible of the `known`.

    Compared pairs have few images between them if `sharing`: where labels guide the engine, a new image takes longer than a new pair.
    """
    if not sharing:
        registered = _drawn(pairs, training.validation_pairs, known)
        return registered, _drawn(registered, training.compared_pairs, known)
    images = sorted({case for pair in pairs for case in (pair.fixed, pair.moving)})
    rank = dict(zip(np.random.default_rng(0).permutation(images).tolist(), range(len(images)), strict=True))
    nearest = sorted((pair for pair in pairs if pair in known), key=lambda pair: max(rank[pair.fixed], rank[pair.moving]))
    compared = set(nearest[: min(training.compared_pairs, training.validation_pairs)])
    registered = _drawn(pairs, training.validation_pairs, compared)
    return registered, [pair for pair in registered if pair in compared]


def _drawn(pairs: list[Pair], most: int, first: Collection[Pair]) -> list[Pair]:
    """At most `most` of the pairs, drawn with a fixed seed, in their order; others than those of `first` only where these are too few."""
    if len(pairs) <= most:
        return pairs
    preferred = [pair for pair in pairs if pair in first]
    drawn = set(_any(preferred, most)) | set(_any([pair for pair in pairs if pair not in first], most - len(preferred)))
    return [pair for pair in pairs if pair in drawn]


def _any(pairs: list[Pair], most: int) -> list[Pair]:
    if len(pairs) <= most:
        return pairs
    return [pairs[i] for i in np.random.default_rng(0).choice(len(pairs), max(most, 0), replace=False)]
