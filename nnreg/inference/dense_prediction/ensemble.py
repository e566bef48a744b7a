"""Mean probabilities of several predictions as label maps, class by class."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.dataset.continuous import Continuous, check_channels, finite_or_unknown, read_map
from nnreg.dataset.labels import LabelManager, strongest_of
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.target_spec import Output, case_of, outputs_of, target_of
from nnreg.errors import PredictionError
from nnreg.evaluation.dense_prediction.case import label_files
from nnreg.files import copy_file, read_object, writable_folder, write_json
from nnreg.imageio import as_stored, open_image, read_image, write_image
from nnreg.imageio.files import is_large
from nnreg.imageio.image import check_same_space
from nnreg.imageio.lazy import boxes
from nnreg.imageio.zarr_files import create_zarr
from nnreg.inference.dense_prediction.probabilities import ENDING, Probabilities, write_probabilities
from nnreg.parallel import run_all
from nnreg.progress import Progress
from nnreg.task import DENSE_PREDICTION

PREDICTION_FILE, SCHEMA_VERSION = "prediction.json", 1


def labels_of(classes: Iterable[Floats], labels: LabelManager) -> npt.NDArray[np.integer]:
    """Label map of probabilities that come class by class; never more than two of them are in memory.

    Equals ``labels.to_labels`` of all of them at once.
    """
    table = np.asarray(labels.head_values, labels.dtype)
    if not labels.has_regions:
        return strongest_of(classes, table)
    several = iter(classes)
    first = next(several)
    result = np.zeros(first.shape, labels.dtype)
    for value, probability in zip(table, itertools.chain([first], several), strict=True):
        result[probability > 0.5] = value
    return result


def mean_classes(members: Sequence[Probabilities]) -> Iterator[Floats]:
    """Mean of the members, class by class."""
    for parts in zip(*(member.classes() for member in members), strict=True):
        yield np.mean(parts, axis=0, dtype=np.float32)


@dataclass(frozen=True)
class EnsembleCase:
    """One case of an ensemble.

    Attributes
    ----------
    name : str
    members : files ``CASE.npz``, of a continuous target the predicted values
    like : a label map of the case, or its values, whose grid and ending the new one gets
    """

    name: str
    members: tuple[Path, ...]
    like: Path


@dataclass(frozen=True)
class _Work:
    """Picklable: one case into a folder."""

    output: Path
    outputs: Mapping[str, Output]
    save_probabilities: bool

    def __call__(self, case: EnsembleCase) -> None:
        target = target_of(case.name, self.outputs)
        if target is None:
            raise PredictionError(f"{case.like}: is of none of the targets {', '.join(self.outputs)}. Expected CASE_TARGET; remove the file.")
        output = self.outputs[target]
        write = self._values if isinstance(output, Continuous) else self._labels
        write(case, output)  # type: ignore[arg-type]  # each writes its own kind

    def _values(self, case: EnsembleCase, output: Continuous) -> None:
        if all(is_large([path]) for path in (case.like, *case.members)):
            self._large_values(case, output)
            return
        like, images = read_image(case.like), [read_map(path, output.channels) for path in case.members]
        for path, image in zip(case.members, images, strict=True):
            check_same_space(image.space, path, like.space, case.like)
        write_image(self.output / case.like.name, _mean([image.array for image in images], like.array.dtype), like.space)

    def _large_values(self, case: EnsembleCase, output: Continuous) -> None:
        """Box by box."""
        like, images = open_image(case.like), [open_image(path) for path in case.members]
        for image in images:
            check_channels(image.channels, output.channels, image.path)
            check_same_space(image.space, image.path, like.space, case.like)
        with create_zarr(self.output / case.like.name, output.channels, like.dtype, like.space) as writer:
            for box in boxes(like.space.shape, like.chunks):
                writer.write(box, _mean([finite_or_unknown(image.read(box), image.path) for image in images], like.dtype))

    def _labels(self, case: EnsembleCase, labels: LabelManager) -> None:
        members = [Probabilities(path) for path in case.members]
        space = read_image(case.like).space
        for member in members:
            if member.shape != (labels.heads, *space.shape):
                raise PredictionError(
                    f"{member.path}: has shape {member.shape}, expected {(labels.heads, *space.shape)}: a class per label of {FILE_NAME}, on the grid of "
                    f"{case.like.name}. Predict all members from the same images."
                )
        if self.save_probabilities:
            write_probabilities(self.output / f"{case.name}{ENDING}", mean_classes(members), members[0].shape)
        write_image(self.output / case.like.name, labels_of(mean_classes(members), labels)[None], space)


def _mean(members: Sequence[Floats], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Mean values in the type of the members' files."""
    return as_stored(np.asarray(np.mean(members, axis=0, dtype=np.float32)), dtype)


def member_files(stem: str, files: Sequence[Path], spec: DatasetSpec) -> tuple[Path, ...]:
    """What an ensemble averages for predicted files of one name: the probabilities beside label maps, values themselves."""
    outputs = outputs_of(spec)
    continuous = isinstance(outputs.get(target_of(stem, outputs) or ""), Continuous)
    return tuple(path if continuous else path.with_name(f"{stem}{ENDING}") for path in files)


def ensemble_cases(
    cases: Sequence[EnsembleCase],
    output: Path,
    spec: DatasetSpec,
    *,
    dataset: str,
    model: str,
    save_probabilities: bool = False,
    processes: int = 1,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Average the probabilities of every case into a label map; returns the content of ``prediction.json``."""
    writable_folder(output)
    on_progress(0, len(cases), "")
    work = _Work(output, outputs_of(spec), save_probabilities)
    for done, (case, _) in enumerate(run_all(work, cases, processes=processes, name=lambda case: case.name), 1):
        on_progress(done, len(cases), case.name)
    spec.write(output / FILE_NAME)
    content = {
        "schema_version": SCHEMA_VERSION,
        "task": DENSE_PREDICTION,
        "dataset": dataset,
        "model": model,
        "cases": [{"name": name} for name in dict.fromkeys(case_of(case.name, spec) for case in cases)],
    }
    write_json(output / PREDICTION_FILE, content)
    return content


def ensemble_folders(
    folders: Sequence[Path],
    output: Path,
    *,
    save_probabilities: bool = False,
    processes: int = 1,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Average what several models predicted with ``--save_probabilities``.

    Parameters
    ----------
    folders
        Output folders of ``nnreg_predict`` for the same images; ``dataset.json`` of the first says what classes mean.
    output
        Where ``CASE.ending`` label maps go.
    save_probabilities
        Also write the mean probabilities.
    processes
        Cases at a time.

    Returns
    -------
    dict
        The content of ``prediction.json``.

    Raises
    ------
    PredictionError
        If there are fewer than two folders, a case is missing in one of them, or probabilities do not fit together.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise PredictionError("-i: an ensemble needs two folders or more. Name the output folders of nnreg_predict --save_probabilities.")
    if output.resolve() in {folder.resolve() for folder in folders}:
        raise PredictionError(f"{output}: is a folder of the members. Choose another output folder.")
    files = [label_files(folder) for folder in folders]
    for folder, found in zip(folders, files, strict=True):
        missing = sorted(files[0].keys() ^ found.keys())
        if missing or not found:
            what = f"case {missing[0]!r} is in one of them only" if missing else "it holds no label maps"
            raise PredictionError(f"{folder} and {folders[0]}: do not hold the same cases, {what}. Predict the same images with every model.")
    spec = DatasetSpec.read(folders[0] / FILE_NAME)
    cases = [EnsembleCase(name, member_files(name, [found[name] for found in files], spec), path) for name, path in files[0].items()]
    told = [read_object(folder / PREDICTION_FILE, PredictionError) if (folder / PREDICTION_FILE).is_file() else {} for folder in folders]
    names = [str(content.get("model", folder.name)) for content, folder in zip(told, folders, strict=True)]
    content = ensemble_cases(
        cases,
        output,
        spec,
        dataset=str(told[0].get("dataset", "")),
        model="ensemble___" + "___".join(names),
        save_probabilities=save_probabilities,
        processes=processes,
        on_progress=on_progress,
    )
    if (folders[0] / "plans.json").is_file():
        copy_file(folders[0] / "plans.json", output / "plans.json")
    return content
