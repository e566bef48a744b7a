"""Local correlation on the CPU: compiled loops, because torch would write and read every product (20 times slower with its gradient)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

Floats = npt.NDArray[np.float32]


@njit(nogil=True, fastmath=True, cache=True)
def _correlate(fixed: Floats, moving: Floats, radii: tuple[int, int, int], start: int, stop: int, result: Floats) -> None:
    """Add the products of planes start to stop: result[b, o, x] = sum_c fixed[b, c, x] moving[b, c, x + o]."""
    batch, channels, depth, height, width = fixed.shape
    for b in range(batch):
        for z in range(start, stop):
            offset = -1
            for dz in range(-radii[0], radii[0] + 1):
                for dy in range(-radii[1], radii[1] + 1):
                    for dx in range(-radii[2], radii[2] + 1):
                        offset += 1
                        if z + dz < 0 or z + dz >= depth:
                            continue
                        first, last = max(0, -dx), min(width, width - dx)
                        for y in range(max(0, -dy), min(height, height - dy)):
                            row = result[b, offset, z, y]
                            for c in range(channels):
                                a, m = fixed[b, c, z, y], moving[b, c, z + dz, y + dy]
                                for x in range(first, last):
                                    row[x] += a[x] * m[x + dx]


@njit(nogil=True, fastmath=True, cache=True)
def _gather(gradient: Floats, other: Floats, radii: tuple[int, int, int], sign: int, start: int, stop: int, result: Floats) -> None:
    """Add the derivative of planes start to stop with respect to `fixed` (sign 1, `other` is moving) or `moving` (sign -1, `other` is fixed)."""
    batch, channels, depth, height, width = other.shape
    for b in range(batch):
        for z in range(start, stop):
            for y in range(height):
                for c in range(channels):
                    row = result[b, c, z, y]
                    offset = -1
                    for dz in range(-radii[0], radii[0] + 1):
                        for dy in range(-radii[1], radii[1] + 1):
                            for dx in range(-radii[2], radii[2] + 1):
                                offset += 1
                                zz, yy, step = z + sign * dz, y + sign * dy, sign * dx
                                if zz < 0 or zz >= depth or yy < 0 or yy >= height:
                                    continue
                                first, last = max(0, -step), min(width, width - step)
                                o = other[b, c, zz, yy]
                                if sign > 0:
                                    g = gradient[b, offset, z, y]
                                    for x in range(first, last):
                                        row[x] += g[x] * o[x + step]
                                else:
                                    g = gradient[b, offset, zz, yy]
                                    for x in range(first, last):
                                        row[x] += g[x + step] * o[x + step]


def _in_slabs(kernel: Callable[..., None], planes: int, arguments: tuple[Any, ...], result: Floats) -> None:
    """Run a kernel on slabs of planes, one per thread torch may use."""
    workers = min(torch.get_num_threads(), planes)
    if workers == 1:
        kernel(*arguments, 0, planes, result)
        return
    edges = np.linspace(0, planes, workers + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(kernel, *arguments, int(start), int(stop), result) for start, stop in zip(edges, edges[1:])]:
            done.result()


def correlate(fixed: Tensor, moving: Tensor, radii: tuple[int, int, int]) -> Tensor:
    """Sums over channels for every offset; inputs (B, C, D, H, W) float32 on the CPU."""
    count = int(np.prod([2 * radius + 1 for radius in radii]))
    result = torch.zeros(fixed.shape[0], count, *fixed.shape[2:])
    arguments = (fixed.detach().contiguous().numpy(), moving.detach().contiguous().numpy(), radii)
    _in_slabs(_correlate, fixed.shape[2], arguments, result.numpy())
    return result


def correlate_backward(gradient: Tensor, other: Tensor, radii: tuple[int, int, int], sign: int) -> Tensor:
    """Derivative with respect to the fixed (sign 1) or moving features (sign -1) given the other."""
    result = torch.zeros_like(other, memory_format=torch.contiguous_format)
    arguments = (gradient.detach().contiguous().numpy(), other.detach().contiguous().numpy(), radii, sign)
    _in_slabs(_gather, other.shape[2], arguments, result.numpy())
    return result
