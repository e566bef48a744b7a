"""Compiled loops over lists of positions: where voxels lie, displacement by a field, values of an image.

Positions are (3, N) float64, indices of a grid along z, y and x; an image of two axes is one slice at z = 0. ITK's rule holds at borders: up to half a voxel
past the outermost centres the border's value, beyond that nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from nnreg.arrays import Doubles, Floats
from nnreg.kernels.compiled import compiled
from nnreg.kernels.field_cpu import Steps, _steps

# no fast mathematics: a value must not depend on whether threads leave a row whole, so sums are taken in one order
exact = njit(nogil=True, error_model="numpy", cache=True)
INSIDE = 0.5 + 1e-4
NOWHERE = -1


@compiled
def place(start: int, stop: int, result: Doubles, first: int, shape: tuple[int, int, int], matrix: Doubles) -> None:
    """Columns start to stop of ``matrix index``, for the voxels of a grid of `shape` counted from `first`; matrix (3, 4)."""
    _, height, width = shape
    i = start
    while i < stop:
        row, x0 = (first + i) // width, (first + i) % width
        count, z, y = min(width - x0, stop - i), np.float64(row // height), np.float64(row % height)
        for axis in range(3):
            start_of_row = matrix[axis, 0] * z + matrix[axis, 1] * y + matrix[axis, 3]
            for x in range(count):
                result[axis, i + x] = start_of_row + matrix[axis, 2] * np.float64(x0 + x)
        i += count


@compiled
def apply(start: int, stop: int, positions: Doubles, matrix: Doubles) -> None:
    """Replace columns start to stop by ``matrix position``; matrix (3, 4)."""
    for i in range(start, stop):
        z, y, x = positions[0, i], positions[1, i], positions[2, i]
        for axis in range(3):
            positions[axis, i] = matrix[axis, 0] * z + matrix[axis, 1] * y + matrix[axis, 2] * x + matrix[axis, 3]


@compiled
def _corner(position: float, size: int) -> tuple[int, float]:
    """Lower neighbour along one axis, NOWHERE for a position outside, and the weight of the upper one."""
    # written so that NaN fails the comparison
    if not (position >= -INSIDE and position <= size - 1 + INSIDE):
        return NOWHERE, 0.0
    inside = min(max(position, 0.0), size - 1.0)
    lower = min(int(inside), max(size - 2, 0))
    return lower, inside - lower


@njit(nogil=True, inline="always")
def _between(flat: Floats, near: np.uint64, steps: Steps, wz: float, wy: float, wx: float) -> float:
    """Value of a flat volume between `near` and the voxels after it, by the weights of those.

    Indices without a sign: of signed ones each load would first look whether it counts from the end. In the order of :func:`_mix` and what follows it, so
    that a value does not depend on how threads cut the positions.
    """
    return (1 - wx) * _across(flat, near, steps, wz, wy) + wx * _across(flat, near + steps[2], steps, wz, wy)


@njit(nogil=True, inline="always")
def _across(flat: Floats, near: np.uint64, steps: Steps, wz: float, wy: float) -> float:
    """Value between `near` and its neighbours along z and y."""
    over, far = near + steps[1], near + steps[0]
    front = (1 - wy) * flat[near] + wy * flat[over]
    return (1 - wz) * front + wz * ((1 - wy) * flat[far] + wy * flat[far + steps[1]])


@compiled
def _along_a_row(positions: Doubles, start: int, stop: int) -> int:
    """One past the last of the columns from `start` on that lie on one line along x."""
    z, y, after = positions[0, start], positions[1, start], start + 1
    while after < stop and positions[0, after] == z and positions[1, after] == y:
        after += 1
    return after


@exact
def _mix(line: Doubles, flat: Floats, first: int, steps: Steps, wz: float, wy: float) -> None:
    """The row (W,) of a flat volume between the rows from `first` on and those after it, by the weights of these."""
    near = np.uint64(first)
    for x in range(np.uint64(len(line))):
        line[x] = _across(flat, near + x, steps, wz, wy)


@compiled
def _in_rows(positions: Doubles, start: int, stop: int, width: int) -> bool:
    """Whether columns start to stop lie on lines along x, each of them at least half of `width` voxels: one of the first two is whole."""
    first = _along_a_row(positions, start, stop) if start < stop else start
    second = _along_a_row(positions, first, stop) if first < stop else first
    return 2 * max(first - start, second - first) >= width


@exact
def displace(start: int, stop: int, positions: Doubles, field: Floats) -> None:
    """Add to columns start to stop the field (2 or 3, D, H, W) there, linear between its voxels, nothing outside its grid."""
    components, depth, height, width = field.shape
    flat, size, steps = field.reshape(-1), np.uint64(depth * height * width), _steps((depth, height, width))
    if _in_rows(positions, start, stop, width):
        line, first = np.zeros((components, width)), start
        while first < stop:
            after = _along_a_row(positions, first, stop)
            z, wz = _corner(positions[0, first], depth)
            y, wy = _corner(positions[1, first], height)
            for k in range(components if z >= 0 and y >= 0 else 0):
                _mix(line[k], flat, ((k * depth + z) * height + y) * width, steps, wz, wy)
            for i in range(np.uint64(first), np.uint64(after if z >= 0 and y >= 0 else first)):
                x, wx = _corner(positions[2, i], width)
                for k in range(components if x >= 0 else 0):
                    positions[3 - components + k, i] += (1 - wx) * line[k, np.uint64(x)] + wx * line[k, np.uint64(x) + steps[2]]
            first = after
        return
    for i in range(np.uint64(start), np.uint64(stop)):
        z, wz = _corner(positions[0, i], depth)
        y, wy = _corner(positions[1, i], height)
        x, wx = _corner(positions[2, i], width)
        if z < 0 or y < 0 or x < 0:
            continue
        near = np.uint64((z * height + y) * width + x)
        for k in range(components):
            positions[3 - components + k, i] += _between(flat, near + np.uint64(k) * size, steps, wz, wy, wx)


@exact
def values(start: int, stop: int, result: Floats, image: Floats, positions: Doubles, outside: np.float32) -> None:
    """Columns start to stop of the values (C, N) of an image (C, D, H, W), linear between its voxels."""
    channels, depth, height, width = image.shape
    flat, size, steps = image.reshape(-1), np.uint64(depth * height * width), _steps((depth, height, width))
    if _in_rows(positions, start, stop, width):
        line, first = np.zeros(width), start
        while first < stop:
            after = _along_a_row(positions, first, stop)
            z, wz = _corner(positions[0, first], depth)
            y, wy = _corner(positions[1, first], height)
            seen = z >= 0 and y >= 0
            for c in range(channels):
                if seen:
                    _mix(line, flat, ((c * depth + z) * height + y) * width, steps, wz, wy)
                for i in range(np.uint64(first), np.uint64(after)):
                    x, wx = _corner(positions[2, i], width)
                    result[c, i] = (1 - wx) * line[np.uint64(x)] + wx * line[np.uint64(x) + steps[2]] if seen and x >= 0 else outside
            first = after
        return
    for i in range(np.uint64(start), np.uint64(stop)):
        z, wz = _corner(positions[0, i], depth)
        y, wy = _corner(positions[1, i], height)
        x, wx = _corner(positions[2, i], width)
        if z < 0 or y < 0 or x < 0:
            for c in range(channels):
                result[c, i] = outside
            continue
        near = np.uint64((z * height + y) * width + x)
        for c in range(channels):
            result[c, i] = _between(flat, near + np.uint64(c) * size, steps, wz, wy, wx)


@compiled
def nearest(start: int, stop: int, result: npt.NDArray[np.int64], shape: tuple[int, int, int], positions: Doubles) -> None:
    """Columns start to stop of the flat index (N,) of the nearest voxel, halves rounded up as ITK does; NOWHERE outside."""
    depth, height, width = shape
    for i in range(start, stop):
        result[i] = NOWHERE
        z, y, x = positions[0, i], positions[1, i], positions[2, i]
        if not (-INSIDE <= z <= depth - 1 + INSIDE and -INSIDE <= y <= height - 1 + INSIDE and -INSIDE <= x <= width - 1 + INSIDE):
            continue
        iz = min(max(int(np.floor(z + 0.5)), 0), depth - 1)
        iy = min(max(int(np.floor(y + 0.5)), 0), height - 1)
        ix = min(max(int(np.floor(x + 0.5)), 0), width - 1)
        result[i] = (iz * height + iy) * width + ix
