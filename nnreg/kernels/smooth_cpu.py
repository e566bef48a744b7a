"""Compiled separable smoothing of a volume or field in one sweep, and of the force of a similarity on a field, which is never stored.

Rows are named by where they start in a flat array, not passed as arrays of their own: making one costs as much as filtering a hundred voxels. Starts are
unsigned, because a signed index has to be tested for counting from the end, and no loop with such a test uses vectors.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled

Weights = tuple[Floats, Floats, Floats]
STRIP = 16  # rows handled together: the planes of a strip that the filter along z needs then stay in the core's own cache


@compiled
def _first_five(target: Floats, to: np.uint64, source: Floats, starts: tuple[np.uint64, ...], weights: tuple[np.float32, ...], width: np.uint64) -> None:
    middle, before, after, earlier, later = starts
    own, near, far = weights
    for x in range(width):
        target[to + x] = own * source[middle + x] + near * (source[before + x] + source[after + x]) + far * (source[earlier + x] + source[later + x])


@compiled
def _four_more(target: Floats, to: np.uint64, source: Floats, starts: tuple[np.uint64, ...], weights: tuple[np.float32, ...], width: np.uint64) -> None:
    before, after, earlier, later = starts
    near, far = weights
    for x in range(width):
        target[to + x] += near * (source[before + x] + source[after + x]) + far * (source[earlier + x] + source[later + x])


@compiled
def _copy(target: Floats, to: np.uint64, source: Floats, start: np.uint64, width: np.uint64) -> None:
    for x in range(width):
        target[to + x] = source[start + x]


@compiled
def _filter(
    target: Floats, to: np.uint64, source: Floats, middle: int, bounds: tuple[int, int], layout: tuple[int, int, int], weights: Floats, width: np.uint64
) -> None:
    """Symmetric filter of 1 or ``4 n + 1`` taps across lines of `source`, `width` values from each, into `target` from `to` on.

    Line i starts at ``(i % span) * step + first`` with ``layout = (span, step, first)``; lines beyond `bounds` are those on the bounds.
    """
    span, step, first = layout
    low, high = bounds
    radius = weights.shape[0] // 2
    centre = np.uint64((middle % span) * step + first)
    if radius == 0:
        _copy(target, to, source, centre, width)
        return
    before, after = np.uint64((max(middle - 1, low) % span) * step + first), np.uint64((min(middle + 1, high) % span) * step + first)
    earlier, later = np.uint64((max(middle - 2, low) % span) * step + first), np.uint64((min(middle + 2, high) % span) * step + first)
    _first_five(target, to, source, (centre, before, after, earlier, later), (weights[radius], weights[radius + 1], weights[radius + 2]), width)
    for k in range(3, radius + 1, 2):
        before, after = np.uint64((max(middle - k, low) % span) * step + first), np.uint64((min(middle + k, high) % span) * step + first)
        earlier, later = np.uint64((max(middle - k - 1, low) % span) * step + first), np.uint64((min(middle + k + 1, high) % span) * step + first)
        _four_more(target, to, source, (before, after, earlier, later), (weights[radius + k], weights[radius + k + 1]), width)


@compiled
def _add_slope(
    target: Floats, to: np.uint64, gradient: Floats, start: np.uint64, warped: Floats, before: np.uint64, after: np.uint64, width: np.uint64
) -> None:
    """Add ``gradient (warped[after] - warped[before]) / 2`` of one row."""
    half = np.float32(0.5)
    for x in range(width):
        target[to + x] += half * gradient[start + x] * (warped[after + x] - warped[before + x])


@compiled
def _raw_row(target: Floats, to: int, c: int, z: int, y: int, shape: tuple[int, int, int, int], source: Floats, gradient: Floats, warped: Floats) -> None:
    """Row (z, y) of component `c` of ``source + sum_i gradient_i grad(warped_i)``, central differences, 0 across a border; flat arrays."""
    components, depth, height, width = shape
    count, size = np.uint64(width), depth * height * width
    row = (z * height + y) * width
    start = np.uint64(to)
    if source.shape[0]:
        _copy(target, start, source, np.uint64(c * size + row), count)
    else:
        for x in range(count):
            target[start + x] = np.float32(0.0)
    axis = c + 3 - components
    for first in range(0, warped.shape[0], size):
        here = first + row
        if axis == 2:
            if width > 2:
                _add_slope(target, start + np.uint64(1), gradient, np.uint64(here + 1), warped, np.uint64(here), np.uint64(here + 2), np.uint64(width - 2))
        elif axis == 1:
            if 0 < y < height - 1:
                _add_slope(target, start, gradient, np.uint64(here), warped, np.uint64(here - width), np.uint64(here + width), count)
        elif 0 < z < depth - 1:
            _add_slope(target, start, gradient, np.uint64(here), warped, np.uint64(here - height * width), np.uint64(here + height * width), count)


@compiled
def _longest(length: Floats, square: Floats, rows: Floats, first: int, step: int, components: int) -> None:
    """Larger of `length` and the square length of a row of vectors, component c from ``first + c step`` on; `square` is room to work in."""
    width = np.uint64(length.shape[0])
    for c in range(components):
        start = np.uint64(first + c * step)
        if c == 0:
            for x in range(width):
                square[x] = rows[start + x] * rows[start + x]
        else:
            for x in range(width):
                square[x] += rows[start + x] * rows[start + x]
    for x in range(width):
        length[x] = max(length[x], square[x])


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
    shape = result.shape
    components, depth, height, width = shape
    along_z, along_y, along_x = weights
    ry, rx, rz = along_y.shape[0] // 2, along_x.shape[0] // 2, along_z.shape[0] // 2
    span, count = 2 * rz + 1, np.uint64(width)
    flat, flat_source, flat_gradient, flat_warped = result.reshape(-1), source.reshape(-1), gradient.reshape(-1), warped.reshape(-1)
    raw = np.empty((STRIP + 2 * ry) * width, np.float32)
    line = np.empty(width + 2 * rx, np.float32)
    block = STRIP * width  # rows of a strip, of one component and plane
    ring = np.empty(span * components * block, np.float32)
    length, square = np.empty(width, np.float32), np.empty(width, np.float32)
    for strip in range(start, stop):
        top = strip * STRIP
        rows = min(STRIP, height - top)
        length[:] = 0
        # rows of the strip and its margin, those of the image only
        low, high = max(top - ry, 0), min(top + rows + ry, height)
        for plane in range(depth + rz):
            for c in range(components if plane < depth else 0):
                for y in range(low, high):
                    _raw_row(raw, (y - low) * width, c, plane, y, shape, flat_source, flat_gradient, flat_warped)
                for y in range(rows):
                    _filter(line, np.uint64(rx), raw, top + y - low, (0, high - low - 1), (1 << 30, width, 0), along_y, count)
                    for x in range(rx):
                        line[x] = line[rx]
                        line[rx + width + x] = line[rx + width - 1]
                    to = np.uint64(((plane % span) * components + c) * block + y * width)
                    # along the row, line i is the row moved by i
                    _filter(ring, to, line, rx, (0, 2 * rx), (1 << 30, 1, 0), along_x, count)
            z = plane - rz
            for y in range(rows if z >= 0 else 0):
                for c in range(components):
                    to = np.uint64(((c * depth + z) * height + top + y) * width)
                    _filter(flat, to, ring, z, (0, depth - 1), (span, components * block, c * block + y * width), along_z, count)
                _longest(length, square, flat, (z * height + top + y) * width, depth * height * width, components)
        largest[strip] = length.max()
