"""Compiled loops of label fusion: how alike patches are under many shifts, weights that allow for errors made together, votes.

A region is (D, H, W), an image of two axes one plane. Beside it lie wider arrays: a target is wider by the radii of a patch on every side, an atlas by those
radii and by the longest shift. `shifts` (K, 3) are counted from there, 0 to twice the longest shift.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Doubles, Floats, LongIntegers, Mask, ShortIntegers, StoredLabels
from nnreg.kernels.compiled import compiled

Radii = tuple[int, int, int]
Two = tuple[Floats, Floats]


@compiled
def best_shifts(
    start: int,
    stop: int,
    chosen: ShortIntegers,
    score: Floats,
    target: Floats,
    of_target: Floats,
    atlas: Floats,
    of_atlas: Floats,
    shifts: LongIntegers,
    radii: Radii,
) -> None:
    """Planes start to stop: the shift (its number into `chosen`) under which the patch of the atlas correlates best with that of the target, and how well.

    Sums over patches are running sums, so that a shift costs the same for any size of patches. Rows of all arrays have the width R of the atlas's: a shift is
    then one step in memory, and loops run over whole planes. What stands at the end of a row, where there is no voxel, means nothing.

    Parameters
    ----------
    chosen, score : array (D, H, R)
        The first of the best shifts; the mean over channels of the correlation of patches, where it is.
    target : array (C, D + 2 radius, H + 2 radius, R)
    of_target : array (2, C, D, H, R)
        Mean of each patch, and one over its standard deviation (0 where it is flat).
    atlas : array (C, D + 2 radius + 2 longest, H + 2 radius + 2 longest, R)
    of_atlas : array (2, C, D + 2 longest, H + 2 longest, R)
    """
    rz, ry, rx = radii
    channels, (_, height, row) = len(target), chosen.shape
    share = np.float32(1.0 / ((2 * rz + 1) * (2 * ry + 1) * (2 * rx + 1)))
    rows = np.uint64((height + 2 * ry) * row)
    product, along_x = np.zeros((height + 2 * ry + 1) * row, np.float32), np.zeros((height + 2 * ry) * row, np.float32)
    ring, total = np.empty((2 * rz + 1, height * row), np.float32), np.empty(height * row, np.float32)
    found = np.zeros((stop - start, height * row), np.float32)
    for k in range(len(shifts)):
        sz, sy, sx = shifts[k, 0], shifts[k, 1], shifts[k, 2]
        for c in range(channels):
            one, other = target[c].reshape(-1), atlas[c].reshape(-1)
            its_mean, its_inverse = of_atlas[0, c].reshape(-1), of_atlas[1, c].reshape(-1)
            ring[:] = 0.0
            total[:] = 0.0
            for z in range(stop - start + 2 * rz):
                here = np.uint64((start + z) * target.shape[2] * row)
                there = np.uint64(((start + z + sz) * atlas.shape[2] + sy) * row + sx)
                inside = min(rows, np.uint64(len(other)) - there)  # the last shifts reach beyond the last row
                for i in range(inside):
                    product[i] = one[here + i] * other[there + i]
                _sum_of_next(along_x, product, rows, 2 * rx + 1)
                _enter(total, ring[z % (2 * rz + 1)], along_x, height, row, 2 * ry + 1)
                if z >= 2 * rz:
                    at = start + z - 2 * rz
                    mean, inverse = of_target[0, c, at].reshape(-1), of_target[1, c, at].reshape(-1)
                    its = np.uint64((at + sz) * of_atlas.shape[3] * row + sy * row + sx)
                    _correlate(found[z - 2 * rz], total, share, (mean, inverse), (its_mean, its_inverse), its, c == 0)
        for z in range(stop - start):
            _keep_best(chosen[start + z].reshape(-1), score[start + z].reshape(-1), found[z], np.float32(1 / channels), k)


@compiled
def _sum_of_next(sums: Floats, values: Floats, size: np.uint64, count: int) -> None:
    """Each value and those after it, `count` in all."""
    for i in range(size):
        sums[i] = values[i]
    for step in range(1, count):
        after = np.uint64(step)
        for i in range(size):
            sums[i] += values[i + after]


@compiled
def _enter(total: Floats, leaving: Floats, rows: Floats, height: int, row: int, count: int) -> None:
    """Sums over `count` rows enter the running total of planes; those of the plane that leaves go, and the new ones take its place."""
    width = np.uint64(row)
    running = np.zeros(row, np.float32)
    for y in range(count - 1):
        at = np.uint64(y * row)
        for x in range(width):
            running[x] += rows[at + x]
    for y in range(height):
        at, last = np.uint64(y * row), np.uint64((y + count - 1) * row)
        for x in range(width):
            running[x] += rows[last + x]
            total[at + x] += running[x] - leaving[at + x]
            leaving[at + x] = running[x]
            running[x] -= rows[at + x]


@compiled
def _correlate(found: Floats, total: Floats, share: np.float32, of_target: Two, of_atlas: Two, there: np.uint64, first: bool) -> None:
    """Correlations of patches, added to those of earlier channels."""
    (mean, inverse), (its_mean, its_inverse) = of_target, of_atlas
    before = np.float32(0.0 if first else 1.0)
    for i in range(min(np.uint64(len(found)), np.uint64(len(its_mean)) - there)):
        value = (total[i] * share - mean[i] * its_mean[there + i]) * inverse[i] * its_inverse[there + i]
        found[i] = before * found[i] + value


@compiled
def _keep_best(chosen: ShortIntegers, score: Floats, found: Floats, scale: np.float32, k: int) -> None:
    if k == 0:
        chosen[:] = 0
        for i in range(np.uint64(len(score))):
            score[i] = scale * found[i]
        return
    number = np.int32(k)
    for i in range(np.uint64(len(score))):
        value = scale * found[i]
        better = value > score[i]
        chosen[i] = number if better else chosen[i]
        score[i] = value if better else score[i]


@compiled
def joint_weights(
    start: int,
    stop: int,
    weights: Floats,
    places: ShortIntegers,
    chosen: ShortIntegers,
    target: Floats,
    of_target: Floats,
    atlases: Floats,
    of_atlases: Floats,
    shifts: LongIntegers,
    radii: Radii,
    alpha: float,
    beta: float,
) -> None:
    """Weights (N, D, H, W) of N atlases at places (M, 3) start to stop: those that minimise the expected error of the vote (Wang et al. 2013, equation 11).

    Two atlases err together as far as their patches differ from the target's at the same voxels:
    ``M[i, j] = mean(|T - A_i| |T - A_j|) ** beta + alpha [i = j]``, and the weights solve ``M w = 1``, scaled to the sum 1. Weights below 0 are set to 0, and
    the others found again. Patches have mean 0 and standard deviation 1; arrays are as in :func:`best_shifts`, those of the atlases and `chosen` with N first.
    """
    count, channels = len(weights), len(target)
    rz, ry, rx = radii
    size = (2 * rz + 1) * (2 * ry + 1) * (2 * rx + 1) * channels
    errors = np.empty((count, size), np.float32)
    expected, work = np.empty((count, count), np.float64), np.empty((count, count), np.float64)
    solved, used = np.empty(count, np.float64), np.empty(count, np.int64)
    for place in range(start, stop):
        z, y, x = places[place, 0], places[place, 1], places[place, 2]
        for i in range(count):
            shift = shifts[chosen[i, z, y, x]]
            _patch_errors(errors[i], target, of_target, atlases[i], of_atlases[i], (z, y, x), (shift[0], shift[1], shift[2]), radii)
        for i in range(count):
            for j in range(i + 1):
                total = np.float32(0.0)
                one, other = errors[i], errors[j]
                for p in range(np.uint64(size)):
                    total += one[p] * other[p]
                expected[i, j] = (total / size) ** beta
                expected[j, i] = expected[i, j]
            expected[i, i] += alpha
        _smallest_error(solved, expected, work, used)
        for i in range(count):
            weights[i, z, y, x] = solved[i]


@compiled
def _patch_errors(errors: Floats, target: Floats, of_target: Floats, atlas: Floats, of_atlas: Floats, place: Radii, shift: Radii, radii: Radii) -> None:
    """Absolute differences of two normalised patches, channel by channel."""
    (z, y, x), (sz, sy, sx), (rz, ry, rx) = place, shift, radii
    at = 0
    for c in range(len(target)):
        mean, inverse = of_target[0, c, z, y, x], of_target[1, c, z, y, x]
        its_mean, its_inverse = of_atlas[0, c, z + sz, y + sy, x + sx], of_atlas[1, c, z + sz, y + sy, x + sx]
        for dz in range(2 * rz + 1):
            for dy in range(2 * ry + 1):
                one, other = target[c, z + dz, y + dy, x:], atlas[c, z + sz + dz, y + sy + dy, x + sx :]
                for dx in range(2 * rx + 1):
                    errors[at] = abs((one[dx] - mean) * inverse - (other[dx] - its_mean) * its_inverse)
                    at += 1


@compiled
def _smallest_error(solved: Doubles, expected: Doubles, work: Doubles, used: LongIntegers) -> None:
    """Weights of sum 1, none below 0, from a positive definite matrix: those that would be below are left out, and the rest solved again."""
    count = len(solved)
    n = count
    for i in range(count):
        used[i] = i
    while True:
        _solve_ones(solved, expected, work, used, n)
        kept = 0
        for a in range(n):
            if solved[a] > 0:
                used[kept] = used[a]
                kept += 1
        if kept == n or kept == 0:
            break
        n = kept
    total = 0.0
    for a in range(n):
        total += solved[a]
    values = work[0]
    values[:] = 0.0
    for a in range(n):
        values[used[a]] = solved[a] / total
    solved[:] = values


@compiled
def _solve_ones(solved: Doubles, matrix: Doubles, factor: Doubles, used: LongIntegers, n: int) -> None:
    """``matrix[used, used] solved = 1`` by Cholesky's factors."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[used[i], used[j]]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = np.sqrt(max(total, 1e-12)) if i == j else total / factor[j, j]
    for i in range(n):
        total = 1.0
        for k in range(i):
            total -= factor[i, k] * solved[k]
        solved[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = solved[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * solved[k]
        solved[i] = total / factor[i, i]


@compiled
def votes(
    start: int,
    stop: int,
    shares: Floats,
    places: ShortIntegers,
    weights: Floats,
    chosen: ShortIntegers,
    labels: StoredLabels,
    known: Mask,
    shifts: LongIntegers,
    radii: Radii,
) -> None:
    """Votes (M, L) for L labels at places (M, 3), counted from the first voxel of the region that `radii` leave, start to stop.

    At each voxel of the patch around a place its weights let the atlases vote for the place, with the label that lies there under the shift that was chosen at
    that voxel. Shares are scaled to the sum 1.

    Parameters
    ----------
    weights, chosen : array (N, D, H, W)
    labels : array (N, D + 2 longest, ...)
        Numbers of labels, 0 for the background.
    known : array (N, L), bool
        Which atlas has which label anywhere. Where an atlas shows background, but another one a label that it lacks, it does not vote: its background may
        only mean that nobody drew the structure.
    """
    count, middle = len(weights), shifts[0]
    rz, ry, rx = radii
    silent = np.zeros(count, np.bool_)
    for place in range(start, stop):
        z, y, x = places[place, 0], places[place, 1], places[place, 2]
        row = shares[place]
        row[:] = 0.0
        silent[:] = False
        for j in range(count):
            label = labels[j, z + rz + middle[0], y + ry + middle[1], x + rx + middle[2]]
            for i in range(count):
                silent[i] |= not known[i, label]
        for dz in range(2 * rz + 1):
            for dy in range(2 * ry + 1):
                for dx in range(2 * rx + 1):
                    for i in range(count):
                        shift = shifts[chosen[i, z + dz, y + dy, x + dx]]
                        label = labels[i, z + rz + shift[0], y + ry + shift[1], x + rx + shift[2]]
                        if label != 0 or not silent[i]:
                            row[label] += weights[i, z + dz, y + dy, x + dx]
        if row.sum() <= 0:  # those that vote have no weight: they count alike
            for j in range(count):
                label = labels[j, z + rz + middle[0], y + ry + middle[1], x + rx + middle[2]]
                if label != 0 or not silent[j]:
                    row[label] += np.float32(1.0)
        row /= row.sum()
