"""Label maps and predictions on a finer or coarser grid in one pass over the result, however many labels there are."""

from __future__ import annotations

import numpy as np
from numba import njit

from nnreg.arrays import AnyArray
from nnreg.kernels.compiled import compiled


# no fast mathematics: equal shares are common and must stay equal, so sums are taken in the order in which scipy takes them
@njit(nogil=True, error_model="numpy", cache=True)
def vote(start: int, stop: int, result: AnyArray, labels: AnyArray, taps: AnyArray, weights: AnyArray, edges: AnyArray) -> None:
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
    agree = np.empty(labels.shape[2], np.bool_)
    for z in range(start, stop):
        for y in range(edges[0], edges[0] + result.shape[1]):
            row = labels[taps[0, z], taps[0, y]]
            others = labels[taps[0, z], taps[1, y]], labels[taps[1, z], taps[0, y]], labels[taps[1, z], taps[1, y]]
            for x in range(agree.shape[0]):
                agree[x] = (row[x] == others[0][x]) & (row[x] == others[1][x]) & (row[x] == others[2][x])
            for x in range(edges[1], edges[1] + result.shape[2]):
                left, right = taps[0, x], taps[1, x]
                one = row[left]
                if agree[left] and agree[right] and one == row[right]:
                    result[z, y - edges[0], x - edges[1]] = one
                    continue
                for corner in range(8):
                    k, j, i = corner >> 2, (corner >> 1) & 1, corner & 1
                    values[corner] = labels[taps[k, z], taps[j, y], taps[i, x]]
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


@compiled
def linear(start: int, stop: int, result: AnyArray, volume: AnyArray, taps: AnyArray, weights: AnyArray, edges: AnyArray) -> None:
    """Planes `start` to `stop` of `volume` (D, H, W), float32, interpolated onto the grid of `result`; taps and weights as for :func:`vote`."""
    left, right, share = _columns(taps, weights, edges)
    row = np.empty(volume.shape[2], np.float32)
    wide = np.empty((volume.shape[1], result.shape[2]), np.float32)
    for z in range(start, stop):
        _widened(wide, row, volume, taps[0, z], taps[1, z], np.float32(weights[1, z]), left, right, share)
        for y in range(result.shape[1]):
            above, below, weight = wide[taps[0, edges[0] + y]], wide[taps[1, edges[0] + y]], np.float32(weights[1, edges[0] + y])
            for x in range(result.shape[2]):
                result[z, y, x] = above[x] + weight * (below[x] - above[x])


@compiled
def strongest(start: int, stop: int, winner: AnyArray, logits: AnyArray, taps: AnyArray, weights: AnyArray, edges: AnyArray, overlapping: bool) -> None:
    """The channel that is largest after linear interpolation, without ever holding an interpolated volume.

    Parameters
    ----------
    start, stop
        Planes of the result to fill.
    winner : int array, shape (D, H, W)
        Takes the channel; the first of equal ones.
    logits : float32 array, shape (K, D', H', W')
    taps, weights, edges
        As for :func:`vote`.
    overlapping
        Channels are regions: the last one above 0 wins, -1 if none is.
    """
    left, right, share = _columns(taps, weights, edges)
    row = np.empty(logits.shape[3], np.float32)
    wide = np.empty((logits.shape[2], winner.shape[2]), np.float32)
    best = np.empty(winner.shape[1:], np.float32)
    for z in range(start, stop):
        best[:] = 0.0 if overlapping else -np.inf
        winner[z] = -1 if overlapping else 0
        for channel in range(logits.shape[0]):
            _widened(wide, row, logits[channel], taps[0, z], taps[1, z], np.float32(weights[1, z]), left, right, share)
            for y in range(winner.shape[1]):
                first, second, weight = taps[0, edges[0] + y], taps[1, edges[0] + y], np.float32(weights[1, edges[0] + y])
                _take(winner[z, y], best[y], wide[first], wide[second], weight, np.int16(channel), overlapping)


@compiled
def _columns(taps: AnyArray, weights: AnyArray, edges: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Taps and weights of the last axis, in types that fit the vector instructions of float32."""
    return taps[0, edges[1] :].astype(np.int32), taps[1, edges[1] :].astype(np.int32), weights[1, edges[1] :].astype(np.float32)


@compiled
def _widened(
    wide: AnyArray, row: AnyArray, volume: AnyArray, first: int, second: int, weight: np.float32, left: AnyArray, right: AnyArray, share: AnyArray
) -> None:
    """A plane between planes `first` and `second`, its rows interpolated to the new width."""
    for y in range(wide.shape[0]):
        for x in range(row.shape[0]):
            row[x] = volume[first, y, x] + weight * (volume[second, y, x] - volume[first, y, x])
        for x in range(wide.shape[1]):
            wide[y, x] = row[left[x]] + share[x] * (row[right[x]] - row[left[x]])


@compiled
def _take(winner: AnyArray, best: AnyArray, above: AnyArray, below: AnyArray, weight: np.float32, channel: np.int16, overlapping: bool) -> None:
    for x in range(winner.shape[0]):
        value = above[x] + weight * (below[x] - above[x])
        better = value > best[x]
        winner[x] = channel if better else winner[x]
        # regions are painted over each other: the threshold stays
        best[x] = value if better and not overlapping else best[x]
