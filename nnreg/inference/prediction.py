"""Prediction with any model: its plans say of which task it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnreg.inference.predictor import ModelFolder
from nnreg.task import TASKS, imported


def predict(model_folder: Path | str, images: Path | str, output: Path | str, **options: Any) -> dict[str, Any]:
    """Apply a trained model to the images of a folder.

    Parameters
    ----------
    model_folder
        ``TRAINER__PLANS__CONFIGURATION``.
    images
        Folder of ``CASE_0000.ending`` files.
    output
        Where the predictions and ``prediction.json`` go.
    **options
        As in :func:`nnreg.inference.registration.predict.predict_folder` for models that register,
        in :func:`nnreg.inference.dense_prediction.predict.predict_folder` for those that segment; of other tasks their `predictor`'s.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    model = Path(model_folder)
    predictor = imported(TASKS[ModelFolder.open(model).plans.task].predictor)
    content: dict[str, Any] = predictor(model, Path(images), Path(output), **options)
    return content
