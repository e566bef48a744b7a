"""What a template leaves: the image, labels fused onto it, the maps of every subject, the report of its rounds, a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Doubles, Integers, Reals
from nnreg.errors import GeometryError
from nnreg.evaluation.registration.pictures import panel_height, scaled, sheet, show, window
from nnreg.evaluation.slices import page, planes
from nnreg.geometry import resample_image, resample_labels
from nnreg.geometry.itk import write_result
from nnreg.groups.affine_mean import mean_logarithm
from nnreg.groups.output_folder import SUMMARY, files_of, group_record, write_record
from nnreg.groups.template.mean_image import MeanImage, sharpened
from nnreg.groups.template.options import TemplateOptions
from nnreg.groups.template.rounds import Shape, save
from nnreg.groups.template.subjects import Subject, mean_scale
from nnreg.imageio import Image, write_image
from nnreg.parallel import run_all
from nnreg.progress import Progress

SCHEMA_VERSION = 1
SLAB = 2**20  # voxels whose labels are counted at once


@dataclass(frozen=True)
class Built:
    """A template whose rounds are done.

    Attributes
    ----------
    subjects, matrices
        Images, and the affine part of the maps from the template's world to theirs.
    shape, affine : Shape
        Its last state, and the mean under the affine part alone, on the same grid.
    reference : Subject
        What the images were aligned to first.
    options : TemplateOptions
    rounds
        What was measured of each.
    left_out
        Images that are not in it, with their reasons.
    """

    subjects: list[Subject]
    matrices: list[Doubles]
    shape: Shape
    affine: Shape
    reference: Subject
    options: TemplateOptions
    rounds: list[dict[str, Any]]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Maps:
    """The files of one subject: its map, the inverse, its labels on the template."""

    subject: Subject
    matrix: Doubles
    shape: Shape
    output: Path

    @property
    def file(self) -> Path:
        return self.output / "maps" / f"{self.subject.name}.h5"

    @property
    def inverse(self) -> Path:
        return self.output / "maps" / f"{self.subject.name}_inverse.h5"

    @property
    def labels(self) -> Path:
        return self.shape.folder / "labels" / f"{self.subject.name}.npy"


def _write_maps(job: _Maps) -> str | None:
    """Why there is no inverse, where there is none."""
    transform = job.shape.transform(job.subject, job.matrix)
    if job.subject.member.labels is not None and not job.labels.is_file():
        image = job.subject.member.image()
        found = job.subject.member.label_map(image)
        assert found is not None
        save(job.labels, resample_labels(found.array, moving=found.space, fixed=job.shape.space, transform=transform))  # type: ignore[arg-type]
    write_result(job.file, transform)
    try:
        write_result(job.inverse, transform.inverse())
    except GeometryError as error:
        return str(error)
    return None


def write_results(built: Built, output: Path, *, processes: int, made_from: dict[str, str], on_progress: Progress | None) -> dict[str, Any]:
    """Write all that belongs to a template; ``summary.json`` comes last.

    Returns
    -------
    dict
        What ``summary.json`` holds.
    """
    jobs = [_Maps(subject, matrix, built.shape, output) for subject, matrix in zip(built.subjects, built.matrices, strict=True)]
    without_inverse = {}
    for number, (job, why) in enumerate(run_all(_write_maps, jobs, processes=processes, name=_job_name), start=1):
        if why is not None:
            without_inverse[job.subject.name] = why
        if on_progress is not None:
            on_progress(number, len(jobs), f"write {job.subject.name}")
    mean, affine = (MeanImage.load(shape.mean, shape.space) for shape in (built.shape, built.affine))
    scale = mean_scale(built.subjects)
    template = sharpened(mean.array) if built.options.sharpen else mean.array
    labels = _fused([job.labels for job in jobs if job.subject.member.labels is not None], built.shape)
    images = {
        "template": Image(scale.own(template), mean.space),
        "affine_mean": Image(scale.own(affine.array), mean.space),
        "template_mask": mean.mask(),
        "template_labels": labels,
    }
    written = [job.file for job in jobs] + [job.inverse for job in jobs if job.subject.name not in without_inverse]
    for name, image in images.items():
        if image is not None:
            written.append(output / f"{name}.nii.gz")
            write_image(written[-1], image.array, image.space)
    columns = {"affine mean": affine.image(), "mean": mean.image(), "sharpened": mean.image(sharpen=True)}
    _draw(output / "overview.png", columns, labels, _headline(built))
    content = _content(built, without_inverse, made_from, sum(job.subject.member.labels is not None for job in jobs))
    write_record(output / SUMMARY, content, [*written, output / "overview.png"])
    return content


def _job_name(job: _Maps) -> str:
    return f"write {job.subject.name}"


def _content(built: Built, without_inverse: dict[str, str], made_from: dict[str, str], labelled: int) -> dict[str, Any]:
    last = built.rounds[-1]
    return {
        "schema_version": SCHEMA_VERSION,
        **group_record(files_of(subject.member for subject in built.subjects)),
        "images": sorted(subject.name for subject in built.subjects),
        "left_out": built.left_out,
        "reference": built.reference.name,
        "space": built.shape.space.to_dict(),
        "sharpened": built.options.sharpen,
        "sharpness": last["sharpness"],
        "drift": last["drift"],
        "affine_mean_logarithm": mean_logarithm(built.matrices),
        "with_labels": labelled,
        "without_inverse": without_inverse,
        "rounds": built.rounds,
        "made_from": made_from,
    }


def _fused(files: Sequence[Path], shape: Shape) -> Image | None:
    """The label that most images have, in every voxel; of several the smallest."""
    if not files:
        return None
    maps = [np.load(file, mmap_mode="r").reshape(-1) for file in files]
    values = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    result = np.empty(shape.space.voxels, maps[0].dtype if len({labels.dtype for labels in maps}) == 1 else np.int32)
    for start in range(0, len(result), SLAB):
        part = np.searchsorted(values, np.stack([labels[start : start + SLAB] for labels in maps]))
        result[start : start + SLAB] = values[majority(part)]
    return Image(result.reshape(1, *shape.space.shape), shape.space)


def majority(votes: Integers) -> Integers:
    """The most frequent value of each column of votes (images, voxels); of equally frequent ones the smallest."""
    ordered = np.sort(votes, axis=0)
    count, run = np.ones(votes.shape[1], int), np.ones(votes.shape[1], int)
    winner = ordered[0].copy()
    for before, row in itertools.pairwise(ordered):
        run = np.where(row == before, run + 1, 1)
        better = run > count
        winner[better], count[better] = row[better], run[better]
    return np.asarray(winner)


def _headline(built: Built) -> str:
    last = built.rounds[-1]
    sharper = f"gradient energy {last['sharpness']:.2f} times the affine mean's"
    return f"{len(built.subjects)} images, {len(built.rounds)} rounds: {sharper}; drift in the last round {last['drift']:.3f} voxels"


def _draw(path: Path, columns: dict[str, Image], labels: Image | None, headline: str) -> None:
    """Affine mean and template beside each other in every plane, with the labels where there are some."""
    first = next(iter(columns.values()))
    views = planes(first)
    limits = window(columns["mean"].array)
    titles = [*columns, *(["labels"] if labels is not None else [])]
    with sheet(path, [panel_height(space.shape, space.spacing) for _, space in views], titles, headline, font=10) as axes:
        for row, (name, space) in enumerate(views):
            aspect = space.spacing[-2] / space.spacing[-1]
            for axis, image in zip(axes[row], columns.values(), strict=False):
                show(axis, scaled(page(resample_image(image.array, moving=image.space, fixed=space)), limits), aspect, colour=False)
            if labels is not None:
                found = resample_labels(labels.array, moving=labels.space, fixed=space).astype(np.float64)
                _draw_labels(axes[row][-1], page(found)[0], aspect)
            axes[row][0].set_ylabel(name, fontsize=9)
            for axis in axes[row]:
                axis.set_xticks([])
                axis.set_yticks([])


def _draw_labels(axis: Any, labels: Reals, aspect: float) -> None:
    """Neighbouring values in colours far from each other."""
    shades = np.where(labels == 0, 0, 1 + (labels * 7) % 19)
    axis.imshow(np.ma.masked_where(labels == 0, shades), cmap="tab20", vmin=1, vmax=20, aspect=aspect, interpolation="nearest")
    axis.set_facecolor("black")
