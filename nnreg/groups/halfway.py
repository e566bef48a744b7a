"""Pairs of images on one grid, measured from halfway between them: from what the engine found, or from nothing, by least squares. Kept, as maps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.prepared_image import PreparedImage, prepare
from nnreg.files import atomic_path, content_digest
from nnreg.geometry import FieldMap
from nnreg.groups.least_squares import halves, measured, share_told
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member
from nnreg.kernels import volumes
from nnreg.kernels.inversion import inverted_volume
from nnreg.parallel import run_all
from nnreg.progress import Progress

NEARBY = 15.0  # mm around a region that are looked at for what smoothing takes from it


def from_halfway(field: FieldMap) -> Floats:
    """The displacement of a map as it is seen from the middle of the way: w with ``m - w(m)/2 -> m + w(m)/2`` the map.

    Returns
    -------
    array, shape (ndim, D, H, W), voxels
    """
    back = inverted_volume(field.volume / np.float32(2))
    return np.asarray(volumes.sample(field.volume, back))


def round_trip(field: FieldMap, back: FieldMap, where: Floats) -> float:
    """Mean distance, mm, by which the two directions of a pair miss a point of `where` (*grid) that goes there and back."""
    left = volumes.compose(back.volume, field.volume).reshape(field.displacement.shape)
    n = field.ndim
    moved = np.einsum("wk,k...->w...", field.space.matrix[:n, :n], left)
    return float(np.linalg.norm(moved, axis=0)[where > 0].mean())


def from_first(displacement: Floats) -> Floats:
    """The inverse of :func:`from_halfway`: the field of the map on the grid of the first image, array (ndim, D, H, W), voxels."""
    back = inverted_volume(np.ascontiguousarray(displacement / np.float32(-2)))
    return np.asarray(volumes.sample(displacement, back))


@dataclass(frozen=True)
class Between:
    """Displacements between members that lie on one grid, kept in a folder.

    Attributes
    ----------
    folder
    maps : Maps or None
        Of the engine, where measuring starts; from no displacement without.
    both_ways
        Whether the engine registered both directions: they meet halfway then, so that neither image is the fixed one.
    smoothness
        Factor on the distance over which changes are smoothed.
    with_halves
        Whether each half of the data is measured too.
    """

    folder: Path
    maps: Maps | None
    both_ways: bool = True
    smoothness: float = 1.0
    with_halves: bool = True

    def make(self, pairs: Sequence[tuple[Member, Member]], *, processes: int = 1, on_progress: Progress | None = None) -> None:
        """Measure the pairs that are not there yet, or whose files have changed."""
        jobs = [_Job(self, first, second) for first, second in pairs]
        for number, (job, _) in enumerate(run_all(_measure, jobs, processes=processes, name=_Job.name), start=1):
            if on_progress is not None:
                on_progress(number, len(jobs), f"measuring {job.name()}")

    def fields(self, first: Member, second: Member) -> Floats:
        """From `first` to `second`, seen from halfway: array (1 or 3, ndim, D, H, W), voxels; by all data, and by each half of them."""
        with np.load(self.path(first, second), allow_pickle=False) as content:
            return np.asarray(content["fields"])

    def shares_told(self, first: Member, second: Member, regions: Mapping[int, Floats]) -> dict[int, float]:
        """Of each region (*grid), how much of a growth of it alone would be told; see :func:`nnreg.groups.least_squares.share_told`."""
        sides, field = [_prepared(member) for member in (first, second)], self.fields(first, second)[0]
        images = [np.ascontiguousarray(side.image.reshape(-1, *field.shape[1:])) for side in sides]
        weights, spacing, found = _both_seen(sides[0], sides[1], field), sides[0].space.spacing, {}
        for label, region in regions.items():
            where = region.reshape(field.shape[1:]).astype(np.float32)
            part = _around(where, spacing)
            cut = [np.ascontiguousarray(array[(..., *part)]) for array in (*images, field, where)]
            counted = None if weights is None else np.ascontiguousarray(weights[part])
            found[label] = share_told(cut[0], cut[1], cut[2], spacing, cut[3], counted, self.smoothness)
        return found

    def path(self, first: Member, second: Member) -> Path:
        """Where they are kept."""
        return self.folder / f"{first.name}__{second.name}.npz"

    def made_from(self, first: Member, second: Member) -> str:
        """What tells whether they would be others now."""
        return content_digest((*first.files, first.mask, *second.files, second.mask)) + repr(
            (self.maps and self.maps.options, self.both_ways, self.smoothness, self.with_halves)
        )


def _around(where: Floats, spacing: tuple[float, ...]) -> tuple[slice, ...]:
    """The box of a region with what is near it."""
    margins = (0.0,) * (where.ndim - len(spacing)) + tuple(NEARBY / step for step in spacing)
    ends = [(int(indices.min()), int(indices.max())) for indices in np.nonzero(where)]
    return tuple(
        slice(max(0, low - round(margin)), min(size, high + 1 + round(margin))) for (low, high), margin, size in zip(ends, margins, where.shape, strict=True)
    )


@dataclass(frozen=True)
class _Job:
    between: Between
    first: Member
    second: Member

    def name(self) -> str:
        return f"{self.first.name} and {self.second.name}"


def _measure(job: _Job) -> None:
    path, made_from = job.between.path(job.first, job.second), job.between.made_from(job.first, job.second)
    if path.is_file():
        with np.load(path, allow_pickle=False) as content:
            if str(content["made_from"]) == made_from:
                return
    first, second = (_prepared(member) for member in (job.first, job.second))
    start = _start(job, first)
    images = [np.ascontiguousarray(side.image.reshape(-1, *start.shape[1:])) for side in (first, second)]
    weights, between = _both_seen(first, second, start), job.between
    spacing = first.space.spacing
    found = [measured(images[0], images[1], start, spacing, weights, between.smoothness)]
    if between.with_halves:
        found += halves(images[0], images[1], found[0], spacing, weights, between.smoothness)
    with atomic_path(path) as temporary:
        np.savez(temporary, fields=np.stack(found), made_from=np.asarray(made_from))


def _start(job: _Job, first: PreparedImage) -> Floats:
    """What the engine found, seen from halfway, (ndim, D, H, W)."""
    maps, space = job.between.maps, first.space
    if maps is None:
        return np.zeros((space.ndim, *(space.shape if space.ndim == 3 else (1, *space.shape))), np.float32)
    there = from_halfway(maps.transform(job.first, job.second).sampled_on(space))
    if not job.between.both_ways:
        return there
    return (there - from_halfway(maps.transform(job.second, job.first).sampled_on(space))) / np.float32(2)


def _prepared(member: Member) -> PreparedImage:
    image = member.image()
    mask = member.mask_map(image)
    return prepare(image.array, image.space, None if mask is None else mask.array, member.name)


def _both_seen(first: PreparedImage, second: PreparedImage, field: Floats) -> Floats | None:
    """Share of each voxel (D, H, W) that both masks allow halfway."""
    result: Floats | None = None
    for side, sign in ((first, -0.5), (second, 0.5)):
        if side.mask is not None:
            seen = volumes.sample(np.ascontiguousarray(side.mask.reshape(1, *field.shape[1:])), np.ascontiguousarray(field * np.float32(sign)))[0]
            result = seen if result is None else result * seen
    return result
