"""One subject: visits into the space in their middle, each resampled once, all pairs registered there both ways, changes of volume."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.engine.failure import LIKELY
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.options import EngineOptions
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import ConfigurationError, RegistrationError, did_you_mean
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, resample_image, resample_labels
from nnreg.groups.halfway import Between, round_trip
from nnreg.groups.longitudinal.change import LabelChange, Volumes, rate
from nnreg.groups.longitudinal.mid_space import middle, middle_grid
from nnreg.groups.longitudinal.positions import Positions, positions
from nnreg.groups.longitudinal.visits import Subject
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member
from nnreg.imageio import Image, write_image
from nnreg.progress import Progress, part_of

LINEAR_PART, ENGINE_PART = 0.1, 0.7  # of the progress: where linear maps end, and where the engine does


@dataclass(frozen=True)
class Settings:
    """How visits are registered.

    Attributes
    ----------
    alignment : "none", "centre", "rigid" or "affine"
        The linear maps to the middle space. Scaling by an affine map counts in the volumes all the same.
    preset, similarity, smoothness, device
        Of the engine, for the deformable part.
    """

    alignment: str = "rigid"
    preset: str = "default"
    similarity: str = "auto"
    smoothness: float = 1.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.alignment not in ALIGNMENTS:
            raise ConfigurationError(f"alignment {self.alignment!r} is unknown; {did_you_mean(self.alignment, ALIGNMENTS)}")
        self.linear(), self.deformable()

    def linear(self) -> EngineOptions:
        """Options of the linear maps."""
        return EngineOptions(affine_only=True, alignment=self.alignment)

    def deformable(self) -> EngineOptions:
        """Options of the maps in the middle space."""
        return EngineOptions(preset=self.preset, similarity=self.similarity, smoothness=self.smoothness, device=self.device, alignment="none")


@dataclass(frozen=True, eq=False)
class Followed:
    """What is known of a subject's visits.

    Attributes
    ----------
    grid : Space
        Of the middle space.
    linear : list of arrays (ndim+1, ndim+1)
        From the middle space to the world of each visit.
    deformation : Positions
        Displacements in the middle space, before `linear`.
    volumes : Volumes
    changes : list of lists of LabelChange
        Of each visit.
    mean : array, shape (C, *grid)
        Of all visits where they agree.
    labels : list of int arrays (*grid)
        Label maps of the visits that have some, or the foreground, in the middle space.
    round_trip_mm : (visit, visit) to mm
    failures : (visit, visit) to probability
    """

    subject: Subject
    grid: Space
    linear: list[Doubles]
    deformation: Positions
    volumes: Volumes
    changes: list[list[LabelChange]]
    mean: Floats
    labels: list[Any]
    round_trip_mm: dict[tuple[str, str], float]
    failures: dict[tuple[str, str], float]

    def transform(self, visit: int) -> Transform:
        """From the middle space to the world of a visit."""
        return Transform((self.deformation.whole[visit], AffineMap(self.linear[visit])), self.grid.ndim)

    def report(self) -> dict[str, Any]:
        """Everything but images, as plain values."""
        times = [visit.time for visit in self.subject.visits]
        labels = [change.label for change in self.changes[0]]
        rates = {label: rate(times, [visit[number].change for visit in self.changes]) for number, label in enumerate(labels)}
        return {
            "subject": self.subject.name,
            "times_given": self.subject.timed,
            "grid": self.grid.to_dict(),
            "visits": [
                {"visit": visit.name, "time": visit.time, "image": visit.member.files, "labels": [asdict(change) for change in changes]}
                for visit, changes in zip(self.subject.visits, self.changes, strict=True)
            ],
            "note": self.subject.note,
            "percent_per_unit_of_time": {label: asdict(found) for label, found in rates.items()},
            "round_trip_mm": {" and ".join(pair): value for pair, value in self.round_trip_mm.items()},
            "likely_failed": {" and ".join(pair): value for pair, value in self.failures.items() if value >= LIKELY},
        }


def follow(subject: Subject, work: Path, settings: Settings, *, processes: int = 1, on_progress: Progress | None = None) -> Followed:
    """Register the visits of a subject without bias to one of them.

    Linear maps of all pairs, in both directions, give the space in the middle (:mod:`nnreg.groups.longitudinal.mid_space`). Every visit is resampled into it
    once. There all pairs are registered in both directions by the engine, what is left is measured by least squares, and the pairs are brought to agree
    (:mod:`nnreg.groups.halfway`, :mod:`nnreg.groups.longitudinal.positions`).

    Parameters
    ----------
    subject
        With two visits at least.
    work
        Folder for what is kept of a run that is killed.
    processes
        Pairs that are registered at a time.

    Raises
    ------
    NnRegError
        If an image cannot be read, or two visits cannot be registered.
    """
    check_visits(subject)
    members = [visit.member for visit in subject.visits]
    images = _alike(members)
    order = list(itertools.permutations(range(len(members)), 2))
    linear = Maps(work / "linear", settings.linear())
    linear.make([(members[i], members[j]) for i, j in order], processes=processes, on_progress=part_of(on_progress, 0, LINEAR_PART))
    to_visits = middle({(i, j): _matrix(linear.transform(members[i], members[j])) for i, j in order}, len(members))
    grid = middle_grid([image.space for image in images], to_visits)
    placed = [_placed(member, image, matrix, grid, work / "placed") for member, image, matrix in zip(members, images, to_visits, strict=True)]
    maps = Maps(work / "maps", settings.deformable())
    maps.make([(placed[i], placed[j]) for i, j in order], processes=processes, on_progress=part_of(on_progress, LINEAR_PART, ENGINE_PART))
    between = Between(work / "halfway", maps, smoothness=settings.smoothness)
    between.make([(placed[i], placed[j]) for i, j in order if i < j], processes=processes, on_progress=part_of(on_progress, ENGINE_PART, 1))
    found = positions(between, placed, grid)
    volumes = Volumes.of(found, to_visits)
    transforms = [Transform((field, AffineMap(matrix)), grid.ndim) for field, matrix in zip(found.whole, to_visits, strict=True)]
    mean = np.mean([_sampled(image, grid, transform) for image, transform in zip(images, transforms, strict=True)], axis=0)
    body = foreground(prepare(mean, grid, None, "mean"))
    regions, own = _labels(members, images, transforms, grid)
    regions = regions or [(body > 0.5).astype(np.uint8)]
    trips = {
        (members[i].name, members[j].name): round_trip(_field(maps, placed[i], placed[j], grid), _field(maps, placed[j], placed[i], grid), body)
        for i, j in order
        if i < j
    }
    failures = {(members[i].name, members[j].name): maps.failure(placed[i], placed[j]) for i, j in order}
    changes = volumes.changes(regions, float(np.prod(grid.spacing)), own)
    alone = between.shares_told(placed[0], placed[-1], {value: regions[0] == value for value in np.unique(regions[0]).tolist() if value})
    changes = [[replace(change, told_alone=alone.get(change.label)) for change in visit] for visit in changes]
    return Followed(subject, grid, to_visits, found, volumes, changes, mean, regions, trips, failures)


def check_visits(subject: Subject) -> None:
    """Raise a RegistrationError for a subject of fewer than two visits."""
    if len(subject.visits) < 2:
        found = f"one visit ({subject.visits[0].name})" if subject.visits else "no visit that can be read"
        raise RegistrationError(f"subject {subject.name!r} has {found}; a change needs two. Add one, or leave the subject out.")


def _alike(members: list[Member]) -> list[Image]:
    """The images, which have as many axes and channels each."""
    images = [member.image() for member in members]
    for member, image in zip(members, images, strict=True):
        if (image.ndim, image.channels) != (images[0].ndim, images[0].channels):
            raise RegistrationError(
                f"{member.files[0]}: has {image.ndim} axes and {image.channels} channels, {members[0].files[0]} {images[0].ndim} and {images[0].channels}. "
                "Give every visit the same channels, in the same order."
            )
    return images


def _matrix(transform: Transform) -> Doubles:
    """Of a map that is linear."""
    stages = transform.simplified().stages
    return np.asarray(stages[0].matrix) if stages else np.eye(transform.ndim + 1)  # type: ignore[union-attr]


def _sampled(image: Image, grid: Space, transform: Transform) -> Floats:
    return resample_image(image.array, moving=image.space, fixed=grid, transform=transform)


def _placed(member: Member, image: Image, matrix: Doubles, grid: Space, folder: Path) -> Member:
    """A visit in the middle space, with its mask: files, so that pairs are registered in any process and kept."""
    transform = Transform.affine(matrix)
    path = folder / f"{member.name}.nii.gz"
    write_image(path, _sampled(image, grid, transform), grid)
    mask, mask_path = member.mask_map(image), folder / f"{member.name}_mask.nii.gz"
    if mask is not None:
        seen = resample_labels((mask.array != 0).astype(np.uint8), moving=mask.space, fixed=grid, transform=transform)
        write_image(mask_path, seen, grid)
    return Member(member.name, (path,), mask=None if mask is None else mask_path)


def _field(maps: Maps, fixed: Member, moving: Member, grid: Space) -> FieldMap:
    return maps.transform(fixed, moving).sampled_on(grid)


def _labels(members: list[Member], images: list[Image], transforms: list[Transform], grid: Space) -> tuple[list[Any], list[dict[int, float] | None]]:
    """Label maps in the middle space, and the volumes (mm^3) in each visit's own."""
    regions, own = [], []
    for member, image, transform in zip(members, images, transforms, strict=True):
        labels = member.label_map(image)
        own.append(None if labels is None else _volumes_of(labels))
        if labels is not None and labels.array.any():
            regions.append(resample_labels(labels.array, moving=labels.space, fixed=grid, transform=transform)[0])
    return regions, own


def _volumes_of(labels: Image) -> dict[int, float]:
    values, counts = np.unique(labels.array, return_counts=True)
    voxel = float(np.prod(labels.space.spacing))
    return {int(value): float(count) * voxel for value, count in zip(values, counts, strict=True) if value}
