"""nnU-Net's rule for pooling and kernels (Isensee et al. 2021), as arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

SMALLEST_EDGE = 4  # voxels that the coarsest feature map keeps along an axis
SIMILAR = 2.0  # spacings within this factor are pooled and convolved together
LAST_AXIS = 3  # times the smallest edge: an axis pooled alone must be at least so long


@dataclass(frozen=True)
class Topology:
    """Strides and kernels of an encoder.

    Attributes
    ----------
    pools : number of halvings per axis
    strides, kernel_sizes : per stage, per axis; stage 0 has stride 1
    patch : the input size, rounded up to what the pooling divides
    divisor : ``2**pools``
    """

    pools: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]
    divisor: tuple[int, ...]


def topology(spacing: Sequence[float], patch: Sequence[float], *, smallest_edge: int = SMALLEST_EDGE, most_pools: int | None = None) -> Topology:
    """Halve the axes of similar spacing until the feature map is small.

    An axis is halved while it has at least twice `smallest_edge` voxels and its spacing is below twice the finest of the axes that
    can still be halved. Its kernel is 1 until its spacing is below twice the finest of all axes, then 3.

    Parameters
    ----------
    spacing : mm per axis
    patch : voxels per axis
        nnU-Net's first patch may be half a voxel (the median of an even number of shapes); only the result is rounded, up.
    smallest_edge
        Voxels to keep.
    most_pools
        Upper bound on the number of halvings; none if absent.

    Returns
    -------
    Topology

    Examples
    --------
    >>> topology((5.0, 1.0, 1.0), (12, 64, 64)).pools
    (1, 4, 4)
    """
    ndim = len(patch)
    current, size = [float(value) for value in spacing], [float(value) for value in patch]
    pools, kernel = [0] * ndim, [1] * ndim
    strides: list[tuple[int, ...]] = [(1,) * ndim]
    kernels: list[tuple[int, ...]] = []
    while most_pools is None or len(strides) <= most_pools:
        axes = _poolable(current, size, smallest_edge)
        if not axes:
            break
        finest = min(current)
        kernel = [3 if kernel[axis] == 3 or current[axis] / finest < SIMILAR else 1 for axis in range(ndim)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in axes else 1 for axis in range(ndim)))
        for axis in axes:
            pools[axis] += 1
            current[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
    kernels.append((3,) * ndim)
    divisor = tuple(2**count for count in pools)
    padded = tuple(ceil(value / unit) * unit for value, unit in zip(patch, divisor, strict=True))
    return Topology(tuple(pools), tuple(strides), tuple(kernels), padded, divisor)


def _poolable(spacing: Sequence[float], size: Sequence[float], smallest_edge: int) -> list[int]:
    long_enough = [axis for axis, voxels in enumerate(size) if voxels >= 2 * smallest_edge]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    axes = [axis for axis in long_enough if spacing[axis] / finest < SIMILAR]
    if len(axes) == 1 and size[axes[0]] < LAST_AXIS * smallest_edge:
        return []
    return axes
