"""The validation predictions of all folds of a model, joined: every training case predicted by a network that had not seen it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.target_spec import WHOLE, case_of, stem_of_target
from nnreg.documents import understood
from nnreg.errors import EvaluationError
from nnreg.evaluation.dense_prediction.case import label_files
from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder
from nnreg.evaluation.registration.folder import PREDICTION_FILE
from nnreg.evaluation.summary import write_summary
from nnreg.files import copy_file, read_object, write_json
from nnreg.progress import Progress
from nnreg.task import DENSE_PREDICTION

VALIDATION = "validation_raw"
SUMMARY = "summary.json"
FOLDS = ("0", "1", "2", "3", "4")


@dataclass(frozen=True)
class Crossval:
    """A model whose folds have been joined.

    Attributes
    ----------
    model : folder TRAINER__PLANS__CONFIGURATION
    folds : names
    label_maps : case to the label map that its fold predicted
    folder : with the joined label maps and ``summary.json``
    summary : its content
    """

    model: Path
    folds: tuple[str, ...]
    label_maps: dict[str, Path]
    folder: Path
    summary: dict[str, Any]

    @property
    def score(self) -> float:
        """See :func:`score_of`."""
        return score_of(self.summary)


def figure_of(summary: Mapping[str, Any]) -> str:
    """What predictions are compared by: ``Dice``, or ``PSNR`` where nothing was predicted but values."""
    return "Dice" if "Dice" in summary["foreground_mean"] else "PSNR"


def score_of(summary: Mapping[str, Any]) -> float:
    """Mean over foreground labels of the mean Dice over cases, of several targets the mean of that; without labels the mean PSNR. 0 where none exists."""
    name = figure_of(summary)
    parts = summary.get("foreground_mean_per_target", {"": summary["foreground_mean"]}).values()
    values = [float(part[name]) for part in parts if part.get(name) is not None and math.isfinite(part[name])]
    return sum(values) / len(values) if values else 0.0


def folder_name(folds: Sequence[str]) -> str:
    """``crossval_results_folds_0_1_2_3_4``."""
    return f"crossval_results_folds_{'_'.join(folds)}"


def accumulate(
    model: Path,
    raw: RawDataset,
    folds: Sequence[str] = FOLDS,
    *,
    output: Path | None = None,
    overwrite: bool = True,
    processes: int = 1,
    on_progress: Progress = lambda done, total, what: None,
) -> Crossval:
    """Join the validation predictions of `folds` in one folder and evaluate them together.

    Parameters
    ----------
    model
        ``TRAINER__PLANS__CONFIGURATION``.
    raw
        The dataset with the labels.
    output
        ``crossval_results_folds_...`` in `model` if absent.
    overwrite
        False keeps a summary that is there already.

    Raises
    ------
    EvaluationError
        If a fold was not validated, or a case was validated in two folds.
    """
    folds = tuple(folds)
    found: dict[str, Path] = {}
    for fold in folds:
        for case, path in validated(model, fold).items():
            if case in found:
                raise EvaluationError(f"{path}: case {case!r} was validated in {found[case].parent.parent.name} too. Use folds of one split.")
            found[case] = path
    folder = output or model / folder_name(folds)
    if overwrite or not (folder / SUMMARY).is_file():
        if folder.is_dir() and output is None:
            shutil.rmtree(folder)
        for path in found.values():
            copy_file(path, folder / path.name)
        for name in ("plans.json", FILE_NAME):
            if (model / name).is_file():
                copy_file(model / name, folder / name)
        content = {
            "schema_version": 1,
            "task": DENSE_PREDICTION,
            "dataset": raw.name,
            "model": model.name,
            "cases": [{"name": case} for case in sorted({case_of(stem, raw.spec) for stem in found})],
        }
        write_json(folder / PREDICTION_FILE, content)
        write_summary(folder / SUMMARY, evaluate_dense_folder(folder, raw, surface=False, processes=processes, on_progress=on_progress))
    return Crossval(model, folds, dict(sorted(found.items())), folder, read_object(folder / SUMMARY, EvaluationError))


def validated(model: Path, fold: str) -> dict[str, Path]:
    """Case to the label map that a fold predicted of it.

    Raises
    ------
    EvaluationError
        If the fold was not trained to its end, or not validated.
    """
    folder = model / f"fold_{fold}" / VALIDATION
    found = label_files(folder) if folder.is_dir() else {}
    if (folder / PREDICTION_FILE).is_file():
        # not what an earlier validation, of another split, has left there
        with understood(folder / PREDICTION_FILE, EvaluationError, "Validate the fold again."):
            cases = [str(entry["name"]) for entry in read_object(folder / PREDICTION_FILE, EvaluationError)["cases"]]
        spec = DatasetSpec.read(model / FILE_NAME) if (model / FILE_NAME).is_file() else None
        targets = list(spec.targets) if spec is not None and len(spec.targets) > 1 else []
        named = {stem_of_target(case, target, bool(targets)) for case in cases for target in targets or [WHOLE]}
        found = {case: path for case, path in found.items() if case in named}
    if not found:
        raise EvaluationError(f"{folder}: holds no predictions. Train fold {fold} to its end (or validate it: nnreg_train ... --val), or leave it out with -f.")
    return found
