"""Does a dataset hold what its ``dataset.json`` says? Every problem, not just the first."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from nnreg.dataset.continuous import Continuous, read_map
from nnreg.dataset.label_files import whole_numbers
from nnreg.dataset.large import large
from nnreg.dataset.pairs import check_names
from nnreg.dataset.raw import Case, RawDataset
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.splits import FILE_NAME as SPLITS_NAME
from nnreg.dataset.splits import check_splits
from nnreg.dataset.target_spec import outputs_of, targets_of
from nnreg.dataset.targets import label_file
from nnreg.dataset.verify_large import check_large
from nnreg.errors import DatasetError, NnRegError
from nnreg.files import read_json
from nnreg.imageio import Image, read_image
from nnreg.parallel import run_all
from nnreg.progress import Progress


@dataclass(frozen=True)
class Report:
    """What the check found.

    Attributes
    ----------
    dataset : name of the dataset
    cases : number of cases that were read
    problems : what must be mended, one line each
    notes : what should be known, one line each
    """

    dataset: str
    cases: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def require_sound(self) -> None:
        """Raise a DatasetError with the first problem, and how many more there are."""
        if self.problems:
            more = len(self.problems) - 1
            tail = f" (and {more} more; nnreg_verify_dataset lists all)" if more else ""
            raise DatasetError(self.problems[0] + tail)


@dataclass(frozen=True)
class _Found:
    """What one case gave."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ndim: int | None = None
    keypoints: int | None = None


def verify_dataset(raw: RawDataset, *, processes: int = 1, on_progress: Progress | None = None) -> Report:
    """Read every file of a dataset and check it against ``dataset.json`` and against its neighbours.

    Parameters
    ----------
    raw
        The dataset.
    processes
        Workers that read cases.
    on_progress
        Called with (done, total, case).

    Returns
    -------
    Report
        Nothing is raised for a bad file: all problems are listed. See :meth:`Report.require_sound`.
    """
    where = str(raw.folder / FILE_NAME)
    everything = (*raw.cases, *raw.test_cases)
    problems = _count_problems(raw, where) + check_names(raw.spec, everything, where) + _stray_files(raw)
    found: dict[str, _Found] = {}
    for case, result in run_all(partial(_check_case, raw), everything, processes=processes):
        found[case] = result
        if on_progress is not None:
            on_progress(len(found), len(everything), case)
    notes: list[str] = []
    for case in everything:
        problems += found[case].problems
        notes += found[case].notes
    problems += _across_cases(raw, found, where)
    if not any(problem.startswith(where) for problem in problems):
        problems += _pair_problems(raw, found)
    return Report(raw.name, len(everything), tuple(problems), tuple(notes))


def _count_problems(raw: RawDataset, where: str) -> list[str]:
    if raw.spec.numTraining == len(raw.cases):
        return []
    return [
        f"{where}: numTraining is {raw.spec.numTraining}, but there are {len(raw.cases)} training cases. Set it to {len(raw.cases)} or add the missing ones."
    ]


def _stray_files(raw: RawDataset) -> list[str]:
    """Files that belong to no case: a misspelt label would otherwise just not be used."""
    problems = []
    for suffix, cases in (("Tr", raw.cases), ("Ts", raw.test_cases)):
        names = [case + more for case in cases for more in ("", *(f"_{target}" for target in raw.spec.targets))]
        for kind in ("labels", "masks", "keypoints"):
            folder = raw.folder / f"{kind}{suffix}"
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                stem = path.name.split(".")[0] if kind == "keypoints" else path.name.removesuffix(raw.spec.file_ending)
                if not path.name.startswith(".") and path.suffix != ".json" and not any(stem == name or path.name.startswith(f"{name}.") for name in names):
                    problems.append(f"{path}: belongs to no case of images{suffix}. Rename it after its case, or remove it.")
    return problems


def _check_case(raw: RawDataset, name: str) -> _Found:
    """Read one case; what is wrong with it comes back as text, so that the other cases are checked too."""
    found = _Found()
    try:
        extra = _extra_channels(raw, name)
        if large(raw, name):
            parts = check_large(raw, name)
            return _Found(extra + parts.problems, parts.notes, parts.ndim)
        case = raw.read_case(name)
        found.problems.extend(extra + _label_problems(raw, case))
    except NnRegError as error:
        return _Found(problems=[str(error)])
    found.notes.extend(case.image.notes)
    if not np.ptp(case.image.array):
        found.notes.append(f"{raw.image_paths(name)[0]}: is constant, there is nothing to register")
    count = None if case.keypoints_voxel is None else len(case.keypoints_voxel)
    return _Found(found.problems, found.notes, case.image.ndim, count)


def _extra_channels(raw: RawDataset, name: str) -> list[str]:
    """Channel files beyond those that ``dataset.json`` names."""
    expected = raw.image_paths(name)
    count = len(raw.spec.channels_of(name))
    if name in raw.spec.dataset:
        return []
    there = sorted(expected[0].parent.glob(f"{glob.escape(name)}_[0-9][0-9][0-9][0-9]{raw.spec.file_ending}"))
    return [
        f"{path}: is a channel beyond the {count} that {FILE_NAME} names. Add it to channel_names or remove the file." for path in there if path not in expected
    ]


def _label_problems(raw: RawDataset, case: Case) -> list[str]:
    spec = raw.spec
    allowed = {0, *spec.foreground} | ({spec.ignore} if spec.ignore is not None else set())
    problems = _value_problems(raw.label_path(case.name), case.labels, allowed) if case.labels is not None and spec.labels else []
    named = bool(spec.labels) or all(target.labels for target in targets_of(spec).values() if not target.is_continuous)
    for name, output in outputs_of(spec).items() if named and spec.targets else ():
        path = label_file(raw, case.name, name) if isinstance(output, Continuous) else raw.label_path(case.name, name)
        if isinstance(output, Continuous):
            problems += [] if path is None else _map_problems(path, output.channels, case.image)
        elif path is not None:
            problems += _value_problems(path, whole_numbers(read_image(path), path), set(output.allowed))
    return problems


def _map_problems(path: Path, channels: int, image: Image) -> list[str]:
    try:
        found = read_map(path, channels)
    except NnRegError as error:
        return [str(error)]
    if found.space.shape == image.space.shape:
        return []
    return [f"{path}: has shape {found.space.shape}, its image {image.space.shape}. Make the target on the grid of the image."]


def _value_problems(path: Path | None, labels: Image, allowed: set[int]) -> list[str]:
    unknown = sorted(set(np.unique(labels.array).tolist()) - allowed)
    if not unknown:
        return []
    values = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
    return [f"{path}: holds the values {values}, which labels in {FILE_NAME} does not name. Add them or mend the file."]


def _across_cases(raw: RawDataset, found: dict[str, _Found], where: str) -> list[str]:
    by_ndim: dict[int, list[str]] = {}
    for case, result in found.items():
        if result.ndim is not None:
            by_ndim.setdefault(result.ndim, []).append(case)
    problems = []
    if len(by_ndim) > 1:
        problems.append(
            f"{raw.folder}: mixes 2D cases (such as {sorted(by_ndim[2])[0]!r}) and 3D cases (such as {sorted(by_ndim[3])[0]!r}). Make two datasets."
        )
    path = raw.folder / SPLITS_NAME
    if path.is_file():
        try:
            check_splits(read_json(path, DatasetError), raw.cases, where=str(path))
        except DatasetError as error:
            problems.append(str(error))
    if raw.spec.foreground and not any(raw.label_path(case, target) for case in raw.cases for target in ("", *raw.spec.targets)):
        problems.append(f"{where}: names labels, but there is no file in labelsTr. Add them, or set labels to {{}}.")
    return problems


def _pair_problems(raw: RawDataset, found: dict[str, _Found]) -> list[str]:
    pairs = raw.pairs()
    problems = []
    if not pairs and raw.spec.registers_pairs:
        problems.append(
            f"{raw.folder / FILE_NAME}: pairing {raw.spec.pairing!r} gives no training pair among {len(raw.cases)} cases. Add cases, or choose another pairing."
        )
    if raw.spec.pairing not in ("pairs", "groups"):
        return problems  # keypoints of different subjects do not correspond
    for pair in (*pairs, *raw.test_pairs()):
        counts = found[pair.fixed].keypoints, found[pair.moving].keypoints
        if counts[0] is not None and counts[1] is not None and counts[0] != counts[1]:
            problems.append(
                f"{raw.keypoints_path(pair.moving)}: has {counts[1]} keypoints, its fixed case {pair.fixed!r} has {counts[0]}. "
                "Row i of one must be row i of the other: give both the same points."
            )
    return problems
