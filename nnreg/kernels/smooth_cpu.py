"""Compiled separable smoothing of a volume or field in one sweep, and of the force of a similarity on a field, which is never stored.

All rows of a strip are filtered as if they were one: along y and z nothing tells them apart, and along x each has room beside it for its continued ends. Loops
over single rows would spend half of their time on what is left of a row when the last whole vector is done.

Lines are named by where they start in a flat array, not passed as arrays of their own: making one costs as much as filtering a hundred voxels. Starts are
unsigned, because a signed index has to be tested for counting from the end, and no loop with such a test uses vectors.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled

Weights = tuple[Floats, Floats, Floats]
STRIP = 32  # rows handled together: the planes of a strip that the filter along z needs then stay in the core's own cache
VECTORS = 32  # values: loops over a multiple of so many use whole vectors to their end


@compiled
def _first_five(target: Floats, to: np.uint64, source: Floats, starts: tuple[np.uint64, ...], weights: tuple[np.float32, ...], count: np.uint64) -> None:
    middle, before, after, earlier, later = starts
    own, near, far = weights
    for x in range(count):
        target[to + x] = own * source[middle + x] + near * (source[before + x] + source[after + x]) + far * (source[earlier + x] + source[later + x])


@compiled
def _four_more(target: Floats, to: np.uint64, source: Floats, starts: tuple[np.uint64, ...], weights: tuple[np.float32, ...], count: np.uint64) -> None:
    before, after, earlier, later = starts
    near, far = weights
    for x in range(count):
        target[to + x] += near * (source[before + x] + source[after + x]) + far * (source[earlier + x] + source[later + x])


@compiled
def _eight_more(target: Floats, to: np.uint64, source: Floats, starts: tuple[np.uint64, ...], weights: tuple[np.float32, ...], count: np.uint64) -> None:
    before, after, earlier, later, a, b, c, d = starts
    near, far, farther, farthest = weights
    for x in range(count):
        inner = near * (source[before + x] + source[after + x]) + far * (source[earlier + x] + source[later + x])
        target[to + x] += inner + farther * (source[a + x] + source[b + x]) + farthest * (source[c + x] + source[d + x])


@compiled
def _copy(target: Floats, to: np.uint64, source: Floats, start: np.uint64, count: np.uint64) -> None:
    for x in range(count):
        target[to + x] = source[start + x]


@compiled
def _pair(middle: int, k: int, bounds: tuple[int, int], layout: tuple[int, int, int]) -> tuple[np.uint64, np.uint64]:
    """Where the lines `k` before and after the middle one start."""
    span, step, first = layout
    low, high = bounds
    return np.uint64((max(middle - k, low) % span) * step + first), np.uint64((min(middle + k, high) % span) * step + first)


@compiled
def _filter(
    target: Floats, to: np.uint64, source: Floats, middle: int, bounds: tuple[int, int], layout: tuple[int, int, int], weights: Floats, count: np.uint64
) -> None:
    """Symmetric filter of 1 or ``4 n + 1`` taps across lines of `source`, `count` values from each, into `target` from `to` on.

    Line i starts at ``(i % span) * step + first`` with ``layout = (span, step, first)``; lines beyond `bounds` are those on the bounds.
    """
    span, step, first = layout
    radius = weights.shape[0] // 2
    centre = np.uint64((middle % span) * step + first)
    if radius == 0:
        _copy(target, to, source, centre, count)
        return
    near, far = _pair(middle, 1, bounds, layout), _pair(middle, 2, bounds, layout)
    _first_five(target, to, source, (centre, *near, *far), (weights[radius], weights[radius + 1], weights[radius + 2]), count)
    k = 3
    while k + 3 <= radius:
        near, far = _pair(middle, k, bounds, layout), _pair(middle, k + 1, bounds, layout)
        farther, farthest = _pair(middle, k + 2, bounds, layout), _pair(middle, k + 3, bounds, layout)
        shares = (weights[radius + k], weights[radius + k + 1], weights[radius + k + 2], weights[radius + k + 3])
        _eight_more(target, to, source, (*near, *far, *farther, *farthest), shares, count)
        k += 4
    if k < radius:
        near, far = _pair(middle, k, bounds, layout), _pair(middle, k + 1, bounds, layout)
        _four_more(target, to, source, (*near, *far), (weights[radius + k], weights[radius + k + 1]), count)


@compiled
def _add_slope(
    target: Floats, to: np.uint64, gradient: Floats, start: np.uint64, warped: Floats, before: np.uint64, after: np.uint64, count: np.uint64
) -> None:
    """Add ``gradient (warped[after] - warped[before]) / 2``."""
    half = np.float32(0.5)
    for x in range(count):
        target[to + x] += half * gradient[start + x] * (warped[after + x] - warped[before + x])


@compiled
def _raw_rows(
    target: Floats, to: int, c: int, z: int, rows: tuple[int, int], shape: tuple[int, int, int, int], source: Floats, gradient: Floats, warped: Floats
) -> None:
    """Rows of plane z of component `c` of ``source + sum_i gradient_i grad(warped_i)``, central differences, 0 across a border; flat arrays."""
    components, depth, height, width = shape
    low, high = rows
    size, row = depth * height * width, (z * height + low) * width
    count, start = np.uint64((high - low) * width), np.uint64(to)
    axis = c + 3 - components
    if axis == 2:
        # as if the rows were one; the ends of each are put right afterwards
        for x in range(count):
            target[start + x] = np.float32(0.0)
        for first in range(0, warped.shape[0] if width > 2 else 0, size):
            here = first + row + 1
            _add_slope(target, start + np.uint64(1), gradient, np.uint64(here), warped, np.uint64(here - 1), np.uint64(here + 1), count - np.uint64(2))
        for y in range(high - low):
            target[to + y * width] = np.float32(0.0)
            target[to + (y + 1) * width - 1] = np.float32(0.0)
        if source.shape[0]:
            other = np.uint64(c * size + row)
            for x in range(count):
                target[start + x] += source[other + x]
        return
    if source.shape[0]:
        _copy(target, start, source, np.uint64(c * size + row), count)
    else:
        for x in range(count):
            target[start + x] = np.float32(0.0)
    step = width if axis == 1 else height * width
    # first and last of the axis have no difference
    skipped = (1 if low == 0 else 0) if axis == 1 else 0
    used = min(high, height - 1) - low - skipped if axis == 1 else (high - low if 0 < z < depth - 1 else 0)
    for first in range(0, warped.shape[0] if used > 0 else 0, size):
        here = first + row + skipped * width
        to_here = start + np.uint64(skipped * width)
        _add_slope(target, to_here, gradient, np.uint64(here), warped, np.uint64(here - step), np.uint64(here + step), np.uint64(used * width))


@compiled
def _pad(target: Floats, source: Floats, rows: int, width: int, radius: int) -> None:
    """Rows with `radius` values beside them on either side, which are those at their ends."""
    line = width + 2 * radius
    for y in range(rows):
        to, start = y * line, y * width
        _copy(target, np.uint64(to + radius), source, np.uint64(start), np.uint64(width))
        for x in range(radius):
            target[to + x] = source[start]
            target[to + radius + width + x] = source[start + width - 1]


@compiled
def _write(result: Floats, length: Floats, block: Floats, c: int, to: int, layout: tuple[int, int, int]) -> None:
    """Rows of component `c` to their place, and what they add to the square lengths: ``layout = (rows, width, line)``."""
    rows, width, line = layout
    for y in range(rows):
        target, start, square = np.uint64(to + y * width), np.uint64(y * line), np.uint64(y * width)
        if c == 0:
            for x in range(np.uint64(width)):
                result[target + x] = block[start + x]
                length[square + x] = block[start + x] * block[start + x]
        else:
            for x in range(np.uint64(width)):
                result[target + x] = block[start + x]
                length[square + x] += block[start + x] * block[start + x]


@compiled
def _largest(longest: Floats, length: Floats, count: int) -> None:
    for x in range(np.uint64(count)):
        longest[x] = max(longest[x], length[x])


@compiled
def _is_zero(values: Floats, size: int, first: int, count: int) -> bool:
    """Whether the `count` values from `first` on of each channel of `size` values are zero; NaN is not."""
    total = np.float32(0.0)
    for channel in range(0, values.shape[0], size):
        start = np.uint64(channel + first)
        for x in range(np.uint64(count)):
            total += np.abs(values[start + x])
    return total == 0


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
    flat, flat_source, flat_gradient, flat_warped = result.reshape(-1), source.reshape(-1), gradient.reshape(-1), warped.reshape(-1)
    tallest, line, span = min(STRIP, height), width + 2 * rx, 2 * rz + 1
    block = -(-tallest * line // VECTORS) * VECTORS
    raw, columns = np.zeros((tallest + 2 * ry) * width, np.float32), np.zeros(tallest * width, np.float32)
    padded, done = np.zeros(block + 2 * rx, np.float32), np.zeros(block, np.float32)
    ring = np.zeros(span * components * block, np.float32)
    length, longest = np.zeros(tallest * width, np.float32), np.zeros(tallest * width, np.float32)
    endless, size = 1 << 30, depth * height * width
    for strip in range(start, stop):
        top = strip * STRIP
        rows = min(STRIP, height - top)
        longest[:] = 0
        low, high = max(top - ry, 0), min(top + rows + ry, height)
        above = low - (top - ry)
        forced = -1 - rz  # the last plane whose rows hold anything
        for plane in range(depth + rz):
            # in the air around a head there is no force
            if plane < depth and (source.shape[0] or not _is_zero(flat_gradient, size, (plane * height + low) * width, (high - low) * width)):
                forced = plane
            elif plane < depth:
                slot = (plane % span) * components * block
                ring[slot : slot + components * block] = 0
            for c in range(components if plane == forced else 0):
                _raw_rows(raw, above * width, c, plane, (low, high), shape, flat_source, flat_gradient, flat_warped)
                # rows beyond the image are those on its border
                for y in range(above):
                    _copy(raw, np.uint64(y * width), raw, np.uint64(above * width), np.uint64(width))
                for y in range(above + high - low, rows + 2 * ry):
                    _copy(raw, np.uint64(y * width), raw, np.uint64((above + high - low - 1) * width), np.uint64(width))
                _filter(columns, np.uint64(0), raw, ry, (0, 2 * ry), (endless, width, 0), along_y, np.uint64(rows * width))
                _pad(padded, columns, rows, width, rx)
                # line i is all rows moved by i
                _filter(ring, np.uint64(((plane % span) * components + c) * block), padded, rx, (0, 2 * rx), (endless, 1, 0), along_x, np.uint64(block))
            z = plane - rz
            for c in range(components if z >= 0 and forced < z - rz else 0):
                to = ((c * depth + z) * height + top) * width
                flat[to : to + rows * width] = 0
            if forced < z - rz:
                continue
            for c in range(components if z >= 0 else 0):
                _filter(done, np.uint64(0), ring, z, (0, depth - 1), (span, components * block, c * block), along_z, np.uint64(block))
                _write(flat, length, done, c, ((c * depth + z) * height + top) * width, (rows, width, line))
            if z >= 0:
                _largest(longest, length, rows * width)
        largest[strip] = longest.max()
