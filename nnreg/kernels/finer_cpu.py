"""Compiled loops between a field and images on a grid of more voxels: what a field is between its voxels, and forces gathered over blocks.

Along each axis `factor` voxels of the images make up one of the field, the first of them the voxel `start`. Images may have voxels beyond the blocks.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats, ShortIntegers
from nnreg.kernels.compiled import compiled

Axes = tuple[int, int, int]


@compiled
def place_between(lower: ShortIntegers, weight: Floats, factor: int, start: int, size: int) -> None:
    """Of each voxel along an axis the lower of the two voxels of the field around it, of `size`, and the weight of the upper one."""
    for i in range(lower.shape[0]):
        position = (np.float32(i - start) - np.float32(0.5) * np.float32(factor - 1)) / np.float32(factor)
        position = min(max(position, np.float32(0.0)), np.float32(size - 1))
        lower[i] = min(np.int32(position), np.int32(max(size - 2, 0)))
        weight[i] = position - np.float32(lower[i])


@compiled
def mix_rows(line: Floats, field: Floats, first: int, steps: tuple[int, int], along_z: np.float32, along_y: np.float32, scale: np.float32, width: int) -> None:
    """The row (W + 1, its last value twice) between four rows of a flat field, the first from `first` on, times `scale`."""
    near, far = np.uint64(first), np.uint64(first + steps[1])
    back, behind = np.uint64(first + steps[0]), np.uint64(first + steps[0] + steps[1])
    one = np.float32(1.0)
    a, b = scale * (one - along_z) * (one - along_y), scale * (one - along_z) * along_y
    c, d = scale * along_z * (one - along_y), scale * along_z * along_y
    for x in range(np.uint64(width)):
        line[x] = a * field[near + x] + b * field[far + x] + c * field[back + x] + d * field[behind + x]
    line[width] = line[width - 1]


@compiled
def add_between(target: Floats, at: int, line: Floats, lower: ShortIntegers, weight: Floats, first: int, count: int) -> None:
    """Add to ``target[at:]`` what a row is at `count` voxels from `first` on."""
    start, here = np.uint64(at), np.uint64(first)
    for x in range(np.uint64(count)):
        left = np.uint64(lower[here + x])
        value = line[left]
        target[start + x] += value + weight[here + x] * (line[left + np.uint64(1)] - value)


@compiled
def _add_slope(target: Floats, gradient: Floats, warped: Floats, row: int, step: int, skipped: int, count: int) -> None:
    """Add ``gradient (warped after - warped before)`` of `count` voxels of a row, the first `skipped` ones left out."""
    here, before, after, to = np.uint64(row + skipped), np.uint64(row + skipped - step), np.uint64(row + skipped + step), np.uint64(skipped)
    for x in range(np.uint64(count)):
        target[to + x] += gradient[here + x] * (warped[after + x] - warped[before + x])


@compiled
def _some(values: Floats, first: int, count: int) -> bool:
    start, total = np.uint64(first), np.float32(0.0)
    for x in range(np.uint64(count)):
        total += np.abs(values[start + x])
    return total != 0


@compiled
def block_forces(start: int, stop: int, result: Floats, gradient: Floats, warped: Floats, factors: Axes, starts: Axes) -> None:
    """Planes start to stop of the means over blocks of the force ``sum_i gradient_i grad(warped_i)`` on a field, in voxels of the field.

    Parameters
    ----------
    result : (2 or 3, D', H', W')
    gradient, warped : (I, D, H, W)
        Central differences, 0 across a border.
    factors, starts
        Of the blocks, along z, y and x.
    """
    components, _, rows, columns = result.shape
    channels, depth, height, width = warped.shape
    fz, fy, fx = factors
    sz, sy, sx = starts
    flat_gradient, flat_warped = gradient.reshape(-1), warped.reshape(-1)
    sums = np.zeros((3, width), np.float32)
    for plane in range(start, stop):
        for line in range(rows):
            sums[:] = 0
            for part in range(fz * fy * channels):
                channel, z, y = part // (fz * fy), sz + plane * fz + part // fy % fz, sy + line * fy + part % fy
                row = ((channel * depth + z) * height + y) * width
                if not _some(flat_gradient, row, width):
                    continue
                if components == 3 and 0 < z < depth - 1:
                    _add_slope(sums[0], flat_gradient, flat_warped, row, height * width, 0, width)
                if 0 < y < height - 1:
                    _add_slope(sums[1], flat_gradient, flat_warped, row, width, 0, width)
                if width > 2:
                    _add_slope(sums[2], flat_gradient, flat_warped, row, 1, 1, width - 2)
            for k in range(components):
                axis = 3 - components + k
                # half of the difference; a mean; and a voxel of the field is as long as `factor` of the images
                share = np.float32(0.5 / (fz * fy * fx * factors[axis]))
                given, taken = sums[axis], result[k, plane, line]
                for x in range(columns):
                    total = given[sx + x * fx]
                    for i in range(1, fx):
                        total += given[sx + x * fx + i]
                    taken[x] = share * total
