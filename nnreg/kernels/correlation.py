"""Squared local correlation of two volumes and its gradient, for callers that hold numpy arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from nnreg.arrays import Floats, Mask, ShortIntegers
from nnreg.kernels import lncc_cpu
from nnreg.kernels.threads import in_parts

Radii = tuple[int, int, int]

# a sum of squares about the mean below this share of the sum of squares is rounding: the window is flat
FLAT = np.float32(100 * np.finfo(np.float32).eps)
NEARLY_ALL = 0.9  # of a volume: to leave out less saves nothing
MEAN_OF = 10_000  # values that a mean is taken of, which only has to be near: each of them lies in another line of the cache
EMPTY = np.empty((0, 1, 1), np.float32)
NOTHING = np.empty(0, np.bool_)


def inverse_counts(size: int, radius: int) -> Floats:
    """One over the number of voxels of the window around each of `size` voxels that lie inside."""
    index = np.arange(size)
    return np.asarray(1.0 / (np.minimum(index + radius, size - 1) - np.maximum(index - radius, 0) + 1), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Windows:
    """What the windows of a fixed volume hold: computed once, used for every warped volume it is compared with.

    Attributes
    ----------
    fixed : array, shape (D, H, W)
    mask : array of bool, shape (D, H, W), or NOTHING
        Voxels outside belong to no window, and windows centred there are not scored.
    mean, inverse : array, shape (D, H, W)
        Mean of each window, and one over its floored sum of squares about it (0 where it is not scored).
    inverse_count : array, shape (D, H, W), or EMPTY without a mask
    radii : half window per axis
    floor, other_floor : float
        Smallest sum of squares about the mean that is divided by, of `fixed` and of the volumes it is compared with.
    scored : int
        Number of windows that count.
    """

    fixed: Floats
    mask: Mask
    mean: Floats
    inverse: Floats
    inverse_count: Floats
    radii: Radii
    offset: float
    floor: float
    other_floor: float
    scored: int

    @classmethod
    def of(
        cls, fixed: Floats, radii: Radii, *, floor: float, other_floor: float | None = None, mask: Mask | None = None, like: Windows | None = None
    ) -> Windows:
        """Statistics of `fixed` (D, H, W), float32 and contiguous; one floor is that of both volumes.

        With `like`, the windows of another channel under the same mask, both share how many voxels each window holds.
        """
        shape = fixed.shape
        mean, inverse = np.empty(shape, np.float32), np.empty(shape, np.float32)
        inside = NOTHING if mask is None else mask
        inverse_count = like.inverse_count if like is not None else EMPTY if mask is None else np.empty(shape, np.float32)
        offset = _mean(fixed, mask)
        in_parts(
            lncc_cpu.statistics,
            shape[0],
            mean.reshape(-1),
            inverse.reshape(-1),
            inverse_count.reshape(-1),
            fixed.reshape(-1),
            inside.reshape(-1),
            shape,
            radii,
            np.float32(offset),
            np.float32(floor),
            FLAT,
            least=2 * radii[0] + 1,
            multiple=lncc_cpu.AFRESH,
        )
        scored = fixed.size if mask is None else int(np.count_nonzero(mask))
        return cls(fixed, inside, mean, inverse, inverse_count, radii, offset, floor, floor if other_floor is None else other_floor, scored)

    @functools.cached_property
    def ranges(self) -> ShortIntegers | None:
        """Where the other volume has a say, as :func:`nnreg.kernels.volumes.sample` takes it; None if that is nearly everywhere.

        In scores, in their gradient, and by its own slope where that is not zero. Windows of a flat fixed volume, as in the air around a head without its
        skull, score nothing whatever the other one holds.
        """
        scored = self.inverse > 0
        width, some = scored.shape[2], scored.any(axis=2)
        first = np.where(some, scored.argmax(axis=2), width)
        last = np.where(some, width - scored[:, :, ::-1].argmax(axis=2), 0)
        for axis in (0, 1):
            reach = 2 * (self.radii[axis] + 1) + 1
            first, last = minimum_filter1d(first, reach, axis=axis, mode="nearest"), maximum_filter1d(last, reach, axis=axis, mode="nearest")
        first, last = np.maximum(first - self.radii[2] - 1, 0), np.minimum(last + self.radii[2] + 1, width)
        ranges = np.stack([np.minimum(first, last), last], axis=-1).reshape(-1, 2).astype(np.int32)
        return ranges if (ranges[:, 1] - ranges[:, 0]).sum() < NEARLY_ALL * self.inverse.size else None

    @functools.cached_property
    def busy(self) -> Mask:
        """Whether each row has a say (D * H,), as :func:`nnreg.kernels.lncc_cpu.sweep` takes it; empty where nearly all have."""
        if self.ranges is None:
            return NOTHING
        return np.asarray(self.ranges[:, 1] > self.ranges[:, 0])

    def only(self, chosen: npt.NDArray[np.bool_]) -> Windows:
        """The same windows, of which only those centred on `chosen` (D, H, W) voxels (and in the mask) are scored."""
        kept = chosen if not self.mask.size else chosen & self.mask
        return replace(self, inverse=self.inverse * kept, scored=int(np.count_nonzero(kept)))

    def correlation(
        self, warped: Floats, gradient: Floats | None = None, *, signed: bool = False, skip: bool = False, share: float = 1.0
    ) -> tuple[float, Floats]:
        """Mean squared (or signed) correlation with `warped` (D, H, W), and its derivative with respect to it (in `gradient` if that is given).

        With `skip` rows that have no say are left out: worth finding them where the windows are used again and again. Both results are multiplied by `share`.
        """
        shape = self.fixed.shape
        result = np.empty(shape, np.float32) if gradient is None else gradient
        scores = np.zeros(shape[0])
        counts = tuple(inverse_counts(size, radius) for size, radius in zip(shape, self.radii, strict=True))
        in_parts(
            lncc_cpu.sweep,
            shape[0],
            result.reshape(-1),
            scores,
            self.fixed.reshape(-1),
            warped.reshape(-1),
            self.mask.reshape(-1),
            self.mean.reshape(-1),
            self.inverse.reshape(-1),
            self.inverse_count.reshape(-1),
            counts,
            shape,
            self.radii,
            (np.float32(self.offset), np.float32(_mean(warped, self.mask if self.mask.size else None))),
            np.float32(self.other_floor),
            FLAT,
            np.float32(share * (1.0 if signed else 2.0) / max(1, self.scored)),
            signed,
            self.busy if skip else NOTHING,
            least=4 * self.radii[0] + 1,
            multiple=lncc_cpu.AFRESH,
        )
        return share * float(scores.sum()) / max(1, self.scored), result


def joined(ranges: Sequence[ShortIntegers | None]) -> ShortIntegers | None:
    """From where the first of several volumes has a say to where the last has, as :attr:`Windows.ranges` says it."""
    first, *others = ranges
    for other in others:
        if first is None or other is None:
            return None
        # the range of a row without any lies at an end of it
        some, more = first[:, 1] > first[:, 0], other[:, 1] > other[:, 0]
        low = np.where(more, np.where(some, np.minimum(first[:, 0], other[:, 0]), other[:, 0]), first[:, 0])
        high = np.where(more, np.where(some, np.maximum(first[:, 1], other[:, 1]), other[:, 1]), first[:, 1])
        first = np.stack([low, high], axis=-1)
    return first


def _mean(image: Floats, mask: Mask | None) -> float:
    """Mean of a sample: it only has to be near, so that sums of squares keep their digits."""
    step = max(1, image.size // MEAN_OF)
    values = image.reshape(-1)[::step]
    if mask is not None:
        values = values[mask.reshape(-1)[::step]]
        # a small mask may lie between the samples
        values = values if values.size else image[mask]
    return float(values.mean(dtype=np.float64)) if values.size else 0.0
