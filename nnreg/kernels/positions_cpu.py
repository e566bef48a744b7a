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
def _corner(position: float, size: int) -> tuple[int, int, float]:
    """Lower and upper neighbour along one axis, and the weight of the upper one; a size of 0 says that the position is outside."""
    # written so that NaN fails the comparison
    if not (position >= -INSIDE and position <= size - 1 + INSIDE):
        return NOWHERE, NOWHERE, 0.0
    inside = min(max(position, 0.0), size - 1.0)
    lower = min(int(inside), max(size - 2, 0))
    return lower, min(lower + 1, size - 1), inside - lower


@njit(nogil=True, inline="always")
def _between(u: Floats, z0: int, z1: int, wz: float, y0: int, y1: int, wy: float, x0: int, x1: int, wx: float) -> float:
    """Value of a volume (D, H, W) between eight neighbours, by the weights of the upper ones."""
    near = (1 - wy) * ((1 - wx) * u[z0, y0, x0] + wx * u[z0, y0, x1]) + wy * ((1 - wx) * u[z0, y1, x0] + wx * u[z0, y1, x1])
    far = (1 - wy) * ((1 - wx) * u[z1, y0, x0] + wx * u[z1, y0, x1]) + wy * ((1 - wx) * u[z1, y1, x0] + wx * u[z1, y1, x1])
    return (1 - wz) * near + wz * far


@compiled
def displace(start: int, stop: int, positions: Doubles, field: Floats) -> None:
    """Add to columns start to stop the field (2 or 3, D, H, W) there, linear between its voxels, nothing outside its grid."""
    components, depth, height, width = field.shape
    for i in range(start, stop):
        z0, z1, wz = _corner(positions[0, i], depth)
        y0, y1, wy = _corner(positions[1, i], height)
        x0, x1, wx = _corner(positions[2, i], width)
        if z0 < 0 or y0 < 0 or x0 < 0:
            continue
        for k in range(components):
            positions[3 - components + k, i] += _between(field[k], z0, z1, wz, y0, y1, wy, x0, x1, wx)


@compiled
def values(start: int, stop: int, result: Floats, image: Floats, positions: Doubles, outside: np.float32) -> None:
    """Columns start to stop of the values (C, N) of an image (C, D, H, W), linear between its voxels."""
    channels, depth, height, width = image.shape
    for i in range(start, stop):
        z0, z1, wz = _corner(positions[0, i], depth)
        y0, y1, wy = _corner(positions[1, i], height)
        x0, x1, wx = _corner(positions[2, i], width)
        if z0 < 0 or y0 < 0 or x0 < 0:
            for c in range(channels):
                result[c, i] = outside
            continue
        for c in range(channels):
            result[c, i] = _between(image[c], z0, z1, wz, y0, y1, wy, x0, x1, wx)


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
