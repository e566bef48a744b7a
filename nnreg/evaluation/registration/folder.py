"""A folder of predictions against the truth of a raw dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.dataset.pairs import Pair
from nnreg.errors import EvaluationError, GeometryError, did_you_mean
from nnreg.evaluation.registration.pair import evaluate_pair, with_corresponding_keypoints
from nnreg.evaluation.summary import summarise
from nnreg.files import read_json
from nnreg.geometry.itk import read_itk
from nnreg.parallel import run_all
from nnreg.progress import Progress

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.dataset.raw import Case

PREDICTION_FILE = "prediction.json"
TRANSFORM_FILE, ALIGNMENT_FILE = "transform.h5", "alignment.h5"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PairJob:
    """One pair to evaluate, as a worker gets it."""

    name: str
    fixed: str
    moving: str
    seconds: float | None
    folder: Path
    raw: RawDataset
    labels: tuple[int, ...] | None
    with_labels: bool
    surface: bool
    complete: bool


def evaluate_folder(
    prediction_folder: Path | str,
    raw: RawDataset,
    *,
    processes: int = 1,
    surface: bool = True,
    with_labels: bool = True,
    complete: bool = True,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Evaluate every pair that ``prediction.json`` names.

    Parameters
    ----------
    prediction_folder
        What ``nnreg_predict`` wrote.
    raw
        The dataset with images, labels, keypoints, masks and true fields of the cases, for training or for testing.
    processes
        Pairs evaluated at a time.
    surface
        Whether to measure surface distances.
    with_labels
        Whether to use labels.
    complete
        Whether every case needs a label file if the dataset has any, and keypoints if the other case of its pair has. Else a pair that lacks
        them, or not as many, is measured without; how many have no labels stands in the summary, ``counts.pairs_without_labels``.
    on_progress
        Called with (done, total, pair).

    Returns
    -------
    dict
        The summary, see :func:`nnreg.evaluation.summarise`.

    Raises
    ------
    EvaluationError
        If the folder holds no predictions, a named one is missing or unreadable, or the dataset lacks the case or its labels.
    """
    folder = Path(prediction_folder)
    content = read_prediction(folder)
    labelled = with_labels and _labelled(raw)
    jobs = [_job(entry, folder, raw, surface=surface, with_labels=labelled, complete=complete) for entry in content["pairs"]]
    results = []
    on_progress(0, len(jobs), "")
    for job, result in run_all(_evaluate, jobs, processes=processes, name=lambda job: job.name):
        results.append(result)
        on_progress(len(results), len(jobs), job.name)
    unit = {"unit": "px"} if all(entry.get("unit") == "px" for entry in content["pairs"]) else {}  # files that say nothing of their size
    summary = summarise(results, {"dataset": raw.name, "model": content.get("model"), "predictions": folder.absolute().name, **unit})
    without = sum(not job.with_labels for job in jobs)
    if labelled and without:
        summary["counts"]["pairs_without_labels"] = without
    return summary


def read_prediction(folder: Path) -> dict[str, Any]:
    """``prediction.json`` of a folder, with pairs in it.

    Raises
    ------
    EvaluationError
        If it is missing, damaged or empty.
    """
    path = folder / PREDICTION_FILE
    if not path.is_file():
        raise EvaluationError(f"{folder}: has no {PREDICTION_FILE}. Give the output folder of nnreg_predict.")
    content = read_json(path, EvaluationError)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION or not isinstance(content.get("pairs"), list):
        raise EvaluationError(f"{path}: expected schema_version {SCHEMA_VERSION} and a list of pairs. Predict again with this version.")
    if not content["pairs"]:
        raise EvaluationError(f"{path}: names no pair. Predict again.")
    for entry in content["pairs"]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "fixed", "moving")):
            raise EvaluationError(f"{path}: found a pair {str(entry)[:60]!r}, expected name, fixed and moving. Predict again.")
    return content


def _labelled(raw: RawDataset) -> bool:
    return bool(raw.spec.labels) or any(raw.label_path(case) is not None for case in raw.cases)


def _job(entry: Mapping[str, Any], folder: Path, raw: RawDataset, *, surface: bool, with_labels: bool, complete: bool) -> PairJob:
    """The job of one pair, after a look at whether all it needs is there: a missing file is told before hours of work, not after."""
    name, cases = entry["name"], (entry["fixed"], entry["moving"])
    for file in (TRANSFORM_FILE, ALIGNMENT_FILE):
        if not (folder / name / file).is_file():
            raise EvaluationError(f"{folder / name / file}: is missing, though {PREDICTION_FILE} names the pair. Predict it again (--continue_prediction).")
    known = [*raw.cases, *raw.test_cases]
    for case in cases:
        if case not in known:
            raise EvaluationError(f"{folder / PREDICTION_FILE}: pair {name} names case {case!r}, which {raw.name} does not have; {did_you_mean(case, known)}")
        if with_labels and complete and raw.label_path(case) is None:
            raise EvaluationError(f"{raw.folder}: case {case!r} of pair {name} has no label file. Add it to labelsTr or labelsTs, or pass --no_labels.")
    points = [raw.keypoints_path(case) is not None for case in cases]
    if complete and any(points) and not all(points):
        raise EvaluationError(f"{raw.folder}: case {cases[points.index(False)]!r} has no keypoints, the other case of pair {name} has. Add or remove one file.")
    with_labels = with_labels and all(raw.label_path(case) is not None for case in cases)
    labels = raw.spec.foreground or None
    seconds = entry.get("seconds")
    return PairJob(name, *cases, seconds, folder / name, raw, labels, with_labels, surface, complete)


def _evaluate(job: PairJob) -> dict[str, Any]:
    fixed, moving = (_case(job.raw, case, job.with_labels) for case in (job.fixed, job.moving))
    if not job.complete:
        fixed, moving = with_corresponding_keypoints(fixed, moving)
    try:
        result = evaluate_pair(
            fixed=fixed,
            moving=moving,
            transform=read_itk(job.folder / TRANSFORM_FILE),
            aligned=read_itk(job.folder / ALIGNMENT_FILE),
            labels=job.labels,
            truth=job.raw.true_field(Pair(job.fixed, job.moving)),
            surface=job.surface,
        )
    except (EvaluationError, GeometryError) as error:
        raise EvaluationError(f"pair {job.name}: {error}") from error
    timing = {} if job.seconds is None else {"seconds": job.seconds}
    return {"name": job.name, "fixed": job.fixed, "moving": job.moving, **timing, **result}


def _case(raw: RawDataset, name: str, with_labels: bool) -> Case:
    case = raw.read_case(name)
    return case if with_labels else replace(case, labels=None)
