"""Overlap of all labels of two label maps under a field, and its derivative: one pass over the neighbours of each position."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnreg.arrays import Doubles, Floats, LongIntegers
from nnreg.kernels.compiled import compiled
from nnreg.kernels.threads import in_parts
from nnreg.kernels.warp_cpu import neighbours


@compiled
def _sums(overlap: Doubles, warped: Doubles, fixed: LongIntegers, moving: LongIntegers, field: Floats) -> None:
    """Add to each label's sums: of its share where the fixed map has it, and everywhere. Fields (3, D, H, W), maps (D, H, W)."""
    for z in range(field.shape[1]):
        for y in range(field.shape[2]):
            for x in range(field.shape[3]):
                z0, z1, lz, uz, _, _ = neighbours(z, field[0, z, y, x], moving.shape[0], False)
                y0, y1, ly, uy, _, _ = neighbours(y, field[1, z, y, x], moving.shape[1], False)
                x0, x1, lx, ux, _, _ = neighbours(x, field[2, z, y, x], moving.shape[2], False)
                own = fixed[z, y, x]
                for corner in range(8):
                    zz, wz = (z1, uz) if corner & 4 else (z0, lz)
                    yy, wy = (y1, uy) if corner & 2 else (y0, ly)
                    xx, wx = (x1, ux) if corner & 1 else (x0, lx)
                    weight = wz * wy * wx
                    label = moving[zz, yy, xx]
                    warped[label] += weight
                    if label == own:
                        overlap[own] += weight


@compiled
def _slopes(start: int, stop: int, result: Floats, on_overlap: Floats, on_warped: Floats, fixed: LongIntegers, moving: LongIntegers, field: Floats) -> None:
    """Planes start to stop of the derivative with respect to the field, given those with respect to the sums."""
    for z in range(start, stop):
        for y in range(field.shape[2]):
            for x in range(field.shape[3]):
                z0, z1, lz, uz, sz, tz = neighbours(z, field[0, z, y, x], moving.shape[0], False)
                y0, y1, ly, uy, sy, ty = neighbours(y, field[1, z, y, x], moving.shape[1], False)
                x0, x1, lx, ux, sx, tx = neighbours(x, field[2, z, y, x], moving.shape[2], False)
                own = fixed[z, y, x]
                along_z, along_y, along_x = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                for corner in range(8):
                    zz, wz, dz = (z1, uz, tz) if corner & 4 else (z0, lz, sz)
                    yy, wy, dy = (y1, uy, ty) if corner & 2 else (y0, ly, sy)
                    xx, wx, dx = (x1, ux, tx) if corner & 1 else (x0, lx, sx)
                    label = moving[zz, yy, xx]
                    worth = on_warped[label] + (on_overlap[own] if label == own else np.float32(0.0))
                    along_z += worth * dz * wy * wx
                    along_y += worth * wz * dy * wx
                    along_x += worth * wz * wy * dx
                result[0, z, y, x], result[1, z, y, x], result[2, z, y, x] = along_z, along_y, along_x


class Sums(torch.autograd.Function):
    """Of each label below `count` two sums over the fixed grid, (2, count): of its share where the fixed map has that label, and everywhere."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, fixed: Tensor, moving: Tensor, count: int) -> Tensor:
        """Field (2 or 3, *spatial_fixed) in voxels, label maps (*spatial) from 0 to below `count`."""
        ctx.save_for_backward(field, fixed, moving)
        sums = np.zeros((2, count))
        _sums(sums[0], sums[1], *_volumes(fixed, moving, field))
        return torch.from_numpy(sums).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Only the field has a derivative."""
        field, fixed, moving = ctx.saved_tensors
        volumes = _volumes(fixed, moving, field)
        result = np.empty_like(volumes[2])
        on_overlap, on_warped = (part.contiguous().numpy() for part in gradients[0].float())
        in_parts(_slopes, result.shape[1], result, on_overlap, on_warped, *volumes)
        return torch.from_numpy(result[3 - len(field) :].reshape(field.shape)), None, None, None


def _volumes(fixed: Tensor, moving: Tensor, field: Tensor) -> tuple[LongIntegers, LongIntegers, Floats]:
    """In three axes; an image of two is a volume of one plane, across which nothing moves."""
    labels = [np.ascontiguousarray(side.numpy().reshape((1,) * (3 - side.ndim) + tuple(side.shape))) for side in (fixed, moving)]
    positions = field.detach().numpy().reshape(len(field), *labels[0].shape)
    still = np.zeros((3 - len(field), *labels[0].shape), np.float32)
    return labels[0], labels[1], np.ascontiguousarray(np.concatenate([still, positions]))
