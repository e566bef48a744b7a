"""Local correlation on the CPU: compiled loops, because torch would write and read every product (100 times slower with its gradient).

Both maps are padded by the radius, and the last two axes of a plane are walked as one: a neighbour is then a fixed distance away, and every
inner loop is long. What falls into the padding is cut off at the end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled
from nnreg.kernels.threads import in_parts

Radii = tuple[int, int, int]


@compiled
def _correlate(start: int, stop: int, result: Floats, fixed: Floats, moving: Floats, radii: Radii, width: int) -> None:
    """Add planes start to stop of ``sum_c fixed[b, c, x] moving[b, c, x + o]``: maps (B, C, planes, area), result (B, offsets, planes, area)."""
    batch, channels, _, area = fixed.shape
    first = radii[1] * width + radii[2]
    last = area - first
    for b in range(batch):
        for z in range(start + radii[0], stop + radii[0]):
            offset = 0
            for dz in range(-radii[0], radii[0] + 1):
                for dy in range(-radii[1], radii[1] + 1):
                    for dx in range(-radii[2], radii[2] + 1):
                        row = result[b, offset, z, first:last]
                        step = dy * width + dx
                        for c in range(0, channels - 3, 4):  # four at a time: the sum is read and written a quarter as often
                            f0, m0 = fixed[b, c, z, first:last], moving[b, c, z + dz, first + step : last + step]
                            f1, m1 = fixed[b, c + 1, z, first:last], moving[b, c + 1, z + dz, first + step : last + step]
                            f2, m2 = fixed[b, c + 2, z, first:last], moving[b, c + 2, z + dz, first + step : last + step]
                            f3, m3 = fixed[b, c + 3, z, first:last], moving[b, c + 3, z + dz, first + step : last + step]
                            for x in range(last - first):
                                row[x] += (f0[x] * m0[x] + f1[x] * m1[x]) + (f2[x] * m2[x] + f3[x] * m3[x])
                        for c in range(channels // 4 * 4, channels):
                            f0, m0 = fixed[b, c, z, first:last], moving[b, c, z + dz, first + step : last + step]
                            for x in range(last - first):
                                row[x] += f0[x] * m0[x]
                        offset += 1


@compiled
def _gather(start: int, stop: int, result: Floats, gradient: Floats, other: Floats, radii: Radii, width: int, sign: int) -> None:
    """Add planes start to stop of the derivative with respect to `fixed` (sign 1, `other` is moving) or `moving` (sign -1, `other` is fixed)."""
    batch, channels, _, area = other.shape
    first = radii[1] * width + radii[2]
    last = area - first
    for b in range(batch):
        for z in range(start + radii[0], stop + radii[0]):
            for c in range(channels):
                row = result[b, c, z, first:last]
                offset = 0
                for dz in range(-radii[0], radii[0] + 1):
                    for dy in range(-radii[1], radii[1] + 1):
                        for dx in range(-radii[2], radii[2] + 1):
                            there, step = z + sign * dz, sign * (dy * width + dx)
                            values = other[b, c, there, first + step : last + step]
                            share = gradient[b, offset, z, first:last] if sign > 0 else gradient[b, offset, there, first + step : last + step]
                            for x in range(last - first):
                                row[x] += share[x] * values[x]
                            offset += 1


def _padded(tensor: Tensor, radii: Radii) -> Tensor:
    """(B, C, D, H, W) with `radii` zeros around, planes flattened."""
    return nnf.pad(tensor.detach(), [radius for radius in reversed(radii) for _ in range(2)]).flatten(3)


def _cropped(planes: Tensor, radii: Radii, shape: tuple[int, ...]) -> Tensor:
    full = planes.unflatten(3, (shape[1] + 2 * radii[1], shape[2] + 2 * radii[2]))
    for axis, (radius, size) in enumerate(zip(radii, shape), start=2):
        full = full.narrow(axis, radius, size)
    return full.contiguous()


def correlate(fixed: Tensor, moving: Tensor, radii: Radii) -> Tensor:
    """Sums over channels for every offset; inputs (B, C, D, H, W) float32 on the CPU."""
    shape = tuple(fixed.shape[2:])
    padded_fixed, padded_moving = _padded(fixed, radii), _padded(moving, radii)
    count = int(np.prod([2 * radius + 1 for radius in radii]))
    result = torch.zeros(fixed.shape[0], count, *padded_fixed.shape[2:])
    in_parts(_correlate, shape[0], result.numpy(), padded_fixed.numpy(), padded_moving.numpy(), radii, shape[2] + 2 * radii[2])
    return _cropped(result, radii, shape)


def correlate_backward(gradient: Tensor, other: Tensor, radii: Radii, sign: int) -> Tensor:
    """Derivative with respect to the fixed (sign 1) or moving features (sign -1), given the other."""
    shape = tuple(other.shape[2:])
    padded = _padded(other, radii)
    result = torch.zeros_like(padded)
    in_parts(_gather, shape[0], result.numpy(), _padded(gradient, radii).numpy(), padded.numpy(), radii, shape[2] + 2 * radii[2], sign)
    return _cropped(result, radii, shape)
