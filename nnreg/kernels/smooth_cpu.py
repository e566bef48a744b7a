"""Compiled separable smoothing of a volume or field in one sweep, and of the force of a similarity on a field, which is never stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
Weights = tuple[Floats, Floats, Floats]
STRIP = 16  # rows handled together: the planes of a strip that the filter along z needs then stay in the core's own cache


@compiled
def _weigh_five(row: Floats, taps: tuple[Floats, Floats, Floats, Floats, Floats], weights: tuple[np.float32, np.float32, np.float32]) -> None:
    middle, before, after, earlier, later = taps
    own, near, far = weights
    for x in range(row.shape[0]):
        row[x] = own * middle[x] + near * (before[x] + after[x]) + far * (earlier[x] + later[x])


@compiled
def _add_four(row: Floats, taps: tuple[Floats, Floats, Floats, Floats], weights: tuple[np.float32, np.float32]) -> None:
    before, after, earlier, later = taps
    near, far = weights
    for x in range(row.shape[0]):
        row[x] += near * (before[x] + after[x]) + far * (earlier[x] + later[x])


@compiled
def _smooth_along_row(row: Floats, padded: Floats, weights: Floats) -> None:
    """Symmetric filter of 1 or ``4 n + 1`` taps along a row: padded (W + taps - 1)."""
    width, radius = row.shape[0], weights.shape[0] // 2
    if radius == 0:
        row[:] = padded
        return
    m = radius
    _weigh_five(
        row,
        (
            padded[m : m + width],
            padded[m - 1 : m - 1 + width],
            padded[m + 1 : m + 1 + width],
            padded[m - 2 : m - 2 + width],
            padded[m + 2 : m + 2 + width],
        ),
        (weights[m], weights[m + 1], weights[m + 2]),
    )
    for k in range(3, radius + 1, 2):
        _add_four(
            row,
            (
                padded[m - k : m - k + width],
                padded[m + k : m + k + width],
                padded[m - k - 1 : m - k - 1 + width],
                padded[m + k + 1 : m + k + 1 + width],
            ),
            (weights[m + k], weights[m + k + 1]),
        )


@compiled
def _smooth_across_rows(row: Floats, rows: Floats, first: int, step: int, modulus: int, bounds: tuple[int, int], weights: Floats) -> None:
    """Symmetric filter across rows (..., W): tap k is row ``(clamp(first + k, bounds) % modulus) * step``; `rows` is two-dimensional."""
    radius = weights.shape[0] // 2
    low, high = bounds
    middle = rows[((first + radius) % modulus) * step]
    if radius == 0:
        row[:] = middle
        return
    m = first + radius
    _weigh_five(
        row,
        (
            middle,
            rows[(max(m - 1, low) % modulus) * step],
            rows[(min(m + 1, high) % modulus) * step],
            rows[(max(m - 2, low) % modulus) * step],
            rows[(min(m + 2, high) % modulus) * step],
        ),
        (weights[radius], weights[radius + 1], weights[radius + 2]),
    )
    for k in range(3, radius + 1, 2):
        _add_four(
            row,
            (
                rows[(max(m - k, low) % modulus) * step],
                rows[(min(m + k, high) % modulus) * step],
                rows[(max(m - k - 1, low) % modulus) * step],
                rows[(min(m + k + 1, high) % modulus) * step],
            ),
            (weights[radius + k], weights[radius + k + 1]),
        )


@compiled
def _force_row(row: Floats, axis: int, z: int, y: int, gradient: Floats, warped: Floats) -> None:
    """Add ``gradient d warped / d axis`` of row (z, y) of one channel, central differences, 0 across a border."""
    depth, height, width = warped.shape
    factor = gradient[z, y]
    if axis == 2:
        source = warped[z, y]
        for x in range(1, width - 1):
            row[x] += np.float32(0.5) * factor[x] * (source[x + 1] - source[x - 1])
        return
    if axis == 0:
        if z == 0 or z == depth - 1:
            return
        before, after = warped[z - 1, y], warped[z + 1, y]
    else:
        if y == 0 or y == height - 1:
            return
        before, after = warped[z, y - 1], warped[z, y + 1]
    for x in range(width):
        row[x] += np.float32(0.5) * factor[x] * (after[x] - before[x])


@compiled
def smooth(start: int, stop: int, result: Floats, largest: Floats, source: Floats, gradient: Floats, warped: Floats, weights: Weights) -> None:
    """Strips start to stop of a separable symmetric filter, border values continued outside.

    Parameters
    ----------
    result : (C, D, H, W)
    largest : (strips,)
        Takes the largest square length of a vector of `result` in each strip.
    source : (C, D, H, W), or (0, 1, 1, 1) for none
    gradient, warped : (I, D, H, W)
        What is smoothed is ``source + sum_i gradient_i grad(warped_i)``, central differences.
    weights
        Filter per axis: 1 or ``4 n + 1`` taps, symmetric. One tap leaves the axis alone.
    """
    components, depth, height, width = result.shape
    along_z, along_y, along_x = weights
    rz, ry, rx = along_z.shape[0] // 2, along_y.shape[0] // 2, along_x.shape[0] // 2
    span = 2 * rz + 1
    raw = np.empty((STRIP + 2 * ry, width), np.float32)
    padded = np.empty(width + 2 * rx, np.float32)
    ring = np.empty((span * components * STRIP, width), np.float32)
    length, square = np.empty(width, np.float32), np.empty(width, np.float32)
    for strip in range(start, stop):
        top = strip * STRIP
        rows = min(STRIP, height - top)
        length[:] = 0
        for plane in range(depth + rz):
            if plane < depth:
                for c in range(components):
                    # rows of the strip and its margin, those of the image only
                    low, high = max(top - ry, 0), min(top + rows + ry, height)
                    for y in range(low, high):
                        row = raw[y - low]
                        if source.shape[0]:
                            row[:] = source[c, plane, y]
                        else:
                            row[:] = 0
                        for i in range(warped.shape[0]):
                            _force_row(row, c + 3 - components, plane, y, gradient[i], warped[i])
                    for y in range(rows):
                        _smooth_across_rows(padded[rx : rx + width], raw, top + y - low - ry, 1, 1 << 30, (0, high - low - 1), along_y)
                        padded[:rx] = padded[rx]
                        padded[rx + width :] = padded[rx + width - 1]
                        _smooth_along_row(ring[((plane % span) * components + c) * STRIP + y], padded, along_x)
            z = plane - rz
            if z < 0:
                continue
            for y in range(rows):
                for c in range(components):
                    row = result[c, z, top + y]
                    _smooth_across_rows(row, ring[c * STRIP + y :], z - rz, components * STRIP, span, (0, depth - 1), along_z)
                _longest(length, square, result, z, top + y)
        largest[strip] = length.max()


@compiled
def _longest(length: Floats, square: Floats, field: Floats, z: int, y: int) -> None:
    """Larger of `length` and the square length of the vectors of a row; `square` is room to work in."""
    square[:] = 0
    for c in range(field.shape[0]):
        row = field[c, z, y]
        for x in range(length.shape[0]):
            square[x] += row[x] * row[x]
    for x in range(length.shape[0]):
        length[x] = max(length[x], square[x])
