"""Which function predicts with the models of which task: the model's plans say which task it is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from nnreg.inference.predictor import ModelFolder

# task -> "module:function"; imported when asked for
ROADS = {"registration": "nnreg.inference.registration.predict:predict_folder", "dense_prediction": "nnreg.inference.dense_prediction.predict:predict_folder"}


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
        in :func:`nnreg.inference.dense_prediction.predict.predict_folder` for those that segment.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    module, _, name = ROADS[ModelFolder.open(Path(model_folder)).plans.task].partition(":")
    content: dict[str, Any] = getattr(importlib.import_module(module), name)(Path(model_folder), Path(images), Path(output), **options)
    return content
