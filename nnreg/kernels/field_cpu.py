"""Compiled loops of the deformable engine on one volume: sampling and composition.

A volume is (C, D, H, W), a field (N, D, H, W) in voxels with N = 3, or N = 2 and D = 1 for an image of two axes, component k along axis k. Float32, contiguous.
A few rows at a time are done in two steps: where their voxels come from (plain arithmetic, whole vectors at a time), then the eight loads and the blending.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats, ShortIntegers
from nnreg.kernels.compiled import compiled
from nnreg.kernels.finer_cpu import Axes, add_between, mix_rows, place_between

BLOCK = 2048  # voxels of whole rows that are done together, in the core's first cache
VECTORS = 32  # values: loops over a multiple of so many use whole vectors to their end
STEP = 8  # values that are looked at together where a row is searched for its first
TOGETHER = 4  # steps that a few rows of an inverse take together
FEW = 16  # less than one voxel of so many that has not settled: they go on alone
LARGEST = 2**31 - 1  # voxels: positions in a volume are counted with 32 bits, because vectors of them are twice as long

Steps = tuple[np.uint64, np.uint64, np.uint64]  # to the next voxel along z, y and x; 0 on an axis of one


@compiled
def _locate(base: ShortIntegers, weight: Floats, position: Floats, count: int, size: int) -> None:
    """Lower neighbours of `count` positions along one axis (added to ``base * size``) and weights of the upper ones, clamped to the grid (NaN to its start)."""
    top, last = np.float32(size - 1), np.int32(max(size - 2, 0))
    for x in range(np.uint64(count)):
        # written so that NaN fails the comparison and becomes 0: it must not become an index
        inside = position[x] if position[x] > 0 else np.float32(0.0)
        inside = inside if inside < top else top
        lower = min(np.int32(inside), last)
        weight[x] = inside - np.float32(lower)
        base[x] = base[x] * np.int32(size) + lower


@compiled
def _value(volume: Floats, near: np.uint64, steps: Steps, along_z: np.float32, along_y: np.float32, along_x: np.float32) -> np.float32:
    """Trilinear value of a flat volume between `near` and the voxels after it, by the weights of those."""
    step_z, step_y, step_x = steps
    far = near + step_y
    one, other = volume[near], volume[far]
    one += along_x * (volume[near + step_x] - one)
    other += along_x * (volume[far + step_x] - other)
    front = one + along_y * (other - one)
    near, far = near + step_z, far + step_z
    one, other = volume[near], volume[far]
    one += along_x * (volume[near + step_x] - one)
    other += along_x * (volume[far + step_x] - other)
    back = one + along_y * (other - one)
    return front + along_z * (back - front)


@compiled
def _blend(target: Floats, to: int, volume: Floats, first: int, base: ShortIntegers, weights: Floats, at: int, count: int, steps: Steps) -> None:
    """Trilinear values of the channel of a flat volume from `first` on, for `count` places of ``base[at:]``, into ``target[to:]``; weights (3, N)."""
    along_z, along_y, along_x = weights[0], weights[1], weights[2]
    channel, start, here = np.uint64(first), np.uint64(at), np.uint64(to)
    for x in range(np.uint64(count)):
        target[here + x] = _value(volume, channel + np.uint64(base[start + x]), steps, along_z[start + x], along_y[start + x], along_x[start + x])


@compiled
def _blend_onto(
    target: Floats,
    to: int,
    added: Floats,
    scale: np.float32,
    volume: Floats,
    first: int,
    base: ShortIntegers,
    weights: Floats,
    at: int,
    count: int,
    steps: Steps,
) -> None:
    """The same, added to ``scale added[to:]``."""
    along_z, along_y, along_x = weights[0], weights[1], weights[2]
    channel, start, here = np.uint64(first), np.uint64(at), np.uint64(to)
    for x in range(np.uint64(count)):
        value = _value(volume, channel + np.uint64(base[start + x]), steps, along_z[start + x], along_y[start + x], along_x[start + x])
        target[here + x] = scale * added[here + x] + value


@compiled
def _steps(shape: tuple[int, int, int]) -> Steps:
    depth, height, width = shape
    return np.uint64(height * width if depth > 1 else 0), np.uint64(width if height > 1 else 0), np.uint64(1 if width > 1 else 0)


@compiled
def _block_rows(width: int) -> tuple[int, int]:
    """How many rows are done together, and for how many voxels there is room then: whole vectors."""
    rows = max(1, BLOCK // width)
    return rows, -(-rows * width // VECTORS) * VECTORS


@compiled
def _place_row(moved: Floats, at: int, line: int, height: int, x0: int, count: int) -> None:
    """Indices of `count` voxels of a row from x0 on into ``moved[:, at:]`` (3, N)."""
    on_z, on_y, on_x, start = moved[0], moved[1], moved[2], np.uint64(at)
    z, y = np.float32(line // height), np.float32(line % height)
    for x in range(np.uint64(count)):
        on_z[start + x], on_y[start + x], on_x[start + x] = z, y, np.float32(x0 + np.int32(x))


@compiled
def _add(target: Floats, at: int, values: Floats, first: int, scale: np.float32, count: int) -> None:
    start, here = np.uint64(at), np.uint64(first)
    for x in range(np.uint64(count)):
        target[start + x] += scale * values[here + x]


@compiled
def _between(result: Floats, field: Floats, factors: Axes, starts: Axes) -> tuple[Axes, ShortIntegers, Floats, Floats]:
    """Shape of a field, where the voxels of `result` lie between its own along each axis, and room for one of its rows."""
    longest = max(result.shape[1], result.shape[2], result.shape[3])
    lower, share = np.zeros((3, longest), np.int32), np.zeros((3, longest), np.float32)
    for axis in range(3):
        place_between(lower[axis], share[axis], factors[axis], starts[axis], field.shape[axis + 1])
    return (field.shape[1], field.shape[2], field.shape[3]), lower, share, np.zeros(field.shape[3] + 1, np.float32)


@compiled
def sample(start: int, stop: int, result: Floats, image: Floats, field: Floats, matrix: Floats, ranges: ShortIntegers, factors: Axes, starts: Axes) -> None:
    """Rows start to stop (counted through all planes) of ``image(matrix (x + field(x)))``, border values outside.

    Parameters
    ----------
    result : (C, D', H', W')
    image : (C, D, H, W)
    field : (2 or 3, D', H', W') in voxels of `result`, or (0, 1, 1, 1) for none; of another shape where it lies on a coarser grid, in voxels of that
    matrix : (3, 4)
        From indices of `result` to indices of `image`.
    ranges : (D' * H', 2), or (0, 2) for all
        First voxel of each row that is wanted, and the one after the last; others are left as they are.
    factors, starts
        Voxels of `result` along z, y and x to one of the field, and the first of them that are; see :mod:`nnreg.kernels.finer_cpu`.
    """
    channels, depth, height, width = image.shape
    components, count = field.shape[0], result.shape[3]
    of_field, lower, share, line_of_field = _between(result, field, factors, starts)
    coarser = components > 0 and factors[0] * factors[1] * factors[2] > 1
    flat, flat_result, flat_field = image.reshape(-1), result.reshape(-1), field.reshape(-1)
    size, own, steps = depth * height * width, result.shape[1] * result.shape[2] * count, _steps((depth, height, width))
    rows, room = _block_rows(count)
    base, weights = np.zeros(room, np.int32), np.zeros((3, room), np.float32)
    moved, position = np.zeros((3, room), np.float32), np.zeros(room, np.float32)
    on_z, on_y, on_x = moved[0], moved[1], moved[2]
    for block in range(start, stop, rows):
        after, filled = min(block + rows, stop), 0
        for line in range(block, after):
            x0, x1 = (ranges[line, 0], ranges[line, 1]) if ranges.shape[0] else (0, count)
            _place_row(moved, filled, line, result.shape[2], x0, x1 - x0)
            for k in range(components if x1 > x0 else 0):
                axis = 3 - components + k
                if not coarser:
                    _add(moved[axis], filled, flat_field, k * own + line * count + x0, np.float32(1.0), x1 - x0)
                    continue
                z, y, area = line // result.shape[2], line % result.shape[2], of_field[1] * of_field[2]
                first = (k * of_field[0] + lower[0, z]) * area + lower[1, y] * of_field[2]
                lines = area if of_field[0] > 1 else 0, of_field[2] if of_field[1] > 1 else 0
                mix_rows(line_of_field, flat_field, first, lines, share[0, z], share[1, y], np.float32(factors[axis]), of_field[2])
                add_between(moved[axis], filled, line_of_field, lower[2], share[2], x0, x1 - x0)
            filled += max(x1 - x0, 0)
        whole = -(-filled // VECTORS) * VECTORS
        for x in range(np.uint64(whole)):
            base[x] = 0
        for axis in range(3):
            a, b, c, d = matrix[axis, 0], matrix[axis, 1], matrix[axis, 2], matrix[axis, 3]
            for x in range(np.uint64(whole)):
                position[x] = a * on_z[x] + b * on_y[x] + c * on_x[x] + d
            _locate(base, weights[axis], position, whole, depth if axis == 0 else height if axis == 1 else width)
        for channel in range(channels):
            if not ranges.shape[0]:
                _blend(flat_result, channel * own + block * count, flat, channel * size, base, weights, 0, filled, steps)
                continue
            filled = 0
            for line in range(block, after):
                x0, x1 = ranges[line, 0], ranges[line, 1]
                _blend(flat_result, channel * own + line * count + x0, flat, channel * size, base, weights, filled, x1 - x0, steps)
                filled += max(x1 - x0, 0)


@compiled
def _displaced(inner: Floats, components: int, first: int, size: int, count: int) -> bool:
    some = np.float32(0.0)
    for k in range(components):
        start = np.uint64(first + k * size)
        for x in range(np.uint64(count)):
            some += np.abs(inner[start + x])
    return some != 0


@compiled
def _moving_part(inner: Floats, components: int, first: int, size: int, width: int) -> tuple[int, int]:
    """First voxel of a row of a flat field that is displaced, and the one after the last, in steps of STEP; NaN counts as displaced."""
    low, high = 0, width
    while low < width and not _displaced(inner, components, first + low, size, min(STEP, width - low)):
        low = min(low + STEP, width)
    while high > low and not _displaced(inner, components, first + max(high - STEP, low), size, min(STEP, high - low)):
        high = max(high - STEP, low)
    return low, high


@compiled
def compose(start: int, stop: int, result: Floats, outer: Floats, inner: Floats, scale: np.float32) -> None:
    """Rows start to stop of ``scale inner(x) + outer(x + scale inner(x))``: all fields on one grid, `outer` continued from its border.

    Where the inner field is zero, as an update in the air around a head is, that is the outer one.
    """
    components, depth, height, width = outer.shape
    flat, flat_inner, flat_result = outer.reshape(-1), inner.reshape(-1), result.reshape(-1)
    size, steps = depth * height * width, _steps((depth, height, width))
    rows, room = _block_rows(width)
    base, weights, moved = np.zeros(room, np.int32), np.zeros((3, room), np.float32), np.zeros((3, room), np.float32)
    parts = np.zeros((rows, 2), np.int64)
    for block in range(start, stop, rows):
        after, filled = min(block + rows, stop), 0
        for line in range(block, after):
            x0, x1 = _moving_part(flat_inner, components, line * width, size, width)
            parts[line - block, 0], parts[line - block, 1] = x0, x1
            _place_row(moved, filled, line, height, x0, x1 - x0)
            for k in range(components):
                _add(moved[3 - components + k], filled, flat_inner, k * size + line * width + x0, scale, x1 - x0)
            filled += x1 - x0
        whole = -(-filled // VECTORS) * VECTORS
        for x in range(np.uint64(whole)):
            base[x] = 0
        for axis in range(3):
            _locate(base, weights[axis], moved[axis], whole, depth if axis == 0 else height if axis == 1 else width)
        for c in range(components):
            filled = 0
            for line in range(block, after):
                x0, x1, first = parts[line - block, 0], parts[line - block, 1], c * size + line * width
                for x in range(np.uint64(first), np.uint64(first + x0)):
                    flat_result[x] = flat[x]
                _blend_onto(flat_result, first + x0, flat_inner, scale, flat, c * size, base, weights, filled, x1 - x0, steps)
                for x in range(np.uint64(first + x1), np.uint64(first + width)):
                    flat_result[x] = flat[x]
                filled += x1 - x0


@compiled
def _step_all(v: Floats, left: Floats, square: Floats, first: int, size: int, components: int, count: int, tolerance: np.float32) -> int:
    """Take what is `left` (3, N) from ``v[:, first:]`` where it is longer than the tolerance, and tell how often it is."""
    start, n = np.uint64(first), np.uint64(count)
    for x in range(n):
        square[x] = np.float32(0.0)
    for k in range(components):
        rest, own = left[k], start + np.uint64(k * size)
        for x in range(n):
            rest[x] += v[own + x]
            square[x] += rest[x] * rest[x]
    unsettled = 0
    for x in range(n):
        unsettled += square[x] > tolerance * tolerance
    for k in range(components):
        rest, own = left[k], start + np.uint64(k * size)
        for x in range(n):
            v[own + x] -= rest[x] * np.float32(square[x] > tolerance * tolerance)
    return unsettled


@compiled
def _settle(v: Floats, flat: Floats, voxel: tuple[int, int, int], shape: tuple[int, int, int, int], limits: tuple[np.float32, int, np.float32]) -> None:
    """Fixed point iterations of one voxel of a flat field: `limits` are tolerance, iterations and shortest step."""
    components, depth, height, width = shape
    z, y, x = voxel
    tolerance, iterations, shortest = limits
    size, steps = depth * height * width, _steps((depth, height, width))
    here, axis = np.uint64((z * height + y) * width + x), 3 - components
    zero, half = np.float32(0.0), np.float32(0.5)
    step, before = np.float32(1.0), np.float32(np.inf)
    for _ in range(iterations):
        pz = np.float32(z) + (v[here] if components == 3 else zero)
        py, px = np.float32(y) + v[here + np.uint64((1 - axis) * size)], np.float32(x) + v[here + np.uint64((2 - axis) * size)]
        # written so that NaN becomes 0: it must not become an index
        pz, py, px = pz if pz > 0 else zero, py if py > 0 else zero, px if px > 0 else zero
        pz, py, px = min(pz, np.float32(depth - 1)), min(py, np.float32(height - 1)), min(px, np.float32(width - 1))
        iz, iy, ix = min(int(pz), max(depth - 2, 0)), min(int(py), max(height - 2, 0)), min(int(px), max(width - 2, 0))
        wz, wy, wx = pz - np.float32(iz), py - np.float32(iy), px - np.float32(ix)
        near = np.uint64((iz * height + iy) * width + ix)
        a = v[here] + _value(flat, near, steps, wz, wy, wx)
        b = v[here + np.uint64(size)] + _value(flat, near + np.uint64(size), steps, wz, wy, wx)
        c = v[here + np.uint64(2 * size)] + _value(flat, near + np.uint64(2 * size), steps, wz, wy, wx) if components == 3 else zero
        square = a * a + b * b + c * c
        if not square > tolerance * tolerance:
            break
        # where the map expands to more than twice the size the full step swings ever wider: shorter ones converge
        if square > np.float32(0.81) * before:
            step = max(half * step, shortest)
        before = square
        v[here] -= step * a
        v[here + np.uint64(size)] -= step * b
        if components == 3:
            v[here + np.uint64(2 * size)] -= step * c


@compiled
def invert(start: int, stop: int, result: Floats, field: Floats, tolerance: np.float32, iterations: int, shortest: np.float32) -> None:
    """Rows start to stop of fixed point iterations ``v <- v - s (v + u(x + v))``, `u` continued from its border, each voxel until it has settled.

    A few rows at a time take the first steps together; what has not settled then goes on alone.

    Parameters
    ----------
    result : (2 or 3, D, H, W)
        Holds where to start, takes v.
    field : like `result`
    tolerance : voxels
    iterations : at most
    shortest
        The least that the step s may fall to.
    """
    components, depth, height, width = shape = field.shape
    flat, v = field.reshape(-1), result.reshape(-1)
    size, steps = depth * height * width, _steps((depth, height, width))
    rows, room = _block_rows(width)
    base, weights, moved = np.zeros(room, np.int32), np.zeros((3, room), np.float32), np.zeros((3, room), np.float32)
    left, square = np.zeros((3, room), np.float32), np.zeros(room, np.float32)
    flat_left = left.reshape(-1)
    for block in range(start, stop, rows):
        after = min(block + rows, stop)
        count, first = (after - block) * width, block * width
        unsettled = count
        for _ in range(TOGETHER):
            if unsettled * FEW <= count:
                break
            for line in range(block, after):
                _place_row(moved, (line - block) * width, line, height, 0, width)
            for k in range(components):
                _add(moved[3 - components + k], 0, v, k * size + first, np.float32(1.0), count)
            base[:] = 0
            for axis in range(3):
                _locate(base, weights[axis], moved[axis], room, depth if axis == 0 else height if axis == 1 else width)
            for k in range(components):
                _blend(flat_left, k * room, flat, k * size, base, weights, 0, count, steps)
            unsettled = _step_all(v, left, square, first, size, components, count, tolerance)
        for x in range(count if unsettled else 0):
            if not square[x] <= tolerance * tolerance:
                line = block + x // width
                _settle(v, flat, (line // height, line % height, x % width), shape, (tolerance, iterations, shortest))


@compiled
def spread(start: int, stop: int, result: Floats, values: Floats, field: Floats) -> None:
    """Add rows start to stop of the values (C, D, H, W) to the neighbours of where the field (2 or 3, D, H, W) takes them; what lands outside is lost.

    Shared by the weights of linear interpolation: the transpose of sampling. `result` (C, D, H, W) must belong to one thread.
    """
    channels, depth, height, width = values.shape
    components = field.shape[0]
    flat, given = result.reshape(channels, depth * height * width), values.reshape(channels, depth * height * width)
    step_y, step_z = np.uint64(width), np.uint64(height * width)
    one = np.float32(1.0)
    for line in range(start, stop):
        z, y = line // height, line % height
        for x in range(width):
            pz, py, px = np.float32(z), np.float32(y), np.float32(x)
            if components == 3:
                pz += field[0, z, y, x]
            py += field[components - 2, z, y, x]
            px += field[components - 1, z, y, x]
            # compared before the conversion: a NaN or an infinite position must not become an index
            if not (pz > -1 and pz < depth and py > -1 and py < height and px > -1 and px < width):
                continue
            fz, fy, fx = np.floor(pz), np.floor(py), np.floor(px)
            iz, iy, ix = int(fz), int(fy), int(fx)
            uz, uy, ux = pz - fz, py - fy, px - fx
            lz, ly, lx = one - uz, one - uy, one - ux
            source = np.uint64((z * height + y) * width + x)
            if iz >= 0 and iy >= 0 and ix >= 0 and iz < depth - 1 and iy < height - 1 and ix < width - 1:
                n00 = np.uint64((iz * height + iy) * width + ix)
                n01, n10 = n00 + step_y, n00 + step_z
                n11, right = n10 + step_y, np.uint64(1)
                w00, w01, w10, w11 = lz * ly, lz * uy, uz * ly, uz * uy
                for c in range(channels):
                    target, value = flat[c], given[c, source]
                    low, high = lx * value, ux * value
                    target[n00] += w00 * low
                    target[n00 + right] += w00 * high
                    target[n01] += w01 * low
                    target[n01 + right] += w01 * high
                    target[n10] += w10 * low
                    target[n10 + right] += w10 * high
                    target[n11] += w11 * low
                    target[n11 + right] += w11 * high
                continue
            for corner in range(8):
                cz, cy, cx = iz + (corner >> 2), iy + ((corner >> 1) & 1), ix + (corner & 1)
                if cz < 0 or cz >= depth or cy < 0 or cy >= height or cx < 0 or cx >= width:
                    continue
                weight = (uz if corner & 4 else lz) * (uy if corner & 2 else ly) * (ux if corner & 1 else lx)
                for c in range(channels):
                    result[c, cz, cy, cx] += weight * values[c, z, y, x]


@compiled
def approach(start: int, stop: int, result: Floats, received: Floats, own: np.float32) -> None:
    """Move voxels start to stop of result (N, V) to the weighted mean of itself (weight `own`) and what they received: sums (N, V), then weights (1, V)."""
    components = result.shape[0]
    for i in range(start, stop):
        weight = np.float32(1.0) / (received[components, i] + own)
        for k in range(components):
            result[k, i] -= received[k, i] * weight


@compiled
def lengths(start: int, stop: int, result: Floats, left: Floats, field: Floats) -> None:
    """Rows start to stop of the lengths of the vectors `left` (2 or 3, D, H, W); -1 where the field takes the voxel out of the grid."""
    components, depth, height, width = left.shape
    for line in range(start, stop):
        z, y = line // height, line % height
        for x in range(width):
            pz = np.float32(z) + (field[0, z, y, x] if components == 3 else np.float32(0.0))
            py, px = np.float32(y) + field[components - 2, z, y, x], np.float32(x) + field[components - 1, z, y, x]
            square = np.float32(0.0)
            for k in range(components):
                square += left[k, z, y, x] * left[k, z, y, x]
            inside = pz >= 0 and pz <= depth - 1 and py >= 0 and py <= height - 1 and px >= 0 and px <= width - 1
            result[z, y, x] = np.sqrt(square) if inside else np.float32(-1.0)


@compiled
def told_between(start: int, stop: int, result: Floats, inverse: Floats, field: Floats, factors: Axes) -> None:
    """Rows start to stop of ``v(x - r) - r`` with ``r = v(x) + u(x + v(x))``, for an inverse v of the map of a field u, both on a coarser grid.

    Parameters
    ----------
    result : (2 or 3, D', H', W'), in its voxels
    inverse, field : (2 or 3, D, H, W), in their voxels
    factors
        Voxels of `result` along z, y and x to one of the field.
    """
    components, depth, height, width = field.shape
    count, area = result.shape[3], height * width
    _, lower, share, line_of_field = _between(result, field, factors, (0, 0, 0))
    flat, flat_inverse, flat_result = field.reshape(-1), inverse.reshape(-1), result.reshape(-1)
    size, own, steps = depth * area, result.shape[1] * result.shape[2] * count, _steps((depth, height, width))
    lines = area if depth > 1 else 0, width if height > 1 else 0
    rows, room = _block_rows(count)
    base, weights, position = np.zeros(room, np.int32), np.zeros((3, room), np.float32), np.zeros(room, np.float32)
    place, there, left = np.zeros((3, room), np.float32), np.zeros((3, room), np.float32), np.zeros((3, room), np.float32)
    for block in range(start, stop, rows):
        after = min(block + rows, stop)
        filled = (after - block) * count
        whole = -(-filled // VECTORS) * VECTORS
        there[:] = 0
        for line in range(block, after):
            z, y, at = line // result.shape[2], line % result.shape[2], (line - block) * count
            _place_row(place, at, line, result.shape[2], 0, count)
            for k in range(components):
                first = k * size + lower[0, z] * area + lower[1, y] * width
                mix_rows(line_of_field, flat_inverse, first, lines, share[0, z], share[1, y], np.float32(1.0), width)
                add_between(there[3 - components + k], at, line_of_field, lower[2], share[2], 0, count)
        base[:] = 0
        for axis in range(3):
            own_place, moved, factor = place[axis], there[axis], np.float32(factors[axis])
            for x in range(np.uint64(whole)):
                own_place[x] = (own_place[x] + np.float32(0.5)) / factor - np.float32(0.5)
                position[x] = own_place[x] + moved[x]
            _locate(base, weights[axis], position, whole, field.shape[axis + 1])
        for k in range(components):
            axis = 3 - components + k
            _blend_onto(left[axis], 0, there[axis], np.float32(1.0), flat, k * size, base, weights, 0, filled, steps)
        base[:] = 0
        for axis in range(3):
            own_place, rest = place[axis], left[axis]
            for x in range(np.uint64(whole)):
                position[x] = own_place[x] - rest[x]
            _locate(base, weights[axis], position, whole, field.shape[axis + 1])
        for k in range(components):
            axis, first = 3 - components + k, np.uint64(k * own + block * count)
            _blend(flat_result, k * own + block * count, flat_inverse, k * size, base, weights, 0, filled, steps)
            rest, factor = left[axis], np.float32(factors[axis])
            for x in range(np.uint64(filled)):
                flat_result[first + x] = factor * (flat_result[first + x] - rest[x])


@compiled
def block_means(start: int, stop: int, result: Floats, image: Floats, factors: tuple[int, int, int]) -> None:
    """Rows start to stop (counted through all channels and planes) of the means over blocks: result (C, D', H', W'), image (C, D, H, W)."""
    _, depth, height, width = result.shape
    fz, fy, fx = factors
    share = np.float32(1.0 / (fz * fy * fx))
    sums = np.zeros(width * fx, np.float32)
    for line in range(start, stop):
        c, z, y = line // (depth * height), line // height % depth, line % height
        row = result[c, z, y]
        sums[:] = 0
        for part in range(fz * fy):
            source = image[c, z * fz + part // fy, y * fy + part % fy]
            for x in range(width * fx):
                sums[x] += source[x]
        for x in range(width):
            total = sums[x * fx]
            for i in range(1, fx):
                total += sums[x * fx + i]
            row[x] = share * total


@compiled
def _slope(result: Floats, flat: Floats, after: int, before: int, share: np.float32) -> None:
    """Difference of two rows of a flat volume that begin at `after` and at `before`."""
    one, other = np.uint64(after), np.uint64(before)
    for x in range(np.uint64(len(result))):
        result[x] = (flat[one + x] - flat[other + x]) * share


@compiled
def _slope_along(result: Floats, flat: Floats, first: int) -> None:
    """Differences along a row: central, one-sided at its ends."""
    here, width = np.uint64(first), np.uint64(len(result))
    if width < np.uint64(2):
        return
    one = np.uint64(1)
    for x in range(one, width - one):
        result[x] = (flat[here + x + one] - flat[here + x - one]) * np.float32(0.5)
    last = width - one
    result[0], result[last] = flat[here + one] - flat[here], flat[here + last] - flat[here + last - one]


@compiled
def determinants(start: int, stop: int, result: Floats, field: Floats) -> None:
    """Rows start to stop of the Jacobian determinant (D, H, W) of ``x -> x + u(x)``: central differences, one-sided on the border.

    A field of two components is one of two axes, D = 1.
    """
    components, depth, height, width = field.shape
    flat, one = field.reshape(-1), np.float32(1.0)
    slopes = np.zeros((3, 3, width), np.float32)
    for line in range(start, stop):
        z, y = line // height, line % height
        above, below = min(z + 1, depth - 1), max(z - 1, 0)
        behind, before = min(y + 1, height - 1), max(y - 1, 0)
        share_z, share_y = one / np.float32(max(above - below, 1)), one / np.float32(max(behind - before, 1))
        for k in range(components):
            plane, own = k * depth, slopes[3 - components + k]
            _slope(own[0], flat, ((plane + above) * height + y) * width, ((plane + below) * height + y) * width, share_z)
            _slope(own[1], flat, ((plane + z) * height + behind) * width, ((plane + z) * height + before) * width, share_y)
            _slope_along(own[2], flat, ((plane + z) * height + y) * width)
        of_z, of_y, of_x, row = slopes[0], slopes[1], slopes[2], result[z, y]
        for x in range(np.uint64(width)):
            a, e, i = one + of_z[0, x], one + of_y[1, x], one + of_x[2, x]
            b, c, d, f, g, h = of_z[1, x], of_z[2, x], of_y[0, x], of_y[2, x], of_x[0, x], of_x[1, x]
            row[x] = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
