"""Local correlation and its gradient in one sweep over the volume: every image is read once, every window sum is a running sum.

Planes enter one after the other. The products of a row are summed along x (short rows in cache, whole vectors at a time), then along y and z by adding
the row or plane that enters the window and taking away the one that leaves. As soon as a plane of windows is complete its scores are turned into the three
coefficients of the gradient, which are summed the same way half a window behind. What is kept is a few planes, never a volume.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Radii = tuple[int, int, int]


@compiled
def _sum_along_row(padded: Floats, result: Floats, radius: int) -> None:
    """Sums of ``2 radius + 1`` neighbours: padded (Q, W + 2 radius), result (Q, W)."""
    width = result.shape[1]
    for q in range(result.shape[0]):
        target = result[q]
        if radius == 0:
            target[:] = padded[q]
            continue
        one, two, three = padded[q, :width], padded[q, 1 : width + 1], padded[q, 2 : width + 2]
        for x in range(width):
            target[x] = one[x] + two[x] + three[x]
        for k in range(3, 2 * radius + 1, 2):
            one, two = padded[q, k : k + width], padded[q, k + 1 : k + 1 + width]
            for x in range(width):
                target[x] += one[x] + two[x]


@compiled
def _move_window(column: Floats, rows: Floats, entering: Floats, enters: bool) -> None:
    """Running sum of rows: `rows` (Q, W) holds the row that leaves and takes the one that enters."""
    for q in range(column.shape[0]):
        total, old, new = column[q], rows[q], entering[q]
        if enters:
            for x in range(total.shape[0]):
                total[x] += new[x] - old[x]
                old[x] = new[x]
        else:
            for x in range(total.shape[0]):
                total[x] -= old[x]
                old[x] = np.float32(0.0)


@compiled
def _warped_products(padded: Floats, fixed: Floats, warped: Floats, mask: Floats, radius: int, offsets: tuple[np.float32, np.float32]) -> None:
    """Warped, its square and its product with fixed, of one row, into the middle of `padded` (3, W + 2 radius)."""
    width = fixed.shape[0]
    one, square, product = padded[0, radius : radius + width], padded[1, radius : radius + width], padded[2, radius : radius + width]
    of_fixed, of_warped = offsets
    if mask.shape[0] == 0:
        for x in range(width):
            value = warped[x] - of_warped
            one[x] = value
            square[x] = value * value
            product[x] = value * (fixed[x] - of_fixed)
        return
    for x in range(width):
        # chosen, not multiplied: what the mask leaves out may be NaN
        value = warped[x] - of_warped if mask[x] > 0 else np.float32(0.0)
        other = fixed[x] - of_fixed if mask[x] > 0 else np.float32(0.0)
        one[x] = value
        square[x] = value * value
        product[x] = value * other


@compiled
def _coefficients(
    padded: Floats,
    sums: Floats,
    mean_fixed: Floats,
    inverse_fixed: Floats,
    inverse_count: Floats,
    radius: int,
    floor: np.float32,
    flat: np.float32,
    signed: bool,
) -> float:
    """Scores of one row of windows: their sum is returned, the coefficients of the gradient go into `padded` (3, W + 2 radius)."""
    width = mean_fixed.shape[0]
    on_fixed, on_warped, constant = padded[0, radius : radius + width], padded[1, radius : radius + width], padded[2, radius : radius + width]
    sum_warped, sum_square, sum_product = sums[0], sums[1], sums[2]
    total = np.float32(0.0)
    for x in range(width):
        mean = sum_warped[x] * inverse_count[x]
        cross = sum_product[x] - sum_warped[x] * mean_fixed[x]
        variance = sum_square[x] - sum_warped[x] * mean
        # selected by arithmetic on purpose: a branch would keep the loop from using vectors
        inverse_warped = np.float32(1.0) / max(variance, floor)
        inverse = inverse_fixed[x] * inverse_warped * np.float32(variance > flat * sum_square[x])
        a = np.sqrt(inverse) if signed else cross * inverse
        score = cross * a
        b = score * inverse_warped * np.float32(variance > floor)
        total += score
        on_fixed[x] = a
        on_warped[x] = b
        constant[x] = a * mean_fixed[x] - b * mean
    return float(total)


@compiled
def _write_gradient(
    result: Floats, sums: Floats, fixed: Floats, warped: Floats, mask: Floats, offsets: tuple[np.float32, np.float32], scale: np.float32
) -> None:
    """One row of the gradient from the windowed sums of the coefficients."""
    on_fixed, on_warped, constant = sums[0], sums[1], sums[2]
    of_fixed, of_warped = offsets
    for x in range(result.shape[0]):
        result[x] = ((fixed[x] - of_fixed) * on_fixed[x] - (warped[x] - of_warped) * on_warped[x] - constant[x]) * scale
    if mask.shape[0]:
        for x in range(result.shape[0]):
            if not mask[x] > 0:
                result[x] = np.float32(0.0)


@compiled
def _fixed_products(padded: Floats, fixed: Floats, mask: Floats, radius: int, offset: np.float32) -> None:
    """Number, value and square of one row, into the middle of `padded` (3, W + 2 radius)."""
    width = fixed.shape[0]
    number, one, square = padded[0, radius : radius + width], padded[1, radius : radius + width], padded[2, radius : radius + width]
    for x in range(width):
        inside = mask.shape[0] == 0 or mask[x] > 0
        value = fixed[x] - offset if inside else np.float32(0.0)
        number[x] = np.float32(inside)
        one[x] = value
        square[x] = value * value


@compiled
def statistics(
    start: int,
    stop: int,
    mean: Floats,
    inverse: Floats,
    inverse_count: Floats,
    fixed: Floats,
    mask: Floats,
    radii: Radii,
    offset: np.float32,
    floor: np.float32,
    flat: np.float32,
) -> None:
    """Planes start to stop of what :func:`sweep` needs to know of the fixed image; see there."""
    depth, height, width = fixed.shape
    rz, ry, rx = radii
    rings, totals = np.zeros((2 * rz + 1, height, 3, width), np.float32), np.zeros((height, 3, width), np.float32)
    padded, summed = np.zeros((3, width + 2 * rx), np.float32), np.zeros((3, width), np.float32)
    rows, column = np.zeros((2 * ry + 1, 3, width), np.float32), np.zeros((3, width), np.float32)
    no_mask = np.empty(0, np.float32)
    for plane in range(start - rz, stop + rz):
        ring = rings[plane % (2 * rz + 1)]
        rows[:] = 0
        column[:] = 0
        inside = 0 <= plane < depth
        for y in range(height + ry if inside else 0):
            if y < height:
                _fixed_products(padded, fixed[plane, y], mask[plane, y] if mask.shape[0] else no_mask, rx, offset)
                _sum_along_row(padded, summed, rx)
            _move_window(column, rows[y % (2 * ry + 1)], summed, y < height)
            if y >= ry:
                _move_window(totals[y - ry], ring[y - ry], column, True)
        if not inside:
            for y in range(height):
                _move_window(totals[y], ring[y], column, False)
        z = plane - rz
        for y in range(height if z >= start else 0):
            number, one, square = totals[y, 0], totals[y, 1], totals[y, 2]
            for x in range(width):
                share = np.float32(1.0) / max(number[x], np.float32(1.0))
                variance = square[x] - one[x] * one[x] * share
                scored = variance > flat * square[x] and (mask.shape[0] == 0 or mask[z, y, x] > 0)
                mean[z, y, x] = one[x] * share
                inverse[z, y, x] = np.float32(1.0) / max(variance, floor) if scored else np.float32(0.0)
                if inverse_count.shape[0]:
                    inverse_count[z, y, x] = share


@compiled
def sweep(
    start: int,
    stop: int,
    gradient: Floats,
    scores: Doubles,
    fixed: Floats,
    warped: Floats,
    mask: Floats,
    mean_fixed: Floats,
    inverse_fixed: Floats,
    inverse_count: Floats,
    counts: tuple[Floats, Floats, Floats],
    radii: Radii,
    offsets: tuple[np.float32, np.float32],
    floor: np.float32,
    flat: np.float32,
    scale: np.float32,
    signed: bool,
) -> None:
    """Planes start to stop of the gradient (D, H, W), and the sum of the scores of each of these planes.

    Parameters
    ----------
    mask, inverse_count
        (D, H, W), or empty: then every voxel counts, and `counts` holds the inverse number of voxels of a window per axis.
    mean_fixed, inverse_fixed
        Mean of the fixed image in every window, and one over its floored sum of squares about it (0 where the window is not scored).
    offsets
        Subtracted from fixed and warped on reading, so that sums of squares keep their digits.
    floor, flat
        Smallest sum of squares about the mean, and the share of the sum of squares below which it is rounding.
    scale
        Of the gradient: 2 over the number of windows, 1 if `signed`.
    signed
        Score the correlation itself, not its square.
    """
    depth, height, width = fixed.shape
    rz, ry, rx = radii
    product_ring, coefficient_ring = np.zeros((2 * rz + 1, height, 3, width), np.float32), np.zeros((2 * rz + 1, height, 3, width), np.float32)
    products, coefficients = np.zeros((height, 3, width), np.float32), np.zeros((height, 3, width), np.float32)
    padded, summed = np.zeros((3, width + 2 * rx), np.float32), np.zeros((3, width), np.float32)
    rows, column = np.zeros((2 * ry + 1, 3, width), np.float32), np.zeros((3, width), np.float32)
    count_row = np.empty(width, np.float32)
    no_mask = np.empty(0, np.float32)
    for plane in range(start - 2 * rz, stop + 2 * rz):
        ring = product_ring[plane % (2 * rz + 1)]
        inside = 0 <= plane < depth
        rows[:] = 0
        column[:] = 0
        for y in range(height + ry if inside else 0):
            if y < height:
                _warped_products(padded, fixed[plane, y], warped[plane, y], mask[plane, y] if mask.shape[0] else no_mask, rx, offsets)
                _sum_along_row(padded, summed, rx)
            _move_window(column, rows[y % (2 * ry + 1)], summed, y < height)
            if y >= ry:
                _move_window(products[y - ry], ring[y - ry], column, True)
        if not inside:
            for y in range(height):
                _move_window(products[y], ring[y], column, False)
        centre = plane - rz
        if centre < start - rz:
            continue
        ring = coefficient_ring[centre % (2 * rz + 1)]
        inside = 0 <= centre < depth
        rows[:] = 0
        column[:] = 0
        total = 0.0
        for y in range(height + ry if inside else 0):
            if y < height:
                if inverse_count.shape[0]:
                    row = inverse_count[centre, y]
                else:
                    factor = counts[0][centre] * counts[1][y]
                    for x in range(width):
                        count_row[x] = counts[2][x] * factor
                    row = count_row
                total += _coefficients(padded, products[y], mean_fixed[centre, y], inverse_fixed[centre, y], row, rx, floor, flat, signed)
                _sum_along_row(padded, summed, rx)
            _move_window(column, rows[y % (2 * ry + 1)], summed, y < height)
            if y >= ry:
                _move_window(coefficients[y - ry], ring[y - ry], column, True)
        if not inside:
            for y in range(height):
                _move_window(coefficients[y], ring[y], column, False)
        if start <= centre < stop:
            scores[centre] = total
        done = centre - rz
        if done >= start:
            for y in range(height):
                _write_gradient(
                    gradient[done, y], coefficients[y], fixed[done, y], warped[done, y], mask[done, y] if mask.shape[0] else no_mask, offsets, scale
                )
