"""Resampling of boxes of images that are read by parts, with the numbers of :mod:`resample` for the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import PreprocessingError
from nnreg.imageio.lazy import Box
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.preprocessing.dense_prediction.maps import keep_known
from nnreg.preprocessing.dense_prediction.resample import bands, chosen_axis, linear_taps, nearest

Read = Callable[[Box], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Grids:
    """From one grid to another.

    Attributes
    ----------
    old, new : voxels per axis
    alone
        The axis whose slices are resampled one by one.
    how
        Orders of interpolation.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    alone: int | None
    how: Resampling

    @classmethod
    def of(cls, old: Sequence[int], new: Sequence[int], spacing: Sequence[float], target: Sequence[float], how: Resampling) -> Grids:
        """From the spacings (mm) before and after."""
        return cls(tuple(old), tuple(new), chosen_axis(spacing, target, how), how)

    @property
    def same(self) -> bool:
        """Whether nothing changes."""
        return self.old == self.new

    # -- images -------------------------------------------------------------------------------------------------------

    def image(self, read: Read, box: Box, limits: tuple[Floats, Floats] | None = None) -> Floats:
        """Values (C, *box) on the new grid; `read` gives (C, *box) on the old one, `limits` are those of :meth:`limits`, where values may overshoot."""
        if self.same:
            return read(box)
        order = [self._order(axis) for axis in range(3)]
        source = tuple(self._needed(axis, order[axis], sides) for axis, sides in enumerate(box))
        part = read(source)
        for axis in (axis for axis in range(3) if axis != self.alone):
            part = self._along(part, axis, order[axis], source[axis][0], box[axis])
        if self.how.data_order > 1 and limits is not None:
            low, high = (limit if self.alone is None else np.take(limit, range(*source[self.alone]), self.alone + 1) for limit in limits)
            part = np.clip(part, low, high)
        return part if self.alone is None else self._along(part, self.alone, order[self.alone], source[self.alone][0], box[self.alone])

    def partly_known(self, read: Read, box: Box) -> Floats:
        """Values (C, *box) on the new grid of maps with NaN where nothing is known, as :func:`maps.resample_maps` does."""
        linear = replace(self, how=replace(self.how, data_order=1, between_slices_order=min(self.how.between_slices_order, 1)))
        # one read for both: values, and where there are any
        both = linear.image(lambda inner: _with_known(read(inner)), box)
        values, share = np.split(both, 2)
        keep_known(values, share)
        return values

    def limits(self, blocks: Iterator[tuple[Box, Floats]], channels: int) -> tuple[Floats, Floats]:
        """Smallest and largest value per channel of what is resampled together, the volume or each slice, from blocks (C, ...) of the old grid."""
        shape = [channels, 1, 1, 1]
        if self.alone is not None:
            shape[self.alone + 1] = self.old[self.alone]
        low, high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        axes = tuple(axis + 1 for axis in range(3) if axis != self.alone)
        for box, block in blocks:
            where: list[slice] = [slice(None)] * 4
            if self.alone is not None:
                where[self.alone + 1] = slice(*box[self.alone])
            inside = tuple(where)
            low[inside] = np.minimum(low[inside], block.min(axis=axes, keepdims=True))
            high[inside] = np.maximum(high[inside], block.max(axis=axes, keepdims=True))
        return low, high

    def _order(self, axis: int) -> int:
        return self.how.between_slices_order if axis == self.alone else self.how.data_order

    def _needed(self, axis: int, order: int, sides: tuple[int, int]) -> tuple[int, int]:
        old, new = self.old[axis], self.new[axis]
        if old == new:
            return sides
        if axis == self.alone and order == 0:
            taken = nearest(old, new)[slice(*sides)]
            return int(taken[0]), int(taken[-1]) + 1
        used = [band for band in bands(old, new, order) if band.start < sides[1] and band.stop > sides[0]]
        return min(band.low for band in used), max(band.high for band in used)

    def _along(self, part: Floats, axis: int, order: int, low: int, sides: tuple[int, int]) -> Floats:
        """One axis of (C, D, H, W), whose first voxel is `low` of the old grid."""
        old, new = self.old[axis], self.new[axis]
        if old == new:
            return part
        if axis == self.alone and order == 0:
            return np.take(part, nearest(old, new)[slice(*sides)] - low, axis + 1)
        pieces = []
        for band in bands(old, new, order):
            start, stop = max(band.start, sides[0]), min(band.stop, sides[1])
            if start < stop:
                taken = np.take(part, range(band.low - low, band.high - low), axis + 1)
                weights = band.weights[start - band.start : stop - band.start]
                pieces.append(np.moveaxis(np.tensordot(weights, taken, axes=(1, axis + 1)), 0, axis + 1))
        return np.ascontiguousarray(np.concatenate(pieces, axis=axis + 1))

    # -- labels -------------------------------------------------------------------------------------------------------

    def labels(self, read: Callable[[Box], npt.NDArray[np.int16]], box: Box) -> npt.NDArray[np.int16]:
        """Labels (T, *box) on the new grid.

        Raises
        ------
        PreprocessingError
            If the plans ask for an interpolation that needs the whole volume.
        """
        from nnreg.kernels.resize_cpu import vote

        if self.same:
            return read(box)
        order = self.how.labels_order
        if order > 1 or (self.alone is not None and self.how.between_slices_order != 0):
            raise PreprocessingError(f"labels of images that are read by parts are resampled with order 0 or 1, the plans say {self.how}. Change the plans.")
        source, taps, weights, edges = self.taps(box, nearest_only=order == 0)
        part = read(source)
        result = np.empty((len(part), *(high - low for low, high in box)), np.int16)
        for target, filled in zip(part, result, strict=True):
            vote(0, filled.shape[0], filled, np.ascontiguousarray(target), taps, weights, edges)
        return result

    def taps(self, box: Box, *, nearest_only: bool = False) -> tuple[Box, npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The box of the old grid that linear interpolation in `box` needs, and as ``kernels.resize_cpu`` takes them: indices, weights, where axes begin."""
        source, taps, weights = [], [], []
        for axis, sides in enumerate(box):
            found, share = linear_taps(self.old[axis], self.new[axis], nearest_only=nearest_only or axis == self.alone)
            found, share = found[:, slice(*sides)], share[:, slice(*sides)]
            source.append((int(found.min()), int(found.max()) + 1))
            taps.append(found - source[-1][0])
            weights.append(share)
        edges = np.cumsum([high - low for low, high in box[:2]])
        return tuple(source), np.concatenate(taps, axis=1), np.concatenate(weights, axis=1), edges


def _with_known(maps: Floats) -> Floats:
    """Maps (C, ...) with 0 where unknown, and behind them 1 where they are known."""
    known = np.isfinite(maps)
    return np.concatenate([np.where(known, maps, np.float32(0)), known.astype(np.float32)])
