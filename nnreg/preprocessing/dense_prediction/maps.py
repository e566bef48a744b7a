"""Maps of continuous values to the working grid and back: normalised by the training set, interpolated, NaN where nothing is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nnreg.arrays import Floats
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.preprocessing.dense_prediction.resample import chosen_axis, resample_image, resample_volume

SMALLEST = 1e-8  # deviation below which values count as constant
HALF = 0.4999  # what is known by half is, whatever the order in which its parts were rounded


def values_of(plans: DensePlans) -> list[MapValues]:
    """Of all channels of all continuous targets, in their order."""
    return list(itertools.chain.from_iterable(plans.targets.values()))


def normalise_maps(maps: Floats, values: Sequence[MapValues]) -> Floats:
    """(M, *spatial) in standard deviations from the mean of the training set; what is unknown stays so."""
    mean, deviation = (np.asarray(column, np.float64).reshape(-1, *(1,) * (maps.ndim - 1)) for column in zip(*map(_scale, values), strict=True))
    return np.asarray((maps - mean) / deviation, dtype=np.float32)


def restore_values(maps: Floats, values: Sequence[MapValues]) -> Floats:
    """The inverse of :func:`normalise_maps`."""
    mean, deviation = (np.asarray(column, np.float64).reshape(-1, *(1,) * (maps.ndim - 1)) for column in zip(*map(_scale, values), strict=True))
    return np.asarray(maps * deviation + mean, dtype=np.float32)


def _scale(values: MapValues) -> tuple[float, float]:
    return values.mean, max(values.std, SMALLEST)


def resample_maps(maps: Floats, shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], how: Resampling) -> Floats:
    """(M, D, H, W) on `shape`, each channel as images are; where parts of it are unknown, linearly from what is known.

    A new voxel is known if at least half of what it is interpolated from is.
    """
    shape = tuple(shape)
    if maps.shape[1:] == shape:
        return maps
    result = np.empty((len(maps), *shape), np.float32)
    alone = chosen_axis(spacing, target, how)
    for channel, filled in zip(maps, result, strict=True):
        known = np.isfinite(channel)
        if known.all():
            filled[...] = resample_image(channel[None], shape, spacing, target, how)[0]
            continue
        share, order = np.empty(shape, np.float32), min(how.between_slices_order, 1)
        resample_volume(known.astype(np.float32), share, alone, 1, order)
        resample_volume(np.where(known, channel, np.float32(0)), filled, alone, 1, order)
        keep_known(filled, share)
    return result


def keep_known(values: Floats, share: Floats) -> None:
    """In place: means of what is known from sums in which the unknown is 0 and the known makes up `share`; NaN where that is less than half."""
    np.divide(values, share, out=values, where=share >= HALF)
    values[share < HALF] = np.nan
