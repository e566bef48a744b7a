"""Predicted label maps of a dataset against its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import EvaluationError, did_you_mean
from nnreg.evaluation.dense import Progress, evaluate_label_files, key_of, label_files
from nnreg.evaluation.folder import PREDICTION_FILE
from nnreg.files import read_json
from nnreg.task import TASKS


def task_of_predictions(folder: Path, otherwise: str) -> str:
    """Which task the predictions of a folder are of: as its ``prediction.json`` says; of a folder without one, `otherwise`.

    Raises
    ------
    EvaluationError
        If the file is damaged or names no task.
    """
    path = folder / PREDICTION_FILE
    if not path.is_file():
        return otherwise
    content = read_json(path, EvaluationError)
    task = str(content.get("task", "registration")) if isinstance(content, dict) else "registration"
    if task not in TASKS:
        raise EvaluationError(f"{path}: task {task!r} is unknown; {did_you_mean(task, TASKS)}")
    return task


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
        Folder of ``CASE.ending`` label maps.
    raw
        The dataset with the labels, of training or test cases.
    surface
        Whether to measure surface distances.
    processes
        Cases evaluated at a time.
    chosen
        Case to label map, where not all of the folder count.

    Returns
    -------
    dict
        See :func:`nnreg.evaluation.dense.evaluate_label_files`.

    Raises
    ------
    EvaluationError
        If there is no label map, or no labels of its case.
    """
    labels = labels_of_predictions(predictions, raw)
    found = label_files(predictions) if chosen is None else chosen
    model = read_json(predictions / PREDICTION_FILE, EvaluationError).get("model") if (predictions / PREDICTION_FILE).is_file() else None
    return evaluate_label_files(
        references(raw),
        found,
        labels=labels.foreground,
        ignore=labels.ignore,
        surface=surface,
        processes=processes,
        meta={"dataset": raw.name, "model": model, "predictions": predictions.absolute().name},
        on_progress=on_progress,
    )


def labels_of_predictions(folder: Path, raw: RawDataset) -> LabelManager:
    """As the ``dataset.json`` beside the predictions says, else that of the dataset, which may leave them to be read from the label files."""
    path = folder / FILE_NAME
    return LabelManager.of(DatasetSpec.read(path), str(path)) if path.is_file() else LabelManager.of(raw.spec, str(raw.folder / FILE_NAME))


def references(raw: RawDataset) -> dict[str, Path]:
    """Case to its label file, for training and test cases that have one."""
    found = {case: raw.label_path(case) for case in (*raw.cases, *raw.test_cases)}
    return {case: path for case, path in found.items() if path is not None and path.is_file()}


def names_of(spec: DatasetSpec) -> dict[str, str]:
    """Key of a label or region in a summary to what dataset.json calls it."""
    return {key_of(value if isinstance(value, int) or len(value) > 1 else value[0]): name for name, value in spec.labels.items()}
