"""What a results folder holds: one registered pair, predictions of many, or a fold with its training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnreg.errors import EvaluationError
from nnreg.evaluation.evaluation import task_of_predictions
from nnreg.evaluation.registration.folder import ALIGNMENT_FILE, PREDICTION_FILE, TRANSFORM_FILE
from nnreg.files import read_json
from nnreg.task import DEFAULT_TASK, TASKS

MEASURES_FILE, SUMMARY_FILE, VALIDATION_SUMMARY = "measures.json", "summary.json", "validation_summary.json"
VALIDATION, LOG_FILE, DEBUG_FILE, METHOD_FILE = "validation_raw", "training_log.txt", "debug.json", "prediction_method.json"
UNCERTAINTY = "uncertainty.nii.gz"
EPOCH = re.compile(r"\[Epoch (\d+)/(\d+)\] (.*)$")
NUMBER = re.compile(r"(\w+) = (-?[\d.]+(?:e[-+]?\d+)?|-?inf|nan)")
SECONDS = re.compile(r", (\d+(?:\.\d+)?) s\b")
MULTIMODAL = ("nmi", "mind")  # similarities for two contrasts


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair or a case of a folder.

    Attributes
    ----------
    name
    fixed, moving
        Cases, or files of a pair that was registered by itself; of a label map `fixed` is its case.
    folder
        Where its files are.
    seconds
        In all.
    figures
        What was measured, by name, see :mod:`nnreg.evaluation.summary`.
    labels
        Label to its figures.
    record
        Its entry in ``prediction.json``, or ``measures.json``.
    """

    name: str
    fixed: str
    moving: str = ""
    folder: Path
    seconds: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """A folder of results, as far as it is finished.

    Attributes
    ----------
    folder
    task
    alone
        Whether it is one pair that was registered by itself.
    predictions
        Where pairs or label maps are; None where nothing was predicted yet.
    items
    record
        ``prediction.json`` or ``measures.json``.
    summary
        What was measured with the truth; empty without.
    plans, dataset, debug
        ``plans.json``, ``dataset.json`` and ``debug.json``, where they are there.
    fingerprint
        What planning measured, where the workspace has it.
    method
        ``prediction_method.json``: what predicts new pairs, and why.
    curves
        Name to a number per epoch.
    epochs
        Done and planned.
    """

    folder: Path
    task: str
    alone: bool = False
    predictions: Path | None = None
    items: tuple[Item, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    plans: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    debug: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[float | None]] = field(default_factory=dict)
    epochs: tuple[int, int] | None = None

    @property
    def dataset_name(self) -> str | None:
        """Of the images, as far as a file says it."""
        found = self.record.get("dataset") or self.plans.get("dataset_name") or self.debug.get("dataset")
        return found if isinstance(found, str) else None

    @property
    def unit(self) -> str:
        """Of lengths: "px" where no image has a physical one."""
        units = {item.record.get("unit") for item in self.items}
        return "px" if units == {"px"} else "mm"

    @property
    def registers(self) -> bool:
        """Whether pairs were registered."""
        return TASKS[self.task].registers_pairs

    @property
    def two_contrasts(self) -> bool | None:
        """Whether the images of a pair are of different contrasts, as far as the similarity that was chosen says it."""
        names = [str(one.get("value", "")) for one in self.record.get("decisions", []) if one.get("name") == "similarity"]
        optimisation = self.plans.get("optimisation") or {}
        names += [str(optimisation["similarity"])] if isinstance(optimisation, Mapping) and "similarity" in optimisation else []
        return None if not names else any(part in MULTIMODAL for part in names[0].split("+"))


def read_results(folder: Path | str, *, summary: Path | None = None) -> Results:
    """Read a results folder.

    Parameters
    ----------
    folder
        Output of nnreg_register or nnreg_predict, ``validation_raw``, or ``fold_0`` of a training.
    summary
        A summary that lies elsewhere.

    Raises
    ------
    EvaluationError
        If it is no such folder, a file is missing or damaged, or files in it belong to different models.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder. Give the output folder of nnreg_register, nnreg_predict or nnreg_train (fold_0).")
    if (folder / MEASURES_FILE).is_file():
        return _pair_alone(folder)
    if (folder / PREDICTION_FILE).is_file():
        return _predictions(
            folder, folder, summary or _first_file(folder / SUMMARY_FILE, folder.parent / VALIDATION_SUMMARY if folder.name == VALIDATION else None)
        )
    if (folder / DEBUG_FILE).is_file() or (folder / LOG_FILE).is_file():
        return _fold(folder)
    folds = sorted(found.name for found in folder.glob("fold_*"))
    hint = f"Give one of its folds: {', '.join(folds)}." if folds else "Give the output folder of nnreg_register, nnreg_predict or nnreg_train (fold_0)."
    raise EvaluationError(f"{folder}: found none of {MEASURES_FILE}, {PREDICTION_FILE} and {LOG_FILE}, so it holds no results or they are not finished. {hint}")


def _first_file(*paths: Path | None) -> Path | None:
    return next((path for path in paths if path is not None and path.is_file()), None)


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path, EvaluationError)
    if not isinstance(content, dict):
        raise EvaluationError(f"{path}: found {str(content)[:40]!r}, expected a mapping. Make it again.")
    return content


def _optional(path: Path) -> dict[str, Any]:
    return _mapping(path) if path.is_file() else {}


# -- one pair ---------------------------------------------------------------------------------------------------------


def _pair_alone(folder: Path) -> Results:
    record = _mapping(folder / MEASURES_FILE)
    missing = [key for key in ("fixed", "moving") if not isinstance(record.get(key), list) or not record[key]]
    if missing:
        raise EvaluationError(f"{folder / MEASURES_FILE}: lacks {missing[0]!r}, the files of the pair. Register it again.")
    _require(folder, TRANSFORM_FILE, MEASURES_FILE)
    seconds = record.get("seconds") or {}
    figures, labels = _figures_of_measures(record)
    item = Item(
        name=f"{_stem(record['fixed'][0])} ← {_stem(record['moving'][0])}",
        fixed=str(record["fixed"][0]),
        moving=str(record["moving"][0]),
        folder=folder,
        seconds=float(sum(seconds.values())) if seconds else None,
        figures=figures,
        labels=labels,
        record=record,
    )
    return Results(folder=folder, task=DEFAULT_TASK, alone=True, predictions=folder, items=(item,), record=record)


def _stem(path: str) -> str:
    from nnreg.imageio import stem_of

    return stem_of(Path(path))


def _figures_of_measures(record: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Figures under the names of a summary."""
    figures: dict[str, float | None] = {name: record[name] for name in ("sdlogj", "folding_count", "folding_percent") if name in record}
    labels: dict[str, dict[str, float | None]] = {}
    for stage, value in (record.get("ncc") or {}).items():
        figures[f"ncc_{stage}"] = value
    for stage, found in (record.get("dice") or {}).items():
        figures[f"dice_{stage}"] = found["mean"]
        for label, value in found["labels"].items():
            labels.setdefault(label, {})[f"dice_{stage}"] = value
    for stage, found in (record.get("tre_mm") or {}).items():
        figures |= {f"tre_mm_{stage}": found["mean"], f"tre_median_mm_{stage}": found["median"]}
    return figures, labels


def _require(folder: Path, name: str, because: str) -> None:
    if not (folder / name).is_file():
        raise EvaluationError(f"{folder / name}: is missing, though {because} is there, so the folder is half finished. Make the results again.")


# -- predictions ------------------------------------------------------------------------------------------------------


def _predictions(folder: Path, predictions: Path, summary_path: Path | None) -> Results:
    path = predictions / PREDICTION_FILE
    record, task = _mapping(path), task_of_predictions(predictions, DEFAULT_TASK)
    key = "pairs" if TASKS[task].registers_pairs else "cases"
    if not isinstance(record.get(key), list) or not record[key] or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in record[key]):
        raise EvaluationError(f"{path}: expected a list of {key}, each with a name, found none. Predict again, or wait until the first is finished.")
    summary = {} if summary_path is None else _summary(summary_path, record, path)
    measured = {str(one.get("name")): one for one in summary.get("pairs", [])} | _cases_of(summary)
    items = tuple(_item(one, measured.get(one["name"], {}), predictions, task) for one in record[key])
    beside = (predictions, predictions.parent.parent) if predictions.name == VALIDATION else (predictions,)
    plans, dataset = (next((_mapping(place / name) for place in beside if (place / name).is_file()), {}) for name in ("plans.json", "dataset.json"))
    _check_same(path, record, plans)
    return Results(folder=folder, task=task, predictions=predictions, items=items, record=record, summary=summary, plans=plans, dataset=dataset)


def _summary(path: Path, record: Mapping[str, Any], predicted: Path) -> dict[str, Any]:
    """A summary, if it is of these predictions."""
    summary = _mapping(path)
    for name in ("dataset", "model"):
        found, expected = summary.get(name), record.get(name)
        if found is not None and expected is not None and found != expected:
            raise EvaluationError(f"{path}: was made for {name} {found}, the predictions are of {name} {expected} ({predicted.name}). Evaluate them again.")
    names = {one["name"] for one in record.get("pairs", [])}
    measured = {str(one.get("name")) for one in summary.get("pairs", [])}
    absent = sorted(names - measured) if measured else []
    if absent:
        raise EvaluationError(f"{path}: lacks {absent[0]!r}, which {predicted} names: it was made for other predictions. Evaluate them again.")
    return summary


def _cases_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of a summary of label maps: case to its figures under the names that pairs have."""
    result: dict[str, dict[str, Any]] = {}
    for one in summary.get("metric_per_case", []):
        labels = {str(label): figures | {"dice_after": figures.get("Dice")} for label, figures in (one.get("metrics") or {}).items() if label != "0"}
        known = [found["dice_after"] for found in labels.values() if isinstance(found["dice_after"], (int, float))]
        metrics = {"dice_after": sum(known) / len(known)} if known else {}
        result[str(one.get("case"))] = {"metrics": metrics, "labels": labels, "reference_file": one.get("reference_file")}
    return result


def _item(entry: Mapping[str, Any], measured: Mapping[str, Any], folder: Path, task: str) -> Item:
    name, seconds = entry["name"], entry.get("seconds")
    if TASKS[task].registers_pairs:
        for file in (TRANSFORM_FILE, ALIGNMENT_FILE):
            _require(folder / name, file, f"the pair in {PREDICTION_FILE}")
    return Item(
        name=name,
        fixed=str(entry.get("fixed", name)),
        moving=str(entry.get("moving", "")),
        folder=folder / name if TASKS[task].registers_pairs else folder,
        seconds=sum(seconds.values()) if isinstance(seconds, Mapping) else seconds,
        figures=measured.get("metrics", {}),
        labels=measured.get("labels", {}),
        record={**entry, "labels_lost": measured.get("labels_lost", []), "reference_file": measured.get("reference_file")},
    )


def _check_same(path: Path, record: Mapping[str, Any], plans: Mapping[str, Any]) -> None:
    """Refuse plans of another dataset than the one whose images were predicted by them."""
    found, expected = plans.get("dataset_name"), record.get("dataset")
    if found is not None and expected is not None and found != expected:
        raise EvaluationError(f"{path}: is of {expected}, the plans.json that belongs to it of {found}. Put the results of one model into one folder.")


# -- a fold -----------------------------------------------------------------------------------------------------------


def _fold(folder: Path) -> Results:
    debug, plans, dataset = _optional(folder / DEBUG_FILE), _optional(folder.parent / "plans.json"), _optional(folder.parent / "dataset.json")
    for key, name in (("dataset", "dataset_name"), ("plans", "plans_name")):
        if key in debug and name in plans and debug[key] != plans[name]:
            raise EvaluationError(
                f"{folder / DEBUG_FILE}: was trained with {key} {debug[key]}, {folder.parent / 'plans.json'} is of {plans[name]}. Keep each model's own files."
            )
    curves, epochs = read_curves(folder / LOG_FILE)
    method = _optional(folder / METHOD_FILE)
    about: dict[str, Any] = {"debug": debug, "method": method, "curves": curves, "epochs": epochs}
    predictions = folder / VALIDATION
    if not (predictions / PREDICTION_FILE).is_file():
        return Results(folder=folder, task=str(plans.get("task", DEFAULT_TASK)), plans=plans, dataset=dataset, **about)
    found = _predictions(folder, predictions, _first_file(folder / VALIDATION_SUMMARY))
    return replace(found, plans=plans or found.plans, dataset=dataset or found.dataset, **about)


def read_curves(path: Path) -> tuple[dict[str, list[float | None]], tuple[int, int] | None]:
    """Numbers per epoch from ``training_log.txt``, and epochs done and planned; of an epoch that was trained twice, the later."""
    if not path.is_file():
        return {}, None
    found: dict[int, dict[str, float]] = {}
    planned = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        epoch = EPOCH.search(line)
        if epoch is None:
            continue
        number, planned, text = int(epoch[1]), int(epoch[2]), epoch[3]
        found = {known: values for known, values in found.items() if known < number}
        seconds = SECONDS.search(text)
        found[number] = {name: float(value) for name, value in NUMBER.findall(text)} | ({"epoch_seconds": float(seconds[1])} if seconds else {})
    names = dict.fromkeys(name for values in found.values() for name in values)
    last = max(found, default=0)
    return {name: [found.get(number, {}).get(name) for number in range(1, last + 1)] for name in names}, (last, planned) if found else None
