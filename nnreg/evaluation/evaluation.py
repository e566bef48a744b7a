"""Evaluation of any predictions: the file beside them says of which task they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.errors import EvaluationError, did_you_mean
from nnreg.evaluation.registration.folder import PREDICTION_FILE
from nnreg.files import read_json
from nnreg.task import DEFAULT_TASK, TASKS, imported

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def evaluate(predictions: Path | str, raw: RawDataset, **options: Any) -> dict[str, Any]:
    """Evaluate what ``nnreg_predict`` wrote into a folder.

    Parameters
    ----------
    predictions
        The folder; its ``prediction.json`` says of which task, without one dataset.json does.
    raw
        The dataset with the truth.
    **options
        As in :func:`nnreg.evaluation.evaluate_folder` for registrations,
        in :func:`nnreg.evaluation.dense_prediction.folder.evaluate_dense_folder` for label maps; of other tasks their `evaluator`'s.

    Returns
    -------
    dict
        The summary.
    """
    folder = Path(predictions)
    evaluator = imported(TASKS[task_of_predictions(folder, raw.spec.task)].evaluator)
    summary: dict[str, Any] = evaluator(folder, raw, **options)
    return summary


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
    task = str(content.get("task", DEFAULT_TASK)) if isinstance(content, dict) else DEFAULT_TASK
    if task not in TASKS:
        raise EvaluationError(f"{path}: task {task!r} is unknown; {did_you_mean(task, TASKS)}")
    return task
