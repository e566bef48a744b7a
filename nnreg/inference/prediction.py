"""Prediction with any model: its plans say of which task it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnreg.inference.predictor import ModelFolder, TrainedModel
from nnreg.task import TASKS, imported

NETWORKS = ("folds", "checkpoint", "trainer", "device")  # say which networks predict; whatever else is asked for is the task's


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
        `folds`, `checkpoint`, `trainer` and `device` as in :class:`nnreg.inference.predictor.TrainedModel`; the others
        as in :func:`nnreg.inference.registration.predict.predict_folder` for models that register, and `raw`, the dataset whose labels guide the engine where
        the plans say so (default: that of the workspace in use),
        in :func:`nnreg.inference.dense_prediction.predict.predict_folder` for those that segment; of other tasks their `predictor`'s.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    named = {name: options.pop(name) for name in NETWORKS if name in options}
    model = TrainedModel(ModelFolder.open(Path(model_folder)), **named)
    content: dict[str, Any] = imported(TASKS[model.folder.plans.task].predictor)(model, Path(images), Path(output), **options)
    return content
