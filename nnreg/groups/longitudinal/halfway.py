"""Every pair of visits in the space in their middle: the engine's two directions meet halfway, least squares measure what is left, all pairs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.prepared_image import PreparedImage, prepare
from nnreg.files import atomic_path, content_digest
from nnreg.geometry import FieldMap, Space
from nnreg.groups.longitudinal.least_squares import measured
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member
from nnreg.kernels import volumes
from nnreg.kernels.inversion import inverted_volume
from nnreg.parallel import run_all
from nnreg.progress import Progress


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


@dataclass(frozen=True)
class Between:
    """Displacements between members that lie on one grid, kept in a folder beside the engine's maps.

    Attributes
    ----------
    folder
    maps : Maps
        Of every pair, both ways.
    smoothness
        Factor on the distance over which changes are smoothed.
    """

    folder: Path
    maps: Maps
    smoothness: float

    def make(self, pairs: Sequence[tuple[Member, Member]], *, processes: int = 1, on_progress: Progress | None = None) -> None:
        """Measure the pairs that are not there yet, or whose files have changed."""
        jobs = [_Job(self, first, second) for first, second in pairs]
        for number, (job, _) in enumerate(run_all(_measure, jobs, processes=processes, name=_Job.name), start=1):
            if on_progress is not None:
                on_progress(number, len(jobs), f"measuring {job.name()}")

    def fields(self, first: Member, second: Member) -> Floats:
        """From `first` to `second`, seen from halfway: array (3, ndim, D, H, W), voxels; by all data, and by each half of them."""
        with np.load(self.path(first, second), allow_pickle=False) as content:
            return np.asarray(content["fields"])

    def path(self, first: Member, second: Member) -> Path:
        """Where they are kept."""
        return self.folder / f"{first.name}__{second.name}.npz"

    def made_from(self, first: Member, second: Member) -> str:
        """What tells whether they would be others now."""
        return content_digest((*first.files, first.mask, *second.files, second.mask)) + repr((self.maps.options, self.smoothness))


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
    ways = [job.between.maps.transform(*pair).sampled_on(first.space) for pair in ((job.first, job.second), (job.second, job.first))]
    start = (from_halfway(ways[0]) - from_halfway(ways[1])) / np.float32(2)
    images = [side.image.reshape(-1, *start.shape[1:]) for side in (first, second)]
    found = measured(images[0], images[1], start, first.space.spacing, _both_seen(first, second, start), job.between.smoothness)
    with atomic_path(path) as temporary:
        np.savez(temporary, fields=np.stack([found.whole, found.one, found.other]), made_from=np.asarray(made_from))


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


@dataclass(frozen=True, eq=False)
class Positions:
    """Where a point of the middle space is found in each image, each list with a FieldMap for each of them, which sum to zero.

    Attributes
    ----------
    whole : by all data
    one, other : by either half of the data. That they differ is error.
    """

    whole: list[FieldMap]
    one: list[FieldMap]
    other: list[FieldMap]


def positions(between: Between, members: Sequence[Member], space: Space) -> Positions:
    """Displacements of images from their middle.

    With ``w_ij`` from image i to image j, seen from halfway and antisymmetric, the least squares solution of ``u_j - u_i = w_ij`` for all pairs whose sum is
    zero is the mean ``u_j = sum_i w_ij / count``. It is exact for two images, and to first order for more, whose displacements have to be small: those of one
    subject are.
    """
    shape = (3, space.ndim, *(space.shape if space.ndim == 3 else (1, *space.shape)))
    sums = [np.zeros(shape, np.float32) for _ in members]
    for j, later in enumerate(members):
        for i, earlier in enumerate(members[:j]):
            found = between.fields(earlier, later) / np.float32(len(members))
            sums[j] += found
            sums[i] -= found
    return Positions(*([_as_map(way[kind], space) for way in sums] for kind in range(3)))


def _as_map(field: Floats, space: Space) -> FieldMap:
    return FieldMap(np.ascontiguousarray(field if space.ndim == 3 else field[:, 0]), space)
