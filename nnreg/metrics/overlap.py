"""Overlap of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnreg.metrics.arrays import ArrayOrTensor, as_numpy, same_shape

LARGEST_TABLE = 2**22  # label values up to here are looked up in a table, others are searched


def dice(fixed: ArrayOrTensor, warped: ArrayOrTensor, labels: Sequence[int], *, moving: ArrayOrTensor | None = None) -> dict[int, float]:
    """Dice coefficient of each label.

    Parameters
    ----------
    fixed, warped : integer arrays of one shape
    labels
        Which values to score.
    moving : integer array of any shape, optional
        The labels before they were warped. With it a label is scored if `fixed` and `moving` have it (Learn2Reg's rule), so one that
        the transform threw out of the image scores 0.

    Returns
    -------
    dict
        NaN for a label absent from `fixed` or `moving`; without `moving`, for one absent from both `fixed` and `warped`.

    Raises
    ------
    GeometryError
        If `fixed` and `warped` differ in shape.

    Examples
    --------
    >>> dice(np.array([1, 1, 2, 0]), np.array([1, 0, 0, 2]), [1, 2, 3])
    {1: 0.666..., 2: 0.0, 3: nan}
    """
    one, other = as_numpy(fixed), as_numpy(warped)
    same_shape(one, other)
    values = np.unique(np.asarray(labels, dtype=np.int64))
    first, second = _positions(one, values), _positions(other, values)
    size_one, size_other = _sizes(first, values.size), _sizes(second, values.size)
    common = _sizes(first[first == second], values.size)
    total = size_one + size_other
    scored = total > 0 if moving is None else (size_one > 0) & (_sizes(_positions(as_numpy(moving), values), values.size) > 0)
    scores = np.where(scored, 2 * common / np.maximum(total, 1), np.nan)
    return dict(zip(values.tolist(), scores.tolist(), strict=True))


def confusion(reference: ArrayOrTensor, prediction: ArrayOrTensor, values: Sequence[int], *, mask: ArrayOrTensor | None = None) -> npt.NDArray[np.int64]:
    """How many voxels have which value in the reference and which in the prediction.

    Parameters
    ----------
    reference, prediction : integer arrays of one shape
    values
        Distinct label values.
    mask : array of that shape, optional
        Voxels that count.

    Returns
    -------
    array, shape (len(values) + 1, len(values) + 1)
        Row by the reference, column by the prediction, in the order of `values`; the last row and column hold all other values.

    Raises
    ------
    GeometryError
        If shapes differ.

    Examples
    --------
    >>> confusion(np.array([1, 1, 2, 0]), np.array([1, 2, 2, 7]), [1, 2]).tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    one, other = as_numpy(reference), as_numpy(prediction)
    same_shape(one, other)
    wanted = np.asarray(values, dtype=np.int64)
    order = np.argsort(wanted)
    # places among the sorted values, then among the values as they came
    back = np.append(order, wanted.size)
    rows, columns = (back[_positions(array, wanted[order])] for array in (one, other))
    both = rows * (wanted.size + 1) + columns
    if mask is not None:
        both = both[as_numpy(mask).ravel() != 0]
    return np.bincount(both, minlength=(wanted.size + 1) ** 2).reshape(wanted.size + 1, wanted.size + 1)


def present(array: ArrayOrTensor, labels: Sequence[int]) -> set[int]:
    """Those of `labels` that occur in the array."""
    values = np.unique(np.asarray(labels, dtype=np.int64))
    return set(values[_sizes(_positions(as_numpy(array), values), values.size) > 0].tolist())


def _positions(array: npt.NDArray[np.generic], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Index into `values` of every voxel; ``len(values)`` where it holds none of them."""
    flat = np.asarray(array).ravel()
    count = values.size
    if not count or not flat.size:
        return np.full(flat.size, count, dtype=np.int32)
    low, high = min(int(values[0]), int(flat.min())), max(int(values[-1]), int(flat.max()))
    if high - low < LARGEST_TABLE:
        table = np.full(high - low + 1, count, dtype=np.int32)
        table[values - low] = np.arange(count, dtype=np.int32)
        return table[flat.astype(np.int64) - low]
    found = np.minimum(np.searchsorted(values, flat), count - 1)
    return np.where(values[found] == flat, found, count).astype(np.int32)


def _sizes(positions: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.intp]:
    return np.bincount(positions, minlength=count + 1)[:count]
