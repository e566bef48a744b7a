"""Predicted label maps against the truth, with the keys of nnU-Net's ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.dataset.label_files import read_label_map, whole_numbers_of_block
from nnreg.errors import EvaluationError
from nnreg.evaluation.additional import ADDITIONAL, described
from nnreg.evaluation.registration.pair import finite_mean
from nnreg.imageio import ENDINGS, Image, LazyImage, ending_of, is_image_file, open_image
from nnreg.imageio.files import is_large
from nnreg.imageio.image import check_same_space
from nnreg.imageio.lazy import boxes
from nnreg.metrics.additional import additional_metrics
from nnreg.parallel import run_all
from nnreg.progress import Progress

Label = int | tuple[int, ...]
"""A label value, or the values of a region."""
Measure = Callable[[Path, Path], dict[str, dict[str, float]]]
"""Figures by label, or by channel, of a reference and a prediction. Picklable."""
SCHEMA_VERSION = 1
COUNTS = ("TP", "FP", "FN", "TN")
COLUMNS = ("Dice", "IoU", "Precision", "Recall", "Accuracy", "HD95", "ASD", "MAE", "RMSE", "PSNR", "SSIM")  # of a table, as far as they were measured


@dataclass(frozen=True)
class DenseJob:
    """One case to evaluate, as a worker gets it."""

    case: str
    reference: Path
    prediction: Path
    measure: Measure


def key_of(label: Label, target: str = "") -> str:
    """What a label or region, of one of several targets, is called in a summary.

    Examples
    --------
    >>> key_of(3), key_of((1, 2)), key_of(1, "ink")
    ('3', '(1, 2)', 'ink: 1')
    """
    return f"{target}: {label}" if target else str(label)


def evaluate_labels(
    *, reference: Image, prediction: Image, labels: Sequence[Label], ignore: int | None = None, surface: bool = False, additional: bool = True
) -> dict[str, dict[str, float]]:
    """Measure one predicted label map.

    Parameters
    ----------
    reference, prediction : Image
        On one grid, one channel each.
    labels
        Values, or tuples of values that make a region.
    ignore
        Value of the reference that is not scored.
    surface
        Whether to measure ``HD95`` and ``ASD`` too, mm.
    additional
        Whether to measure what :func:`nnreg.metrics.additional_metrics` has of labels, beside ours.

    Returns
    -------
    dict
        Key of the label to ``Dice``, ``IoU`` (NaN where it is in neither map), ``TP``, ``FP``, ``FN``, ``TN``, ``n_pred`` and ``n_ref`` (voxels),
        ``Precision`` (NaN where nothing is predicted), ``Recall`` (NaN where there is nothing to find) and ``Accuracy`` (share of the scored voxels).

    Raises
    ------
    ConfigurationError
        If an additional metric cannot be used.
    """
    truth, found = reference.array[0], prediction.array[0]
    values = _values(labels)
    scored = None if ignore is None else truth != ignore
    result = _overlaps(metrics.confusion(truth, found, values, mask=scored), values, labels)
    spacing = reference.space.spacing

    def masks(region: tuple[int, ...]) -> list[npt.NDArray[np.bool_]]:
        return [np.isin(array, region) & (True if scored is None else scored) for array in (truth, found)]

    if surface:
        for label, region in _regions(labels).items():
            first, second = (mask.astype(np.uint8) for mask in masks(region))
            distances = metrics.surface_distances(first, second, [1], spacing)[1]
            measured = (math.nan, math.nan) if distances is None else (distances.hausdorff(95), distances.average)
            result[key_of(label)] |= dict(zip(("HD95", "ASD"), measured, strict=True))
    for more in additional_metrics("labels") if additional else ():
        for label, region in _regions(labels).items():
            one, other = masks(region)
            somewhere = one.any() or other.any()
            result[key_of(label)][more.metric.name] = more(reference=one, prediction=other, spacing=spacing) if somewhere else math.nan
    return result


def evaluate_large_labels(
    *, reference: LazyImage, prediction: LazyImage, labels: Sequence[Label], ignore: int | None = None, surface: bool = False
) -> dict[str, dict[str, float]]:
    """As :func:`evaluate_labels` of maps that do not fit into memory, block by block; surfaces and additional metrics, which need the whole, are NaN."""
    values = _values(labels)
    table = np.zeros((len(values) + 1,) * 2, np.int64)
    for box in boxes(reference.space.shape, prediction.chunks):
        truth, found = (whole_numbers_of_block(image.read(box), image.path)[0] for image in (reference, prediction))
        table += metrics.confusion(truth, found, values, mask=None if ignore is None else truth != ignore)
    result = _overlaps(table, values, labels)
    if surface:
        for scores in result.values():
            scores |= {"HD95": math.nan, "ASD": math.nan}
    for more in additional_metrics("labels"):
        for scores in result.values():
            scores[more.metric.name] = math.nan
    return result


def _regions(labels: Sequence[Label]) -> dict[Label, tuple[int, ...]]:
    return {label: (label,) if isinstance(label, int) else tuple(label) for label in labels}


def _values(labels: Sequence[Label]) -> list[int]:
    return sorted({value for region in _regions(labels).values() for value in region})


def _overlaps(table: npt.NDArray[np.int64], values: list[int], labels: Sequence[Label]) -> dict[str, dict[str, float]]:
    """Figures of each label from how many voxels have which values."""
    result = {}
    for label, region in _regions(labels).items():
        inside = [values.index(value) for value in region]
        result[key_of(label)] = _scores(int(table[np.ix_(inside, inside)].sum()), int(table[:, inside].sum()), int(table[inside].sum()), int(table.sum()))
    return result


def _scores(both: int, predicted: int, true: int, voxels: int) -> dict[str, float]:
    either = predicted + true - both
    return {
        "Dice": 2 * both / (predicted + true) if either else math.nan,
        "IoU": both / either if either else math.nan,
        "TP": both,
        "FP": predicted - both,
        "FN": true - both,
        "TN": voxels - either,
        "n_pred": predicted,
        "n_ref": true,
        "Precision": both / predicted if predicted else math.nan,
        "Recall": both / true if true else math.nan,
        "Accuracy": (voxels - either + both) / voxels if voxels else math.nan,
    }


def label_files(folder: Path) -> dict[str, Path]:
    """Case to its label map in a folder of predictions or of labels.

    Raises
    ------
    EvaluationError
        If there is no such folder, or a case has two files.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder. Give the folder that holds the label maps.")
    result: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not is_image_file(path) or path.name.endswith(".npz") or not path.name.lower().endswith(tuple(ENDINGS)):
            continue
        case = path.name[: -len(ending_of(path))]
        if case in result:
            raise EvaluationError(f"{folder}: case {case!r} has two files, {result[case].name} and {path.name}. Remove one.")
        result[case] = path
    return result


def evaluate_label_files(
    references: Mapping[str, Path], predictions: Mapping[str, Path], *, labels: Sequence[Label], ignore: int | None = None, surface: bool = False, **more: Any
) -> dict[str, Any]:
    """Evaluate predicted label maps: :func:`evaluate_files` with `labels`, `ignore` and `surface` as :func:`evaluate_labels` takes them."""
    return evaluate_files(references, predictions, LabelMeasure(tuple(labels), ignore, surface), **more)


def evaluate_files(
    references: Mapping[str, Path],
    predictions: Mapping[str, Path],
    measure: Measure,
    *,
    processes: int = 1,
    meta: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Evaluate predicted files.

    Parameters
    ----------
    references, predictions
        Case to file; every prediction needs a reference.
    measure
        What is done with two of them.
    processes
        Cases evaluated at a time.
    meta
        Stands at the top of the summary.

    Returns
    -------
    dict
        ``metric_per_case``; ``mean``: key of each label to the mean of each figure over the cases that have it; ``foreground_mean``: over labels.

    Raises
    ------
    EvaluationError
        If there is nothing to evaluate, or a reference is missing or lies on another grid.
    """
    if not predictions:
        raise EvaluationError("there is no prediction to evaluate: no label map was found. Check the folder and its file ending.")
    for case, path in predictions.items():
        if case not in references:
            raise EvaluationError(f"{path}: there are no labels of case {case!r} to compare it with. Add them, or take the prediction out of the folder.")
    jobs = [DenseJob(case, references[case], path, measure) for case, path in sorted(predictions.items())]
    results = {}
    on_progress(0, len(jobs), "")
    for job, result in run_all(_evaluate, jobs, processes=processes, name=lambda job: job.case):
        results[job.case] = result
        on_progress(len(results), len(jobs), job.case)
    return summarise_dense([results[job.case] for job in jobs], meta or {})


@dataclass(frozen=True)
class LabelMeasure:
    """:func:`evaluate_labels` of two files, by parts where they do not fit into memory."""

    labels: tuple[Label, ...]
    ignore: int | None = None
    surface: bool = False

    def __call__(self, reference: Path, prediction: Path) -> dict[str, dict[str, float]]:
        """Figures by label."""
        more: dict[str, Any] = {"labels": self.labels, "ignore": self.ignore, "surface": self.surface}
        if is_large([prediction]) and is_large([reference]):
            truth, by_parts = open_image(reference), open_image(prediction)
            check_same_space(by_parts.space, prediction, truth.space, reference)
            return evaluate_large_labels(reference=truth, prediction=by_parts, **more)
        whole, found = read_label_map(reference), read_label_map(prediction)
        check_same_space(found.space, prediction, whole.space, reference)
        return evaluate_labels(reference=whole, prediction=found, **more)


def _evaluate(job: DenseJob) -> dict[str, Any]:
    figures = job.measure(job.reference, job.prediction)
    return {"case": job.case, "reference_file": str(job.reference), "prediction_file": str(job.prediction), "metrics": figures}


def summarise_dense(cases: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Join the results of all cases: means per label over the cases where a figure exists, and over the foreground labels."""
    names = {key: list(figures) for key, figures in cases[0]["metrics"].items()}  # labels and values have figures of their own
    mean = {key: {name: finite_mean([case["metrics"][key][name] for case in cases]) for name in figures} for key, figures in names.items()}
    every = dict.fromkeys(name for figures in names.values() for name in figures)
    foreground = {name: finite_mean([figures[name] for key, figures in mean.items() if key != "0" and name in figures]) for name in every}
    more = described(every)
    summary = {"schema_version": SCHEMA_VERSION, **meta, "metric_per_case": list(cases), "mean": mean, "foreground_mean": foreground}
    return summary | ({ADDITIONAL: more} if more else {})


def joined_targets(summaries: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """One summary of several targets of the same cases: labels are called ``TARGET: LABEL``, files stand by target, ``foreground_mean`` is over all labels.

    ``foreground_mean_per_target`` has that of each.
    """
    cases = []
    for parts in zip(*(summary["metric_per_case"] for summary in summaries.values()), strict=True):
        by_target = dict(zip(summaries, parts, strict=True))
        files = {key: {target: part[key] for target, part in by_target.items()} for key in ("reference_file", "prediction_file")}
        figures = {f"{target}: {label}": found for target, part in by_target.items() for label, found in part["metrics"].items()}
        cases.append({"case": parts[0]["case"], **files, "metrics": figures})
    return {**summarise_dense(cases, meta), "foreground_mean_per_target": {target: summary["foreground_mean"] for target, summary in summaries.items()}}


def dense_table(summary: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The means as text: one line per label. `names` says what a label's key is called."""
    columns = [name for name in (*COLUMNS, *summary.get(ADDITIONAL, {})) if name in summary["foreground_mean"]]
    rows = [("", *columns, "cases")]
    for key, means in summary["mean"].items():
        first = "Dice" if "Dice" in means else "MAE"
        found = sum(math.isfinite(_number(case["metrics"][key][first])) for case in summary["metric_per_case"])
        rows.append(((names or {}).get(key, key), *(_shown(means.get(name), name) for name in columns), str(found)))
    rows.append(
        (
            "foreground mean" if "Dice" in columns else "mean",
            *(_shown(summary["foreground_mean"][name], name) for name in columns),
            str(len(summary["metric_per_case"])),
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.rjust(width) if column else text.ljust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _shown(value: float | None, name: str) -> str:
    value = _number(value)
    return (
        "-"
        if not math.isfinite(value)
        else f"{value:.4f}"
        if name in ("Dice", "IoU", "Precision", "Recall", "Accuracy", "SSIM")
        else f"{value:.4g}"
        if name in ("MAE", "RMSE") or name not in COLUMNS
        else f"{value:.2f}"
    )
