"""Compiled loops that even out how much a field of displacements stretches and shrinks: its divergence, and the gradient of that added to the field.

Fields are flat arrays, as in :mod:`nnreg.kernels.smooth_cpu`, and rows are named by where they start.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled

Shape = tuple[int, int, int, int]
Shares = tuple[np.float32, np.float32, np.float32]


@compiled
def _add_slope(target: Floats, to: int, source: Floats, after: int, before: int, share: np.float32, count: int) -> None:
    """Add ``share (source[after] - source[before])`` to `count` values of `target`."""
    here, upper, lower = np.uint64(to), np.uint64(after), np.uint64(before)
    for x in range(np.uint64(count)):
        target[here + x] += share * (source[upper + x] - source[lower + x])


@compiled
def _add_slope_along(target: Floats, to: int, source: Floats, start: int, axis: int, line: int, shape: Shape, share: np.float32) -> None:
    """Add the central difference of row `line` of a volume from `start` on along `axis`, times twice `share`; nothing across a border."""
    _, depth, height, width = shape
    z, y, here = line // height, line % height, start + line * width
    if axis == 2:
        if width > 2:
            _add_slope(target, to + 1, source, here + 2, here, share, width - 2)
    elif axis == 1:
        if 0 < y < height - 1:
            _add_slope(target, to, source, here + width, here - width, share, width)
    elif 0 < z < depth - 1:
        _add_slope(target, to, source, here + height * width, here - height * width, share, width)


@compiled
def divergence(start: int, stop: int, result: Floats, field: Floats, shape: Shape) -> None:
    """Rows start to stop of the divergence (D H W,) of a field of `shape` (N, D, H, W), central differences, 0 across a border."""
    components, depth, height, width = shape
    half, size = np.float32(0.5), depth * height * width
    for line in range(start, stop):
        result[line * width : (line + 1) * width] = 0
        for k in range(components):
            _add_slope_along(result, line * width, field, k * size, k + 3 - components, line, shape, half)


@compiled
def add_gradient(start: int, stop: int, field: Floats, values: Floats, shape: Shape, shares: Shares) -> None:
    """Rows start to stop of a field, with the gradient of `values` (D H W,) added, its components along z, y and x times `shares`."""
    components, depth, height, width = shape
    size = depth * height * width
    for line in range(start, stop):
        for k in range(components):
            axis = k + 3 - components
            _add_slope_along(field, k * size + line * width, values, 0, axis, line, shape, np.float32(0.5) * shares[axis])
