"""Which function evaluates the predictions of which task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder, task_of_predictions
from nnreg.evaluation.registration.folder import evaluate_folder

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset

ROADS: dict[str, Callable[..., dict[str, Any]]] = {"registration": evaluate_folder, "dense_prediction": evaluate_dense_folder}


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
        in :func:`nnreg.evaluation.dense_prediction.folder.evaluate_dense_folder` for label maps.

    Returns
    -------
    dict
        The summary.
    """
    folder = Path(predictions)
    return ROADS[task_of_predictions(folder, raw.spec.task)](folder, raw, **options)
