"""The full validation of a fold: its cases predicted on their native grids from the stored arrays, and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Integers
from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder
from nnreg.imageio import Image, read_image
from nnreg.inference.dense_prediction.predict import DenseOptions, dense_predictor, predict_cases, target_files
from nnreg.inference.dense_prediction.sources import StoredCases
from nnreg.inference.predictor import Predictor
from nnreg.preprocessing.dense_prediction.case import labels_onto
from nnreg.preprocessing.dense_prediction.reoriented import turned_image
from nnreg.preprocessing.registration.storage import ENDING, write_array
from nnreg.progress import Progress


def validate_cases(
    predictor: Predictor,
    spec: DatasetSpec,
    raw: RawDataset,
    arrays: Path,
    cases: Sequence[str],
    output: Path,
    *,
    previous: Callable[[str], Integers] | None = None,
    next_stage: tuple[str, Path] | None = None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Predict training cases that the network has not seen, and evaluate them.

    Parameters
    ----------
    predictor
        The networks; with its `save_probabilities`, those are kept beside the label maps.
    spec
        dataset.json of the training.
    raw, arrays
        The dataset, and the folder of the configuration's arrays.
    cases
        Which.
    output
        ``validation_raw`` of the fold.
    previous
        In a cascade: case to the labels (T, D, H, W) that the stage before predicted, on this configuration's grid.
    next_stage
        A configuration that takes what is predicted here as input, and the folder where it looks for ``CASE.b2nd`` on its grid.

    Returns
    -------
    dict
        The summary, with nnU-Net's keys.
    """
    dense = dense_predictor(predictor, spec)
    source = StoredCases(raw, arrays, list(cases), previous, orientation=dense.plans.orientation)
    options = DenseOptions(save_probabilities=predictor.save_probabilities)
    predict_cases(dense, source, output, model=predictor.plans.plans_name, options=options, on_progress=on_progress)
    if next_stage is not None:
        name, folder = next_stage
        for case in source.cases:
            files = [read_image(output / file) for target, file in target_files(dense, source, case).items() if dense.has_labels(target)]
            labels = turned_image(Image(np.concatenate([found.array for found in files]), files[0].space), dense.plans.orientation)
            onto = labels_onto(labels, source.properties(case), dense.plans, name)
            write_array(folder / f"{case}{ENDING}", onto, dense.plans.configuration(name).patch_size)
    chosen = {dense.stems(case)[target]: output / name for case in source.cases for target, name in target_files(dense, source, case).items()}
    return evaluate_dense_folder(output, raw, surface=False, chosen=chosen, on_progress=on_progress)
