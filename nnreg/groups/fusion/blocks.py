"""Fusion block by block: voxels at which all atlases agree keep their label, at the others weighted atlases vote.

Warped atlases stay on disk; of them a block reads what it needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.arrays import AnyArray, Floats, LongIntegers, Mask, ShortIntegers
from nnreg.kernels import fusion_cpu
from nnreg.kernels.threads import in_parts

Three = tuple[int, int, int]
CORE = 32  # voxels along an edge of a block: small blocks skip more voxels, large ones have less around them
FLAT = 1e-4  # standard deviation of a patch, as a share of the target's range, below which it shows nothing
NOWHERE: Three = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class WarpedAtlases:
    """Atlases on the grid of a target; an image of two axes is one plane.

    Attributes
    ----------
    target : array, shape (C, D, H, W), float32
    images : arrays (C, D, H, W), one for each atlas, of any type of real numbers
    labels : arrays (D, H, W), one for each atlas
    values : set of int, one for each atlas
        The labels that the atlas has anywhere, before it was warped.
    """

    target: Floats
    images: Sequence[AnyArray]
    labels: Sequence[AnyArray]
    values: Sequence[frozenset[int]]

    @property
    def shape(self) -> Three:
        """Of the grid."""
        _, depth, height, width = self.target.shape
        return depth, height, width

    def all_values(self) -> list[int]:
        """Labels of any atlas, the background first."""
        return [0, *sorted(frozenset().union(*self.values) - {0})]


@dataclass(frozen=True)
class Box:
    """A box of voxels: its first voxel, and the one after its last."""

    low: Three
    high: Three

    def grown(self, by: Three) -> Box:
        """Larger by so many voxels on every side; it may reach out of the grid."""
        return Box(_sum(self.low, by, -1), _sum(self.high, by, 1))

    @property
    def shape(self) -> Three:
        """Its size."""
        return _sum(self.high, self.low, -1)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To index (D, H, W) with, where the box is inside."""
        (z, y, x), (to_z, to_y, to_x) = self.low, self.high
        return slice(z, to_z), slice(y, to_y), slice(x, to_x)

    def cut(self, array: AnyArray) -> AnyArray:
        """The box of an array (..., D, H, W); beyond the grid its border goes on."""
        sizes = array.shape[-3:]
        inside = Box(*(tuple(min(max(end, 0), size) for end, size in zip(ends, sizes, strict=True)) for ends in (self.low, self.high)))
        margins = [(low - start, end - high) for low, start, high, end in zip(inside.low, self.low, inside.high, self.high, strict=True)]
        return np.pad(np.asarray(array[(..., *inside.slices)]), [(0, 0)] * (array.ndim - 3) + margins, mode="edge")


def _sum(place: Three, by: Three, sign: int) -> Three:
    z, y, x = (start + sign * step for start, step in zip(place, by, strict=True))
    return z, y, x


def boxes(shape: Three) -> Iterator[Box]:
    """Blocks that cover a grid."""
    for low in itertools.product(*(range(0, size, CORE) for size in shape)):
        z, y, x = (min(start + CORE, size) for start, size in zip(low, shape, strict=True))
        yield Box((low[0], low[1], low[2]), (z, y, x))


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches around the voxels of a region, of the target and of every atlas under every shift.

    Attributes
    ----------
    target, of_target, atlases, of_atlases, shifts, radii
        As in :func:`nnreg.kernels.fusion_cpu.best_shifts`; the atlases with N first.
    region : voxels per axis
        Its size.
    """

    target: Floats
    of_target: Floats
    atlases: Floats
    of_atlases: Floats
    shifts: LongIntegers
    radii: Three
    region: Three

    @classmethod
    def around(cls, region: Box, warped: WarpedAtlases, radii: Three, longest: Three) -> Patches:
        """Read them."""
        seen = region.grown(radii)
        atlases = np.stack([seen.grown(longest).cut(image) for image in warped.images]).astype(np.float32)
        row = atlases.shape[-1]
        target = np.ascontiguousarray(seen.cut(warped.target), dtype=np.float32)
        of_atlases = np.stack([_to_row(_statistics(atlas, radii), row) for atlas in atlases])
        return cls(_to_row(target, row), _to_row(_statistics(target, radii), row), atlases, of_atlases, shifts_within(longest), radii, region.shape)

    def best_shifts(self) -> tuple[ShortIntegers, Floats]:
        """Of every atlas and voxel the shift under which the patches correlate best, and how well: (N, D, H, W) each."""
        depth, height, width = self.region
        shape = len(self.atlases), depth, height, self.atlases.shape[-1]
        chosen, score = np.empty(shape, np.int32), np.empty(shape, np.float32)
        for one in range(len(self.atlases)):
            arrays = chosen[one], score[one], self.target, self.of_target, self.atlases[one], self.of_atlases[one], self.shifts
            in_parts(fusion_cpu.best_shifts, depth, *arrays, self.radii, least=8)
        return np.ascontiguousarray(chosen[..., :width]), np.ascontiguousarray(score[..., :width])

    def joint_weights(self, places: ShortIntegers, chosen: ShortIntegers, alpha: float, beta: float) -> Floats:
        """Weights (N, D, H, W) of joint label fusion at the places (M, 3) of the region; 0 elsewhere."""
        weights = np.zeros((len(self.atlases), *self.region), np.float32)
        arrays = self.target, self.of_target, self.atlases, self.of_atlases, self.shifts
        in_parts(fusion_cpu.joint_weights, len(places), weights, places, chosen, *arrays, self.radii, alpha, beta)
        return weights


def _to_row(array: Floats, row: int) -> Floats:
    """Zeros at the end of every row, up to its width."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, row - array.shape[-1])])


def shifts_within(longest: Three) -> LongIntegers:
    """All shifts (K, 3) of at most so many voxels per axis, counted from 0, near ones before far ones: of equal ones the first is taken."""
    grid = np.stack(np.meshgrid(*(np.arange(2 * size + 1) for size in longest), indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.square(grid - np.asarray(longest)).sum(axis=1)
    return np.ascontiguousarray(grid[np.argsort(distance, kind="stable")], dtype=np.int64)


def _statistics(array: Floats, radii: Three) -> Floats:
    """Mean and one over the standard deviation (2, C, ...) of the patches inside an array (C, D, H, W)."""
    from scipy.ndimage import uniform_filter

    inner = Box(radii, _sum(array.shape[1:], radii, -1)).slices
    sizes = [2 * radius + 1 for radius in radii]
    result = np.empty((2, len(array), *array[0][inner].shape), np.float32)
    for c, channel in enumerate(array.astype(np.float64)):
        mean = uniform_filter(channel, sizes)
        variance = np.maximum(uniform_filter(channel * channel, sizes) - mean * mean, 0)
        result[0, c], spread = mean[inner], np.sqrt(variance[inner])
        result[1, c] = np.where(spread > FLAT, 1 / np.maximum(spread, FLAT), 0)
    return result


@dataclass(frozen=True, eq=False)
class Ballot:
    """Who votes in a block, where, and with which weight.

    Attributes
    ----------
    weights, chosen : array, shape (N, *region)
        Of each atlas at each voxel of the region, and the number of the shift of its label there.
    shifts : array, shape (K, 3)
    longest : voxels per axis
    reach : voxels per axis
        By which the region is wider than the core: weights vote for all voxels within so many.
    """

    weights: Floats
    chosen: ShortIntegers
    shifts: LongIntegers
    longest: Three = NOWHERE
    reach: Three = NOWHERE

    def shares(self, core: Box, places: ShortIntegers, warped: WarpedAtlases, values: Sequence[int]) -> tuple[Floats, Mask]:
        """Shares (M, L) of L labels at the places (M, 3) of the core, and which of `values` these labels are."""
        labels = np.stack([core.grown(self.reach).grown(self.longest).cut(array) for array in warped.labels])
        there = np.isin(values, labels) | (np.asarray(values) == 0)
        own = np.asarray(values)[there]
        order = np.argsort(own)
        numbers = np.ascontiguousarray(order[np.searchsorted(own[order], labels)], dtype=np.int16)
        known = np.array([[value == 0 or value in atlas for value in own.tolist()] for atlas in warped.values])
        result = np.empty((len(places), len(own)), np.float32)
        in_parts(fusion_cpu.votes, len(places), result, places, self.weights, self.chosen, numbers, known, self.shifts, self.reach)
        return result, there


def places_of(mask: Mask) -> ShortIntegers:
    """The voxels of a mask, (M, 3)."""
    return np.ascontiguousarray(np.argwhere(mask), dtype=np.int32)


def tightened(box: Box, mask: Mask) -> tuple[Box, Mask]:
    """The smallest box that holds all of a mask of `box`, and the mask in it."""
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    inner = Box(_sum(box.low, tuple(low.tolist()), 1), _sum(box.low, tuple(high.tolist()), 1))
    return inner, mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
