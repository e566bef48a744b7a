"""Local correlation and its gradient in one sweep over the volume: every image is read once, every window sum is a running sum.

Planes enter one after the other. The products of a row are summed along x (short rows in cache, whole vectors at a time), then along y and z by adding
the row or plane that enters the window and taking away the one that leaves. As soon as a plane of windows is complete its scores are turned into the three
coefficients of the gradient, which are summed the same way half a window behind. What is kept is a few planes, never a volume.

Running sums along z are summed anew every AFRESH planes, and parts begin there: so the result is the same for any number of threads, and rounding does not
pile up.

Three quantities travel together, one row of each side by side (3 W values). Rows are named by where they start in a flat array; see
:mod:`nnreg.kernels.smooth_cpu` for why, and why starts are unsigned.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Doubles, Floats, Mask
from nnreg.kernels.compiled import compiled

Radii = tuple[int, int, int]

AFRESH = 16  # planes


@compiled
def _sum_along_rows(padded: Floats, result: Floats, radius: int, width: int) -> None:
    """Sums of ``2 radius + 1`` neighbours of three rows: padded (3 (W + 2 radius)), result (3 W)."""
    count, line = np.uint64(width), width + 2 * radius
    for q in range(3):
        to, first = np.uint64(q * width), np.uint64(q * line)
        if radius == 0:
            for x in range(count):
                result[to + x] = padded[first + x]
            continue
        second, third = first + np.uint64(1), first + np.uint64(2)
        for x in range(count):
            result[to + x] = padded[first + x] + padded[second + x] + padded[third + x]
        for k in range(3, 2 * radius + 1, 2):
            one, two = first + np.uint64(k), first + np.uint64(k + 1)
            for x in range(count):
                result[to + x] += padded[one + x] + padded[two + x]


@compiled
def _move_window(total: Floats, at: int, held: Floats, start: int, entering: Floats, count: int, enters: bool) -> None:
    """Running sum ``total[at:]`` of three rows: ``held[start:]`` is what leaves and takes what enters."""
    here, there = np.uint64(at), np.uint64(start)
    if enters:
        for x in range(np.uint64(count)):
            total[here + x] += entering[x] - held[there + x]
            held[there + x] = entering[x]
    else:
        for x in range(np.uint64(count)):
            total[here + x] -= held[there + x]
            held[there + x] = np.float32(0.0)


@compiled
def _sum_afresh(total: Floats, rings: Floats, span: int) -> None:
    """The sum of all planes that are held, in the order in which they lie."""
    count = np.uint64(total.shape[0])
    for x in range(count):
        total[x] = rings[x]
    for ring in range(1, span):
        first = np.uint64(ring) * count
        for x in range(count):
            total[x] += rings[first + x]


@compiled
def _warped_products(padded: Floats, fixed: Floats, warped: Floats, mask: Mask, row: int, width: int, radius: int, offsets: tuple[np.float32, ...]) -> None:
    """Warped, its square and its product with fixed, of the row from `row` on, into the middle of three padded rows."""
    start, line = np.uint64(row), width + 2 * radius
    one, square, product = np.uint64(radius), np.uint64(line + radius), np.uint64(2 * line + radius)
    of_fixed, of_warped = offsets
    if mask.shape[0] == 0:
        for x in range(np.uint64(width)):
            value = warped[start + x] - of_warped
            padded[one + x] = value
            padded[square + x] = value * value
            padded[product + x] = value * (fixed[start + x] - of_fixed)
        return
    for x in range(np.uint64(width)):
        # chosen, not multiplied: what the mask leaves out may be NaN
        inside = mask[start + x]
        value = warped[start + x] - of_warped if inside else np.float32(0.0)
        other = fixed[start + x] - of_fixed if inside else np.float32(0.0)
        padded[one + x] = value
        padded[square + x] = value * value
        padded[product + x] = value * other


@compiled
def _coefficients(
    padded: Floats,
    sums: Floats,
    at: int,
    mean_fixed: Floats,
    inverse_fixed: Floats,
    row: int,
    inverse_count: Floats,
    count_row: int,
    width: int,
    radius: int,
    floor: np.float32,
    flat: np.float32,
    signed: bool,
) -> float:
    """Scores of the row of windows from `row` on: their sum is returned, the coefficients of the gradient go into three padded rows."""
    start, counted, line = np.uint64(row), np.uint64(count_row), width + 2 * radius
    on_fixed, on_warped, constant = np.uint64(radius), np.uint64(line + radius), np.uint64(2 * line + radius)
    sum_warped, sum_square, sum_product = np.uint64(at), np.uint64(at + width), np.uint64(at + 2 * width)
    total = np.float32(0.0)
    for x in range(np.uint64(width)):
        mean = sums[sum_warped + x] * inverse_count[counted + x]
        cross = sums[sum_product + x] - sums[sum_warped + x] * mean_fixed[start + x]
        square = sums[sum_square + x]
        variance = square - sums[sum_warped + x] * mean
        # selected by arithmetic on purpose: a branch would keep the loop from using vectors
        inverse_warped = np.float32(1.0) / max(variance, floor)
        inverse = inverse_fixed[start + x] * inverse_warped * np.float32(variance > flat * square)
        a = np.sqrt(inverse) if signed else cross * inverse
        score = cross * a
        b = score * inverse_warped * np.float32(variance > floor)
        total += score
        padded[on_fixed + x] = a
        padded[on_warped + x] = b
        padded[constant + x] = a * mean_fixed[start + x] - b * mean
    return float(total)


@compiled
def _write_gradient(
    result: Floats, sums: Floats, at: int, fixed: Floats, warped: Floats, mask: Mask, row: int, width: int, offsets: tuple[np.float32, ...], scale: np.float32
) -> None:
    """One row of the gradient from the windowed sums of the coefficients."""
    start = np.uint64(row)
    on_fixed, on_warped, constant = np.uint64(at), np.uint64(at + width), np.uint64(at + 2 * width)
    of_fixed, of_warped = offsets
    for x in range(np.uint64(width)):
        on_one, on_other = sums[on_fixed + x], sums[on_warped + x]
        result[start + x] = ((fixed[start + x] - of_fixed) * on_one - (warped[start + x] - of_warped) * on_other - sums[constant + x]) * scale
    if mask.shape[0]:
        for x in range(np.uint64(width)):
            if not mask[start + x]:
                result[start + x] = np.float32(0.0)


@compiled
def _fixed_products(padded: Floats, fixed: Floats, mask: Mask, row: int, width: int, radius: int, offset: np.float32) -> None:
    """Number, value and square of the row from `row` on, into the middle of three padded rows."""
    start, line = np.uint64(row), width + 2 * radius
    number, one, square = np.uint64(radius), np.uint64(line + radius), np.uint64(2 * line + radius)
    if mask.shape[0] == 0:
        for x in range(np.uint64(width)):
            value = fixed[start + x] - offset
            padded[number + x] = np.float32(1.0)
            padded[one + x] = value
            padded[square + x] = value * value
        return
    for x in range(np.uint64(width)):
        inside = mask[start + x]
        value = fixed[start + x] - offset if inside else np.float32(0.0)
        padded[number + x] = np.float32(inside)
        padded[one + x] = value
        padded[square + x] = value * value


@compiled
def statistics(
    start: int,
    stop: int,
    mean: Floats,
    inverse: Floats,
    inverse_count: Floats,
    fixed: Floats,
    mask: Mask,
    shape: tuple[int, int, int],
    radii: Radii,
    offset: np.float32,
    floor: np.float32,
    flat: np.float32,
) -> None:
    """Planes start to stop of what :func:`sweep` needs to know of the fixed image; see there. All arrays are flat."""
    depth, height, width = shape
    rz, ry, rx = radii
    line, area = 3 * width, height * width
    rings, totals = np.zeros((2 * rz + 1) * height * line, np.float32), np.zeros(height * line, np.float32)
    padded, summed = np.zeros(line + 6 * rx, np.float32), np.zeros(line, np.float32)
    rows, column = np.zeros((2 * ry + 1) * line, np.float32), np.zeros(line, np.float32)
    for plane in range(start - rz, stop + rz):
        ring = (plane % (2 * rz + 1)) * height * line
        rows[:] = 0
        column[:] = 0
        inside = 0 <= plane < depth
        for y in range(height + ry if inside else 0):
            if y < height:
                _fixed_products(padded, fixed, mask, plane * area + y * width, width, rx, offset)
                _sum_along_rows(padded, summed, rx, width)
            _move_window(column, 0, rows, (y % (2 * ry + 1)) * line, summed, line, y < height)
            if y >= ry:
                _move_window(totals, (y - ry) * line, rings, ring + (y - ry) * line, column, line, True)
        if not inside:
            _move_window(totals, 0, rings, ring, column, height * line, False)
        z = plane - rz
        if z >= start and z % AFRESH == 0:
            _sum_afresh(totals, rings, 2 * rz + 1)
        for y in range(height if z >= start else 0):
            number, one, square = np.uint64(y * line), np.uint64(y * line + width), np.uint64(y * line + 2 * width)
            to = np.uint64(z * area + y * width)
            for x in range(np.uint64(width)):
                share = np.float32(1.0) / max(totals[number + x], np.float32(1.0))
                power = totals[square + x]
                variance = power - totals[one + x] * totals[one + x] * share
                mean[to + x] = totals[one + x] * share
                inverse[to + x] = np.float32(variance > flat * power) / max(variance, floor)
            if mask.shape[0]:
                for x in range(np.uint64(width)):
                    inverse_count[to + x] = np.float32(1.0) / max(totals[number + x], np.float32(1.0))
                    inverse[to + x] *= np.float32(mask[to + x])


@compiled
def sweep(
    start: int,
    stop: int,
    gradient: Floats,
    scores: Doubles,
    fixed: Floats,
    warped: Floats,
    mask: Mask,
    mean_fixed: Floats,
    inverse_fixed: Floats,
    inverse_count: Floats,
    counts: tuple[Floats, Floats, Floats],
    shape: tuple[int, int, int],
    radii: Radii,
    offsets: tuple[np.float32, np.float32],
    floor: np.float32,
    flat: np.float32,
    scale: np.float32,
    signed: bool,
    busy: Mask,
) -> None:
    """Planes start to stop of the gradient, and the sum of the scores of each of these planes. Volumes of `shape` (D, H, W) are flat arrays.

    Parameters
    ----------
    mask, inverse_count
        Volumes, of truth values and of numbers, or empty: then every voxel counts, and `counts` holds the inverse number of voxels of a window per axis.
    mean_fixed, inverse_fixed
        Mean of the fixed image in every window, and one over its floored sum of squares about it (0 where the window is not scored).
    offsets
        Subtracted from fixed and warped on reading, so that sums of squares keep their digits.
    floor, flat
        Smallest sum of squares of `warped` about the mean, and the share of the sum of squares below which it is rounding.
    scale
        Of the gradient: 2 over the number of windows, 1 if `signed`.
    signed
        Score the correlation itself, not its square.
    busy : (D * H,)
        Whether a row lies in a window that is scored; what the others hold is of no matter, and their gradient is zero. Empty: all do.
    """
    depth, height, width = shape
    rz, ry, rx = radii
    line, area, span = 3 * width, height * width, 2 * rz + 1
    product_ring, coefficient_ring = np.zeros(span * height * line, np.float32), np.zeros(span * height * line, np.float32)
    products, coefficients = np.zeros(height * line, np.float32), np.zeros(height * line, np.float32)
    padded, summed = np.zeros(line + 6 * rx, np.float32), np.zeros(line, np.float32)
    rows, column = np.zeros((2 * ry + 1) * line, np.float32), np.zeros(line, np.float32)
    count_row = np.empty(width, np.float32)
    for plane in range(start - 2 * rz, stop + 2 * rz):
        ring = (plane % span) * height * line
        inside = 0 <= plane < depth
        rows[:] = 0
        column[:] = 0
        for y in range(height + ry if inside else 0):
            if y < height and busy.shape[0] and not busy[plane * height + y]:
                summed[:] = 0
            elif y < height:
                _warped_products(padded, fixed, warped, mask, plane * area + y * width, width, rx, offsets)
                _sum_along_rows(padded, summed, rx, width)
            _move_window(column, 0, rows, (y % (2 * ry + 1)) * line, summed, line, y < height)
            if y >= ry:
                _move_window(products, (y - ry) * line, product_ring, ring + (y - ry) * line, column, line, True)
        if not inside:
            _move_window(products, 0, product_ring, ring, column, height * line, False)
        if plane >= start and plane % AFRESH == 0:
            _sum_afresh(products, product_ring, span)
        centre = plane - rz
        if centre < start - rz:
            continue
        ring = (centre % span) * height * line
        inside = 0 <= centre < depth
        rows[:] = 0
        column[:] = 0
        total = 0.0
        for y in range(height + ry if inside else 0):
            if y < height and busy.shape[0] and not busy[centre * height + y]:
                summed[:] = 0
            elif y < height:
                row = centre * area + y * width
                if inverse_count.shape[0] == 0:
                    factor = counts[0][centre] * counts[1][y]
                    for x in range(width):
                        count_row[x] = counts[2][x] * factor
                    total += _coefficients(padded, products, y * line, mean_fixed, inverse_fixed, row, count_row, 0, width, rx, floor, flat, signed)
                else:
                    total += _coefficients(padded, products, y * line, mean_fixed, inverse_fixed, row, inverse_count, row, width, rx, floor, flat, signed)
                _sum_along_rows(padded, summed, rx, width)
            _move_window(column, 0, rows, (y % (2 * ry + 1)) * line, summed, line, y < height)
            if y >= ry:
                _move_window(coefficients, (y - ry) * line, coefficient_ring, ring + (y - ry) * line, column, line, True)
        if not inside:
            _move_window(coefficients, 0, coefficient_ring, ring, column, height * line, False)
        if start <= centre < stop:
            scores[centre] = total
        done = centre - rz
        if done >= start and done % AFRESH == 0:
            _sum_afresh(coefficients, coefficient_ring, span)
        for y in range(height if done >= start else 0):
            if busy.shape[0] and not busy[done * height + y]:
                gradient[done * area + y * width : done * area + (y + 1) * width] = 0
            else:
                _write_gradient(gradient, coefficients, y * line, fixed, warped, mask, done * area + y * width, width, offsets, scale)
