"""nnU-Net's resampling, axis by axis: a spline along an axis is a banded matrix, so a volume takes three products instead of 64 taps per voxel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.planning.dense_prediction.resampling import Resampling, separate_axis

Shape = tuple[int, ...]
OUTPUTS_AT_ONCE = 64  # rows of a band that are one matrix product
# inputs beyond the taps that a spline's value still depends on to 1e-9, by order: the filter's slowest pole decays so
REACH = (0, 0, 12, 16, 21, 25)
PADDING = 12  # scipy continues the border value so far before it filters


@dataclass(frozen=True)
class Band:
    """Part of an axis' matrix: outputs `start` to `stop` are ``weights @ inputs[low:high]``."""

    start: int
    stop: int
    low: int
    high: int
    weights: Floats


@functools.lru_cache(maxsize=32)
def bands(size: int, new_size: int, order: int) -> tuple[Band, ...]:
    """The spline of `order` from `size` to `new_size` samples of one line, voxel centres at (i + 1/2) / size, border values continued outside.

    Equals ``scipy.ndimage.zoom(mode="nearest", grid_mode=True)``, which scikit-image's ``resize`` calls.
    """
    position = (np.arange(new_size, dtype=np.float64) + 0.5) * (size / new_size) - 0.5
    if order < 2:
        position = np.clip(position, 0, size - 1)
    result = []
    for start in range(0, new_size, OUTPUTS_AT_ONCE):
        here = position[start : start + OUTPUTS_AT_ONCE]
        low = max(0, int(np.floor(here[0])) - order - REACH[order])
        high = min(size, int(np.floor(here[-1])) + order + 2 + REACH[order])
        weights = _weights(np.asarray(here - low), high - low, order, low == 0, high == size)
        result.append(Band(start, start + len(here), low, high, weights.astype(np.float32)))
    return tuple(result)


def _weights(position: npt.NDArray[np.float64], size: int, order: int, begins: bool, ends: bool) -> npt.NDArray[np.float64]:
    """Values (len(position), size) at `position` of the splines through each unit vector of `size` samples."""
    from scipy.interpolate import BSpline
    from scipy.ndimage import spline_filter1d

    coefficients, before = np.eye(size), 0
    if order > 1:
        before = PADDING if begins else 0
        coefficients = np.pad(coefficients, ((before, PADDING if ends else 0), (0, 0)), mode="edge")
        degree: Any = order  # scipy's stubs, where they are installed, want a literal
        coefficients = spline_filter1d(coefficients, degree, axis=0, mode="nearest")
    if order == 0:
        return np.asarray(coefficients[np.floor(position + 0.5).astype(int)])
    basis = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    place = position + before
    first = np.floor(place if order % 2 else place + 0.5).astype(int) - order // 2
    result = np.zeros((len(position), size))
    for tap in range(order + 1):
        weight = np.nan_to_num(basis(place - (first + tap)))  # NaN just outside the basis' support
        result += weight[:, None] * coefficients[np.clip(first + tap, 0, len(coefficients) - 1)]
    return result


def along(array: Floats, axis: int, new_size: int, order: int, out: Floats | None = None) -> Floats:
    """A (D, H, W) array with one axis resampled, in `out` if that is given and something has to be done."""
    size = array.shape[axis]
    if size == new_size:
        return array
    shape = list(array.shape)
    shape[axis] = new_size
    result = np.empty(shape, np.float32) if out is None or list(out.shape) != shape else out
    for band in bands(size, new_size, order):
        if axis == 2:
            np.matmul(array[:, :, band.low : band.high], band.weights.T, out=result[:, :, band.start : band.stop])
        elif axis == 1:
            np.matmul(band.weights, array[:, band.low : band.high], out=result[:, band.start : band.stop])
        else:
            flat, filled = array.reshape(size, -1), result.reshape(new_size, -1)
            np.matmul(band.weights, flat[band.low : band.high], out=filled[band.start : band.stop])
    return result


def nearest(size: int, new_size: int) -> npt.NDArray[np.int64]:
    """Old index of each new one along an axis that is not interpolated."""
    position = np.clip((size / new_size) * (np.arange(new_size) + 0.5) - 0.5, 0, size - 1)
    return np.floor(position + 0.5).astype(np.int64)


def resample_image(image: Floats, shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], how: Resampling) -> Floats:
    """A (C, D, H, W) image on `shape`, values kept within those of what is resampled together (the volume, or each slice).

    Parameters
    ----------
    image : array, shape (C, D, H, W), contiguous
    shape
        New size of the three axes.
    spacing, target : mm
        Before and after; they decide whether slices are resampled one by one.
    how
        Orders of interpolation.
    """
    shape = tuple(shape)
    if image.shape[1:] == shape:
        return image
    alone = chosen_axis(spacing, target, how)
    result = np.empty((len(image), *shape), np.float32)
    for channel, filled in zip(image, result, strict=True):
        resample_volume(channel, filled, alone, how.data_order, how.between_slices_order)
    return result


def chosen_axis(spacing: Sequence[float], target: Sequence[float], how: Resampling) -> int | None:
    """The axis whose slices are resampled one by one, as the plans or the spacings say."""
    if how.separate_axis is None:
        return separate_axis(spacing, target)
    if not how.separate_axis:
        return None
    coarsest = [axis for axis, value in enumerate(spacing) if value == max(spacing)]
    return coarsest[0] if len(coarsest) == 1 else None


def resample_volume(channel: Floats, result: Floats, alone: int | None, order: int, order_between: int) -> None:
    """Resample into `result`."""
    # axes that shrink first: what follows is smaller
    axes = sorted((axis for axis in range(3) if axis != alone), key=lambda axis: result.shape[axis] / channel.shape[axis])
    part = channel
    # slices that no new one is nearest to need no resampling
    if alone is not None and order_between == 0 and result.shape[alone] < channel.shape[alone]:
        part = np.ascontiguousarray(np.take(channel, nearest(channel.shape[alone], result.shape[alone]), alone))
    together = tuple(axes) if alone is not None else (0, 1, 2)
    low, high = part.min(axis=together, keepdims=True), part.max(axis=together, keepdims=True)
    for axis in axes:
        part = along(part, axis, result.shape[axis], order, out=result)
    if order > 1:
        part = np.clip(part, low, high, out=None if part is channel else part)
    if alone is not None and part.shape[alone] != result.shape[alone]:
        if order_between == 0:
            np.take(part, nearest(part.shape[alone], result.shape[alone]), alone, out=result)
            return
        part = along(part, alone, result.shape[alone], order_between)
    if part is not result:
        result[...] = part


def resample_labels(
    labels: npt.NDArray[np.int16], shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], how: Resampling
) -> npt.NDArray[np.int16]:
    """A (T, D, H, W) label map on `shape`: the label whose resampled mask is largest; of equal ones that of the nearest voxel."""
    shape = tuple(shape)
    if labels.shape[1:] == shape:
        return labels
    alone = chosen_axis(spacing, target, how)
    result = np.empty((len(labels), *shape), np.int16)
    for target_labels, filled in zip(labels, result, strict=True):
        if how.labels_order == 1 and how.between_slices_order in (0, 1):
            _vote(target_labels, filled, alone, how.between_slices_order)
        else:
            _by_label(target_labels, filled, alone, how)
    return result


def _vote(labels: npt.NDArray[np.int16], result: npt.NDArray[np.int16], alone: int | None, order_between: int) -> None:
    from nnreg.kernels.resize_cpu import vote

    if alone is not None and order_between == 1 and labels.shape[alone] != result.shape[alone]:
        # two steps, as two roundings: in the plane, then between slices
        between = np.empty(tuple(labels.shape[axis] if axis == alone else result.shape[axis] for axis in range(3)), np.int16)
        _vote(labels, between, None, 1)
        _vote(between, result, None, 1)
        return
    axes = [linear_taps(labels.shape[axis], result.shape[axis], nearest_only=axis == alone) for axis in range(3)]
    taps, weights = (np.concatenate(parts, axis=1) for parts in zip(*axes, strict=True))
    vote(0, result.shape[0], result, np.ascontiguousarray(labels), taps, weights, np.cumsum(result.shape[:2]))


def linear_taps(size: int, new_size: int, *, nearest_only: bool = False) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Of linear interpolation, for each new index: (3, new_size) old indices to the left, to the right and nearest, (2, new_size) weights of the first two."""
    near = nearest(size, new_size)
    if nearest_only:
        return np.stack([near, near, near]), np.stack([np.ones(new_size), np.zeros(new_size)])
    position = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    left = np.floor(position).astype(np.int64)
    share = 1.0 - (position - left)
    return np.stack([left, np.minimum(left + 1, size - 1), near]), np.stack([share, 1.0 - share])


def _by_label(labels: npt.NDArray[np.int16], result: npt.NDArray[np.int16], alone: int | None, how: Resampling) -> None:
    """Any order, a pass per label; nearest neighbour of order 0 needs none."""
    from nnreg.dataset.labels import unique

    nearby = labels[np.ix_(*(nearest(labels.shape[axis], result.shape[axis]) for axis in range(3)))]
    if how.labels_order == 0:
        result[...] = nearby
        return
    best, share = np.full(result.shape, -1, np.float32), np.empty(result.shape, np.float32)
    for value in unique(labels):
        resample_volume((labels == value).astype(np.float32), share, alone, how.labels_order, how.between_slices_order)
        # of equal shares, the label of the nearest voxel
        better = (share > best) | ((share == best) & (nearby == value))
        result[better] = value
        np.maximum(best, share, out=best)
