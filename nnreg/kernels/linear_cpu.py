"""Compiled loops of linear alignment: sample under a matrix, gather the gradient with respect to the matrix, joint histograms.

Sums are kept per plane, so that they do not depend on how planes are shared among threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


@compiled
def _lower(position: np.float64, size: int) -> tuple[int, np.float32]:
    """Lower neighbour and weight of the upper one, clamped to the grid."""
    if not position > 0.0 or size == 1:
        return 0, np.float32(0.0)
    if position >= size - 1:
        return size - 2, np.float32(1.0)
    first = int(position)
    return first, np.float32(position - first)


@compiled
def sample(start: int, stop: int, result: Floats, valid: Floats, image: Floats, mask: Floats, allowed: Floats, matrix: Doubles) -> None:
    """Planes start to stop of ``image(matrix x)`` and of how far each sample is in view.

    Parameters
    ----------
    result : (C, D', H', W')
    valid : (D', H', W')
        1 inside the moving grid and both masks, fading to 0 over one voxel outside the grid, so that whole planes of samples do not vanish at once.
    image : (C, D, H, W)
    mask : (D, H, W) or empty
    allowed : (D', H', W') or empty
    matrix : (3, 4), from indices of `result` to indices of `image`
    """
    channels, depth, height, width = image.shape
    for z in range(start, stop):
        for y in range(result.shape[2]):
            for x in range(result.shape[3]):
                pz = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x + matrix[0, 3]
                py = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x + matrix[1, 3]
                px = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x + matrix[2, 3]
                beyond = max(max(max(-pz, pz - (depth - 1)), max(-py, py - (height - 1))), max(max(-px, px - (width - 1)), 0.0))
                weight = np.float32(max(1.0 - beyond, 0.0))
                if allowed.shape[0]:
                    weight *= allowed[z, y, x]
                z0, uz = _lower(pz, depth)
                y0, uy = _lower(py, height)
                x0, ux = _lower(px, width)
                z1, y1, x1 = min(z0 + 1, depth - 1), min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                if mask.shape[0] and mask[z1 if uz > 0.5 else z0, y1 if uy > 0.5 else y0, x1 if ux > 0.5 else x0] < 0.5:
                    weight = np.float32(0.0)
                valid[z, y, x] = weight
                for c in range(channels):
                    volume = image[c]
                    near = volume[z0, y0, x0] + ux * (volume[z0, y0, x1] - volume[z0, y0, x0])
                    far = volume[z0, y1, x0] + ux * (volume[z0, y1, x1] - volume[z0, y1, x0])
                    front = near + uy * (far - near)
                    near = volume[z1, y0, x0] + ux * (volume[z1, y0, x1] - volume[z1, y0, x0])
                    far = volume[z1, y1, x0] + ux * (volume[z1, y1, x1] - volume[z1, y1, x0])
                    back = near + uy * (far - near)
                    result[c, z, y, x] = front + uz * (back - front)


@compiled
def on_matrix(start: int, stop: int, sums: Doubles, gradient: Floats, image: Floats, matrix: Doubles) -> None:
    """Planes start to stop of the derivative with respect to `matrix`: sums (D', 12), gradient (C, D', H', W') with respect to the samples."""
    channels, depth, height, width = image.shape
    for z in range(start, stop):
        total = sums[z]
        for y in range(gradient.shape[2]):
            # along a row only the last index changes: plain and index-weighted sums are enough
            plain_z = plain_y = plain_x = weighted_z = weighted_y = weighted_x = 0.0
            for x in range(gradient.shape[3]):
                pz = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x + matrix[0, 3]
                py = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x + matrix[1, 3]
                px = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x + matrix[2, 3]
                z0, uz = _lower(pz, depth)
                y0, uy = _lower(py, height)
                x0, ux = _lower(px, width)
                z1, y1, x1 = min(z0 + 1, depth - 1), min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                # clamped positions do not move with the matrix
                free_z, free_y, free_x = 0.0 < pz < depth - 1, 0.0 < py < height - 1, 0.0 < px < width - 1
                slope_z = slope_y = slope_x = np.float32(0.0)
                for c in range(channels):
                    g = gradient[c, z, y, x]
                    if g == 0:
                        continue
                    volume = image[c]
                    v000, v001, v010, v011 = volume[z0, y0, x0], volume[z0, y0, x1], volume[z0, y1, x0], volume[z0, y1, x1]
                    v100, v101, v110, v111 = volume[z1, y0, x0], volume[z1, y0, x1], volume[z1, y1, x0], volume[z1, y1, x1]
                    near, far = v000 + ux * (v001 - v000), v010 + ux * (v011 - v010)
                    front = near + uy * (far - near)
                    near_back, far_back = v100 + ux * (v101 - v100), v110 + ux * (v111 - v110)
                    back = near_back + uy * (far_back - near_back)
                    slope_z += g * (back - front)
                    slope_y += g * ((far - near) + uz * ((far_back - near_back) - (far - near)))
                    lower = (v001 - v000) + uy * ((v011 - v010) - (v001 - v000))
                    upper = (v101 - v100) + uy * ((v111 - v110) - (v101 - v100))
                    slope_x += g * (lower + uz * (upper - lower))
                if free_z:
                    plain_z += slope_z
                    weighted_z += slope_z * x
                if free_y:
                    plain_y += slope_y
                    weighted_y += slope_y * x
                if free_x:
                    plain_x += slope_x
                    weighted_x += slope_x * x
            for axis in range(3):
                plain = plain_z if axis == 0 else plain_y if axis == 1 else plain_x
                total[4 * axis] += plain * z
                total[4 * axis + 1] += plain * y
                total[4 * axis + 2] += weighted_z if axis == 0 else weighted_y if axis == 1 else weighted_x
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
