"""Predicted label maps of a dataset against its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.continuous import Continuous
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.target_spec import WHOLE, Output, label_targets, names_of_labels, outputs_of, stem_of_target, targets_of
from nnreg.dataset.targets import label_file
from nnreg.errors import EvaluationError
from nnreg.evaluation.dense_prediction.case import LabelMeasure, evaluate_files, joined_targets, key_of, label_files
from nnreg.evaluation.dense_prediction.values import ValueMeasure, value_key
from nnreg.evaluation.registration.folder import PREDICTION_FILE
from nnreg.files import read_object
from nnreg.imageio import is_image_file
from nnreg.progress import Progress


def evaluate_dense_folder(
    predictions: Path,
    raw: RawDataset,
    *,
    surface: bool = True,
    processes: int = 1,
    chosen: Mapping[str, Path] | None = None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Evaluate every label map of a folder.

    Parameters
    ----------
    predictions
        Folder of ``CASE.ending`` label maps, of several targets ``CASE_TARGET.ending``.
    raw
        The dataset with the labels, of training or test cases.
    surface
        Whether to measure surface distances.
    processes
        Cases evaluated at a time.
    chosen
        Case (of several targets ``CASE_TARGET``) to label map, where not all of the folder count.

    Returns
    -------
    dict
        See :func:`nnreg.evaluation.dense_prediction.case.evaluate_label_files`,
        of several targets :func:`nnreg.evaluation.dense_prediction.case.joined_targets`.

    Raises
    ------
    EvaluationError
        If there is no label map, or no labels of its case.
    """
    targets = outputs_of_predictions(predictions, raw)
    found = label_files(predictions) if chosen is None else chosen
    model = read_object(predictions / PREDICTION_FILE, EvaluationError).get("model") if (predictions / PREDICTION_FILE).is_file() else None
    meta = {"dataset": raw.name, "model": model, "predictions": predictions.absolute().name}
    summaries = {}
    for target, its_maps in _by_target(found, tuple(targets), raw).items():
        output = targets[target]
        measure = LabelMeasure(output.foreground, output.ignore, surface) if isinstance(output, LabelManager) else ValueMeasure(output.channels)
        summaries[target] = evaluate_files(references(raw, target), its_maps, measure, processes=processes, meta=meta, on_progress=on_progress)
    return next(iter(summaries.values())) if len(targets) == 1 else joined_targets(summaries, meta)


def _by_target(found: Mapping[str, Path], targets: tuple[str, ...], raw: RawDataset) -> dict[str, dict[str, Path]]:
    """Target to case to label map; of several targets they are called ``CASE_TARGET``."""
    if len(targets) == 1:
        return {targets[0]: dict(found)}
    known = {stem_of_target(case, target, True): (target, case) for case in (*raw.cases, *raw.test_cases) for target in targets}
    result: dict[str, dict[str, Path]] = {target: {} for target in targets}
    for stem, path in found.items():
        if stem not in known:
            raise EvaluationError(f"{path}: is of no case and target of {raw.name}. Expected CASE_TARGET, with one of the targets {', '.join(targets)}.")
        target, case = known[stem]
        result[target][case] = path
    for target, maps in result.items():
        absent = sorted({case for others in result.values() for case in others} - set(maps))
        if absent:
            raise EvaluationError(f"{stem_of_target(absent[0], target, True)}: there is no such label map, but one of another target. Predict the case again.")
    return result


def outputs_of_predictions(folder: Path, raw: RawDataset) -> dict[str, Output]:
    """By target, as the ``dataset.json`` beside the predictions says, else that of the dataset, which may leave labels to be read from the label files."""
    path = folder / FILE_NAME
    return outputs_of(DatasetSpec.read(path), str(path)) if path.is_file() else outputs_of(raw.spec, str(raw.folder / FILE_NAME))


def references(raw: RawDataset, target: str = WHOLE) -> dict[str, Path]:
    """Case to its label file (of a target), for training and test cases that have one."""
    found = {case: label_file(raw, case, target) for case in (*raw.cases, *raw.test_cases)}
    return {case: path for case, path in found.items() if path is not None and is_image_file(path)}


def names_of(spec: DatasetSpec) -> dict[str, str]:
    """Key of a label, a region or a channel of values in a summary to what dataset.json calls it."""
    several = len(spec.targets) > 1
    values: dict[str, str] = {}
    for target, output in outputs_of(spec).items() if several or not label_targets(spec) else ():
        for channel in range(output.channels) if isinstance(output, Continuous) else ():
            key = value_key(channel, output.heads)
            values[f"{target}: {key}" if several else key] = target if output.heads == 1 else f"{target} {channel}"
    return values | {
        key_of(value if isinstance(value, int) or len(value) > 1 else value[0], target if several else WHOLE): f"{target} {name}" if several else name
        for target in targets_of(spec)
        for name, value in names_of_labels(spec, target).items()
    }
