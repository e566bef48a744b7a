"""Compiled loops of linear alignment: sample under a matrix, gather the gradient with respect to the matrix, joint histograms.

Sums are kept per plane, so that they do not depend on how planes are shared among threads.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Bytes, Doubles, Floats, ShortIntegers
from nnreg.kernels.compiled import compiled
from nnreg.kernels.field_cpu import _locate, _steps


@compiled
def _positions(position: Floats, matrix: Floats, axis: int, z: int, y: int) -> None:
    """Positions along `axis` of a row of samples under a matrix (3, 4)."""
    start = matrix[axis, 0] * np.float32(z) + matrix[axis, 1] * np.float32(y) + matrix[axis, 3]
    step = matrix[axis, 2]
    for x in range(position.shape[0]):
        position[x] = start + step * np.float32(x)


@compiled
def in_view(start: int, stop: int, valid: Floats, mask: Floats, allowed: Floats, shape: tuple[int, int, int], matrix: Floats) -> None:
    """Planes start to stop of how far each sample under `matrix` is in view of a grid of `shape`.

    Parameters
    ----------
    valid : (D', H', W')
        1 inside the moving grid and both masks, fading to 0 over one voxel outside the grid, so that whole planes of samples do not vanish at once.
    mask : (D, H, W) or empty, of the moving image
    allowed : (D', H', W') or empty, of the fixed image
    matrix : (3, 4), from indices of `valid` to indices of `mask`
    """
    depth, height, width = shape
    count = valid.shape[2]
    along_z, along_y, along_x = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    zero, one, half = np.float32(0.0), np.float32(1.0), np.float32(0.5)
    for z in range(start, stop):
        for y in range(valid.shape[1]):
            row = valid[z, y]
            _positions(along_z, matrix, 0, z, y)
            _positions(along_y, matrix, 1, z, y)
            _positions(along_x, matrix, 2, z, y)
            for x in range(count):
                pz, py, px = along_z[x], along_y[x], along_x[x]
                beyond_z, beyond_y, beyond_x = max(-pz, pz - np.float32(depth - 1)), max(-py, py - np.float32(height - 1)), max(-px, px - np.float32(width - 1))
                row[x] = max(one - max(max(beyond_z, beyond_y), max(beyond_x, zero)), zero)
            if allowed.shape[0]:
                for x in range(count):
                    row[x] *= allowed[z, y, x]
            if mask.shape[0]:
                for x in range(count):
                    if row[x] > 0:
                        near_z, near_y, near_x = int(along_z[x] + half), int(along_y[x] + half), int(along_x[x] + half)
                        if mask[min(max(near_z, 0), depth - 1), min(max(near_y, 0), height - 1), min(max(near_x, 0), width - 1)] < half:
                            row[x] = zero


@compiled
def _slopes(slopes: Floats, factor: Floats, flat: Floats, base: ShortIntegers, weights: Floats, steps: tuple[np.uint64, np.uint64, np.uint64]) -> None:
    """Add ``factor`` times the derivatives along z, y and x of a trilinear sample to slopes (3, W)."""
    step_z, step_y, step_x = steps
    along_z, along_y, along_x = weights[0], weights[1], weights[2]
    on_z, on_y, on_x = slopes[0], slopes[1], slopes[2]
    for x in range(factor.shape[0]):
        near = np.uint64(base[x])
        far = near + step_y
        behind, behind_far = near + step_z, far + step_z
        wz, wy, wx, g = along_z[x], along_y[x], along_x[x], factor[x]
        v000, v010, v100, v110 = flat[near], flat[far], flat[behind], flat[behind_far]
        d00, d01 = flat[near + step_x] - v000, flat[far + step_x] - v010
        d10, d11 = flat[behind + step_x] - v100, flat[behind_far + step_x] - v110
        v00, v01, v10, v11 = v000 + wx * d00, v010 + wx * d01, v100 + wx * d10, v110 + wx * d11
        lower, upper = d00 + wy * (d01 - d00), d10 + wy * (d11 - d10)
        on_x[x] += g * (lower + wz * (upper - lower))
        lower, upper = v01 - v00, v11 - v10
        on_y[x] += g * (lower + wz * (upper - lower))
        on_z[x] += g * (v10 + wy * (v11 - v10) - v00 - wy * (v01 - v00))


@compiled
def on_matrix(start: int, stop: int, sums: Doubles, gradient: Floats, image: Floats, matrix: Floats) -> None:
    """Planes start to stop of the derivative with respect to `matrix`: sums (D', 12), gradient (C, D', H', W') with respect to the samples."""
    channels, depth, height, width = image.shape
    flat = image.reshape(channels, depth * height * width)
    steps = _steps((depth, height, width))
    count = gradient.shape[3]
    base, weights = np.empty(count, np.int32), np.empty((3, count), np.float32)
    position, slopes = np.empty((3, count), np.float32), np.empty((3, count), np.float32)
    for z in range(start, stop):
        total = sums[z]
        for y in range(gradient.shape[2]):
            base[:] = 0
            for axis in range(3):
                _positions(position[axis], matrix, axis, z, y)
                _locate(base, weights[axis], position[axis], count, depth if axis == 0 else height if axis == 1 else width)
            slopes[:] = 0
            for channel in range(channels):
                _slopes(slopes, gradient[channel, z, y], flat[channel], base, weights, steps)
            for axis in range(3):
                # along a row only the last index changes: a plain and an index-weighted sum are enough
                top = np.float32((depth if axis == 0 else height if axis == 1 else width) - 1)
                plain, weighted = np.float32(0.0), np.float32(0.0)
                slope, along = slopes[axis], position[axis]
                for x in range(count):
                    # clamped positions do not move with the matrix
                    value = slope[x] * np.float32((along[x] > 0) & (along[x] < top))
                    plain += value
                    weighted += value * np.float32(x)
                total[4 * axis] += plain * z
                total[4 * axis + 1] += plain * y
                total[4 * axis + 2] += weighted
                total[4 * axis + 3] += plain


@compiled
def joint_histogram(start: int, stop: int, histograms: Doubles, fixed_bins: Bytes, warped: Floats, valid: Floats, bins: int) -> None:
    """Planes start to stop of joint histograms (D, bins, bins + 3): fixed bins whole, warped in [0, 1] spread over four bins by a cubic B-spline."""
    sixth = np.float32(1 / 6)
    for z in range(start, stop):
        histogram = histograms[z]
        for y in range(warped.shape[1]):
            for x in range(warped.shape[2]):
                weight = valid[z, y, x]
                if weight > 0:
                    position = warped[z, y, x] * np.float32(bins - 1)
                    base = int(position)
                    u = position - np.float32(base)
                    v = np.float32(1.0) - u
                    row = histogram[fixed_bins[z, y, x]]
                    row[base] += weight * v * v * v * sixth
                    row[base + 1] += weight * (4 - 6 * u * u + 3 * u * u * u) * sixth
                    row[base + 2] += weight * (4 - 6 * v * v + 3 * v * v * v) * sixth
                    row[base + 3] += weight * u * u * u * sixth


@compiled
def histogram_slope(start: int, stop: int, gradient: Floats, table: Floats, fixed_bins: Bytes, warped: Floats, valid: Floats, bins: int) -> None:
    """Planes start to stop of the derivative with respect to `warped` of a function of the joint histogram whose derivative by each bin is `table`."""
    half = np.float32(0.5)
    scale = np.float32(bins - 1)
    for z in range(start, stop):
        for y in range(warped.shape[1]):
            for x in range(warped.shape[2]):
                weight = valid[z, y, x]
                slope = np.float32(0.0)
                if weight > 0:
                    position = warped[z, y, x] * scale
                    base = int(position)
                    u = position - np.float32(base)
                    v = np.float32(1.0) - u
                    row = table[fixed_bins[z, y, x]]
                    slope = row[base + 3] * half * u * u - row[base] * half * v * v
                    slope += row[base + 1] * (np.float32(1.5) * u * u - 2 * u) + row[base + 2] * (2 * v - np.float32(1.5) * v * v)
                gradient[z, y, x] = slope * weight * scale
