"""Labels on a finer or coarser grid in one pass over the result, however many labels there are.

No fast mathematics here: equal shares are common and must stay equal, so sums are taken in the order in which scipy takes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]


@njit(nogil=True, error_model="numpy", cache=True)  # type: ignore[untyped-decorator]
def vote(start: int, stop: int, result: Array, labels: Array, taps: Array, weights: Array, edges: Array) -> None:
    """The label whose linearly interpolated mask is largest; of equal ones that of the nearest voxel, or else the smallest.

    Parameters
    ----------
    start, stop
        Slices of the result to fill.
    result, labels : array, shape (D, H, W)
        On the new and on the old grid.
    taps : int array, shape (3, D + H + W)
        Of each new index, for the three axes one after the other: the old indices to its left and right, and the nearest.
    weights : float64 array, shape (2, D + H + W)
        Of left and right.
    edges : int array, shape (2,)
        Where axes 1 and 2 begin in that layout.
    """
    values = np.empty(8, labels.dtype)
    shares = np.empty(8, np.float64)
    for z in range(start, stop):
        for y in range(edges[0], edges[0] + result.shape[1]):
            for x in range(edges[1], edges[1] + result.shape[2]):
                one = labels[taps[0, z], taps[0, y], taps[0, x]]
                same = True
                for corner in range(8):
                    k, j, i = corner >> 2, (corner >> 1) & 1, corner & 1
                    values[corner] = labels[taps[k, z], taps[j, y], taps[i, x]]
                    same = same and values[corner] == one
                if same:
                    result[z, y - edges[0], x - edges[1]] = one
                    continue
                for corner in range(8):
                    k, j, i = corner >> 2, (corner >> 1) & 1, corner & 1
                    shares[corner] = weights[k, z] * weights[j, y] * weights[i, x]
                nearest = labels[taps[2, z], taps[2, y], taps[2, x]]
                best, most = one, -1.0
                for corner in range(8):
                    value = values[corner]
                    total = 0.0
                    for other in range(8):
                        if values[other] == value:
                            total += shares[other]
                    if total > most or (total == most and best != nearest and (value == nearest or value < best)):
                        best, most = value, total
                result[z, y - edges[0], x - edges[1]] = best
