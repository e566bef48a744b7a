"""What a fold's validation says of its network, the refined network and the engine, kept beside its summary; and what a prediction makes of it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import Pair
from nnreg.dataset.raw import Case
from nnreg.engine.device import CPU
from nnreg.errors import ConfigurationError, PredictionError, RegistrationError
from nnreg.evaluation.registration.pair import evaluate_pair, with_corresponding_keypoints
from nnreg.files import read_json, write_json
from nnreg.inference.predictor import PairTransforms, Predictor
from nnreg.inference.registration.cases import CaseSource
from nnreg.inference.registration.pair_predictors import EnginePredictor, NetworkPredictor, PairMapper, Refined
from nnreg.planning.decision import Decision
from nnreg.planning.plans import Training
from nnreg.planning.registration.engine_settings import ENGINE, METHODS, NETWORK, REFINED, Optimisation
from nnreg.planning.registration.rules.method import prediction_method, unmeasured_method
from nnreg.progress import Progress
from nnreg.typed import from_mapping, to_mapping

FILE_NAME = "prediction_method.json"  # in the folder of a fold
SCHEMA_VERSION = 1
ACROSS_CONTRASTS = ("nmi", "nmi+gradient", "mind", "auto")  # where the engine compares by these, a correlation says nothing
SIMILARITY = "ncc_after"
FIGURES = ("dice_after", "tre_mm_after", SIMILARITY)  # what folds are compared by, where theirs differ
KEPT = ("sdlogj", "folding_percent")  # beside the figure that decides


@dataclass(frozen=True)
class MethodRecord:
    """How the ways to predict compare on validation pairs of a fold.

    Attributes
    ----------
    method, because
        What wins by the rule ``prediction_method``, and why.
    figure
        Of the evaluation, which decides: ``dice_after``, ``tre_mm_after`` or ``ncc_after``.
    pairs
        Names of the compared pairs.
    measured
        Method to figure, ``sdlogj``, ``folding_percent`` and ``seconds`` to one value per pair.
    failed
        Methods that could not register a pair, and so are not among `measured`: the reason.
    """

    method: str
    because: str
    figure: str
    pairs: tuple[str, ...]
    measured: dict[str, dict[str, tuple[float, ...]]]
    failed: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def mapper_named(method: str, predictor: Predictor, settings: Optimisation) -> PairMapper:
    """What predicts by `method`, the engine on the predictor's device for it.

    Raises
    ------
    PredictionError
        If the plan has no refinement.
    """
    if method == ENGINE:
        return EnginePredictor(settings, predictor.engine)
    network = NetworkPredictor(predictor)
    if method == NETWORK:
        return network
    if settings.refinement is None:
        raise PredictionError("--method refined: optimisation.refinement of the plans is null. Name a preset there, or use --method network.")
    return Refined(network, settings, settings.refinement, predictor.engine)


def compare(
    predictor: Predictor,
    source: CaseSource,
    raw: RawDataset,
    pairs: Sequence[Pair],
    *,
    settings: Optimisation,
    summary: Mapping[str, Any],
    on_progress: Progress = lambda done, total, what: None,
) -> MethodRecord | None:
    """Register validation pairs by the refined network and by the engine, and compare with what the network alone did.

    Parameters
    ----------
    predictor
        The network, and the device of the engine.
    source, raw
        Where images and truth of the validation cases are.
    pairs
        The pairs to compare on; `summary` has the network's figures for them.
    settings
        The plan's, of the engine.
    summary
        Of the validation of the network alone.

    Returns
    -------
    MethodRecord or None
        None where nothing can be compared: no labels, no keypoints, and images whose intensities do not correlate. Without measurements where labels or
        keypoints taught the network and no pair has them: a correlation says nothing of what they teach.
    """
    chosen = {pair.name: pair for pair in pairs}
    alone = {entry["name"]: entry for entry in summary["pairs"] if entry["name"] in chosen}
    figure = _figure([entry["metrics"] for entry in alone.values()], settings)
    if figure in (None, SIMILARITY) and _taught(predictor.configuration.training):
        decided = unmeasured_method(settings.refinement, supervised=True, everything=False, untold=True)
        return MethodRecord(decided.value, decided.because, SIMILARITY, (), {})
    if figure is None:
        return None
    alone = {name: entry for name, entry in alone.items() if _is_number(entry["metrics"].get(figure))}
    network, failed = NetworkPredictor(predictor), dict[str, str]()
    rows = [entry["metrics"] | {"seconds": _timed(network, source, chosen[name])[1]} for name, entry in alone.items()]
    measured = {NETWORK: _columns(rows, figure)}
    tried = [name for name in METHODS if name != NETWORK and (name != REFINED or settings.refinement is not None)]

    def measured_by(method: str) -> list[dict[str, float]]:
        mapper, begun = mapper_named(method, predictor, settings), tried.index(method) * len(alone)
        found = []
        for done, name in enumerate(alone, start=begun):
            on_progress(done, len(tried) * len(alone), f"comparing with {method}: {name}")
            found.append(_measured(mapper, source, raw, chosen[name]))
        return found

    for method in tried:
        try:
            measured[method] = _columns(_where_it_can(predictor, partial(measured_by, method)), figure)
        except RegistrationError as error:
            failed[method] = str(error)
    on_progress(len(tried) * len(alone), len(tried) * len(alone), "compared")
    decided = _decided(figure, measured)
    return MethodRecord(decided.value, decided.because, figure, tuple(alone), measured, failed)


def _where_it_can(predictor: Predictor, work: Callable[[], list[dict[str, float]]]) -> list[dict[str, float]]:
    """Work of the engine on its device; on the processor if that device cannot do it, which a warning says: it must not end a training that is done."""
    try:
        return work()
    except (RegistrationError, ConfigurationError) as error:
        if predictor.engine == CPU:
            raise
        warnings.warn(f"The engine is compared on the processor: {error}", stacklevel=2)
    predictor.engine = CPU
    return work()


def _measured(mapper: PairMapper, source: CaseSource, raw: RawDataset, pair: Pair) -> dict[str, float]:
    """Figures and seconds of a pair."""
    found, seconds = _timed(mapper, source, pair)
    fixed, moving = with_corresponding_keypoints(_known(source, pair.fixed), _known(source, pair.moving))
    labels = raw.spec.foreground or None
    figures = evaluate_pair(fixed=fixed, moving=moving, transform=found.transform, aligned=found.alignment, labels=labels, surface=False, additional=False)[
        "metrics"
    ]
    return {**figures, "seconds": seconds}


def _timed(mapper: PairMapper, source: CaseSource, pair: Pair) -> tuple[PairTransforms, float]:
    """The map of a pair and the seconds that finding it takes, without writing or drawing."""
    started = time.monotonic()
    found = mapper.transforms(pair, source)
    return found, round(time.monotonic() - started, 3)


def _known(source: CaseSource, case: str) -> Case:
    return Case(source.image(case), source.labels(case), source.keypoints_voxel(case), source.mask(case), case)


def _figure(rows: Sequence[Mapping[str, float]], settings: Optimisation) -> str | None:
    """What decides: Dice or distance, whichever more pairs have, else correlation; not what guided the engine. Pairs without it are not compared."""
    usable = {"dice_after": not settings.use_labels, "tre_mm_after": not settings.use_keypoints, SIMILARITY: settings.similarity not in ACROSS_CONTRASTS}
    counts = {name: sum(_is_number(row.get(name)) for row in rows) for name, fair in usable.items() if fair}
    best = max((name for name in counts if name != SIMILARITY), key=lambda name: counts[name], default=None)
    if best is not None and counts[best]:
        return best
    return SIMILARITY if counts.get(SIMILARITY) else None


def _taught(training: Training) -> bool:
    """Whether labels, keypoints or true fields taught a network."""
    return any(term.name != "inverse_consistency" for term in training.supervision)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _columns(rows: Sequence[Mapping[str, float]], figure: str) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(row[name]) for row in rows) for name in (figure, *KEPT, "seconds")}


def _decided(figure: str, measured: Mapping[str, Mapping[str, Sequence[float]]]) -> Decision[str]:
    values = {name: columns[figure] for name, columns in measured.items()}
    folding, roughness = ({name: float(np.mean(columns[key])) for name, columns in measured.items()} for key in ("folding_percent", "sdlogj"))
    return prediction_method(figure, values, folding, roughness)


def write_record(folder: Path, record: MethodRecord | None) -> None:
    """Keep the record of a fold; where there is none, an earlier one goes: it was of another network."""
    if record is None:
        (folder / FILE_NAME).unlink(missing_ok=True)
    else:
        means = {name: {key: float(np.mean(column)) for key, column in columns.items()} for name, columns in record.measured.items()}
        write_json(folder / FILE_NAME, to_mapping(record) | {"mean": means})


def read_record(folder: Path) -> MethodRecord | None:
    """The record of a fold, None if it has none.

    Raises
    ------
    PredictionError
        If it is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    content = read_json(path, PredictionError)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise PredictionError(f"{path}: expected schema_version {SCHEMA_VERSION}. Validate the fold again: nnreg_train ... --val.")
    content.pop("mean", None)
    return from_mapping(MethodRecord, content, where=str(path), error=PredictionError)


def method_of(model: Path, folds: Sequence[str], settings: Optimisation, *, supervised: bool) -> Decision[str]:
    """What predicts with these folds of a model: what wins on the validation pairs of all of them together.

    Parameters
    ----------
    model
        Its folder.
    folds
        That are averaged. ``all`` was trained on every case and has no validation of its own: the other folds of the model speak for it.
    settings
        Of the engine.
    supervised
        Whether labels or keypoints taught the network.
    """
    asked = [model / f"fold_{name}" for name in folds if name != "all"]
    records = [record for folder in (asked or sorted(model.glob("fold_[0-9]*"))) if (record := read_record(folder)) is not None]
    if not records:
        return unmeasured_method(settings.refinement, supervised, everything=not asked)
    telling = [record for record in records if record.measured] or records
    figure = min((record.figure for record in telling), key=FIGURES.index)
    telling = [record for record in telling if record.figure == figure]  # in some folds no validation pair has labels
    common = [name for name in METHODS if all(name in record.measured for record in telling)]
    if len(telling) == 1 or not common:
        return Decision(telling[0].method, telling[0].because)
    return _decided(figure, {name: _joined(record.measured[name] for record in telling) for name in common})


def _joined(parts: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, tuple[float, ...]]:
    several = list(parts)
    return {key: tuple(value for part in several for value in part[key]) for key in several[0]}


__all__ = ["FILE_NAME", "MethodRecord", "compare", "mapper_named", "method_of", "read_record", "write_record"]
