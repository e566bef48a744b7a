"""Linear sampling of volumes on the CPU: compiled loops behind one autograd function.

Torch's own sampler of volumes walks every channel by itself and uses one thread per sample of a batch; warping a feature map was the
largest cost of a training step. Here all channels of a voxel lie side by side, so its eight neighbours are found once and blended
together, and slabs of the volume go to different threads. Values and derivatives are those of ``grid_sample(align_corners=True)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled
from nnreg.kernels.threads import in_parts

FEW_CHANNELS = 4  # up to half as many, slabs of the volume are scattered side by side
Axis = tuple[int, int, np.float32, np.float32, np.float32, np.float32]


@njit(nogil=True, inline="always")
def neighbours(index: int, displacement: np.float32, size: int, border: bool) -> Axis:
    """Both neighbours of ``index + displacement`` along one axis, their weights (0 outside), and the derivatives of the weights."""
    if size == 1:
        # no extent along this axis: its only voxel, wherever the position says
        return 0, 0, np.float32(1.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    position = np.float32(index) + displacement
    below, above = np.float32(-1.0), np.float32(1.0)
    if border and (position <= 0.0 or position >= size - 1):
        # clipped: moving further changes nothing
        position = np.float32(0.0) if position <= 0.0 else np.float32(size - 1)
        below, above = np.float32(0.0), np.float32(0.0)
    floor = np.floor(position)
    upper = position - floor
    lower = np.float32(1.0) - upper
    # compared before the conversion: a NaN or an infinite position must not become an index
    first = int(floor) if -2.0 < floor < size + 1.0 else -2
    second = first + 1
    if first < 0 or first >= size:
        first, lower, below = 0, lower * np.float32(0.0), np.float32(0.0)
    if second < 0 or second >= size:
        second, upper, above = 0, upper * np.float32(0.0), np.float32(0.0)
    return first, second, lower, upper, below, above


@compiled
def _sample(start: int, stop: int, result: Floats, image: Floats, field: Floats, border: bool) -> None:
    """Fill planes start to stop: image (B, D, H, W, C), field (B, 3, D', H', W'), result (B, D', H', W', C)."""
    for b in range(field.shape[0]):
        for z in range(start, stop):
            for y in range(field.shape[3]):
                for x in range(field.shape[4]):
                    z0, z1, lz, uz, _, _ = neighbours(z, field[b, 0, z, y, x], image.shape[1], border)
                    y0, y1, ly, uy, _, _ = neighbours(y, field[b, 1, z, y, x], image.shape[2], border)
                    x0, x1, lx, ux, _, _ = neighbours(x, field[b, 2, z, y, x], image.shape[3], border)
                    w000, w001, w010, w011 = lz * ly * lx, lz * ly * ux, lz * uy * lx, lz * uy * ux
                    w100, w101, w110, w111 = uz * ly * lx, uz * ly * ux, uz * uy * lx, uz * uy * ux
                    v000, v001, v010, v011 = image[b, z0, y0, x0], image[b, z0, y0, x1], image[b, z0, y1, x0], image[b, z0, y1, x1]
                    v100, v101, v110, v111 = image[b, z1, y0, x0], image[b, z1, y0, x1], image[b, z1, y1, x0], image[b, z1, y1, x1]
                    voxel = result[b, z, y, x]
                    for c in range(image.shape[4]):
                        voxel[c] = (w000 * v000[c] + w001 * v001[c] + w010 * v010[c] + w011 * v011[c]) + (
                            w100 * v100[c] + w101 * v101[c] + w110 * v110[c] + w111 * v111[c]
                        )


@compiled
def _on_field(start: int, stop: int, result: Floats, gradient: Floats, image: Floats, field: Floats, border: bool) -> None:
    """Fill planes start to stop of the derivative with respect to the field; shapes as in `_sample`."""
    for b in range(field.shape[0]):
        for z in range(start, stop):
            for y in range(field.shape[3]):
                for x in range(field.shape[4]):
                    z0, z1, lz, uz, bz, az = neighbours(z, field[b, 0, z, y, x], image.shape[1], border)
                    y0, y1, ly, uy, by, ay = neighbours(y, field[b, 1, z, y, x], image.shape[2], border)
                    x0, x1, lx, ux, bx, ax = neighbours(x, field[b, 2, z, y, x], image.shape[3], border)
                    v000, v001, v010, v011 = image[b, z0, y0, x0], image[b, z0, y0, x1], image[b, z0, y1, x0], image[b, z0, y1, x1]
                    v100, v101, v110, v111 = image[b, z1, y0, x0], image[b, z1, y0, x1], image[b, z1, y1, x0], image[b, z1, y1, x1]
                    voxel = gradient[b, z, y, x]
                    p000 = p001 = p010 = p011 = p100 = p101 = p110 = p111 = np.float32(0.0)
                    for c in range(image.shape[4]):
                        g = voxel[c]
                        p000, p001, p010, p011 = p000 + g * v000[c], p001 + g * v001[c], p010 + g * v010[c], p011 + g * v011[c]
                        p100, p101, p110, p111 = p100 + g * v100[c], p101 + g * v101[c], p110 + g * v110[c], p111 + g * v111[c]
                    on_z = bz * (ly * (lx * p000 + ux * p001) + uy * (lx * p010 + ux * p011)) + az * (
                        ly * (lx * p100 + ux * p101) + uy * (lx * p110 + ux * p111)
                    )
                    on_y = lz * (by * (lx * p000 + ux * p001) + ay * (lx * p010 + ux * p011)) + uz * (
                        by * (lx * p100 + ux * p101) + ay * (lx * p110 + ux * p111)
                    )
                    on_x = lz * (ly * (bx * p000 + ax * p001) + uy * (bx * p010 + ax * p011)) + uz * (
                        ly * (bx * p100 + ax * p101) + uy * (bx * p110 + ax * p111)
                    )
                    result[b, 0, z, y, x], result[b, 1, z, y, x], result[b, 2, z, y, x] = on_z, on_y, on_x


@compiled
def scatter(start: int, stop: int, result: Floats, gradient: Floats, field: Floats, border: bool, planes: tuple[int, int]) -> None:
    """Add channels start to stop of what the `planes` (first, end) give to the derivative with respect to the image; shapes as in `_sample`."""
    for b in range(field.shape[0]):
        for z in range(planes[0], planes[1]):
            for y in range(field.shape[3]):
                for x in range(field.shape[4]):
                    z0, z1, lz, uz, _, _ = neighbours(z, field[b, 0, z, y, x], result.shape[1], border)
                    y0, y1, ly, uy, _, _ = neighbours(y, field[b, 1, z, y, x], result.shape[2], border)
                    x0, x1, lx, ux, _, _ = neighbours(x, field[b, 2, z, y, x], result.shape[3], border)
                    voxel = gradient[b, z, y, x]
                    for corner in range(8):
                        zz, wz = (z1, uz) if corner & 4 else (z0, lz)
                        yy, wy = (y1, uy) if corner & 2 else (y0, ly)
                        xx, wx = (x1, ux) if corner & 1 else (x0, lx)
                        target, weight = result[b, zz, yy, xx], wz * wy * wx
                        for c in range(start, stop):
                            target[c] += weight * voxel[c]


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.detach().movedim(1, -1).contiguous()


def sample_volume(image: Tensor, field: Tensor, *, border: bool) -> Tensor:
    """Values of `image` (B, C, D, H, W) at ``x + field(x)``, field (B, 3, D', H', W') in voxels; beyond the image its border value, or zero."""
    result: Tensor = _SampleVolume.apply(image, field, border)
    return result


class _SampleVolume(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, field: Tensor, border: bool) -> Tensor:
        ctx.save_for_backward(image, field)
        ctx.border = border
        values = _channels_last(image)
        result = torch.empty(field.shape[0], *field.shape[2:], image.shape[1])
        in_parts(_sample, field.shape[2], result.numpy(), values.numpy(), field.detach().contiguous().numpy(), border)
        return result.movedim(-1, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, field = ctx.saved_tensors
        gradient, positions = _channels_last(gradients[0]), field.detach().contiguous().numpy()
        on_image = on_field = None
        if ctx.needs_input_grad[1]:
            on_field = torch.empty_like(field, memory_format=torch.contiguous_format)
            in_parts(_on_field, field.shape[2], on_field.numpy(), gradient.numpy(), _channels_last(image).numpy(), positions, ctx.border)
        if ctx.needs_input_grad[0]:
            on_image = _on_image(tuple(image.shape), gradient.numpy(), positions, ctx.border)
        return on_image, on_field, None


def _on_image(shape: tuple[int, ...], gradient: Floats, field: Floats, border: bool) -> Tensor:
    """Derivative with respect to an image of `shape` (B, C, D, H, W), given that with respect to the samples, channels last.

    Several voxels add to one neighbour, so threads that share a result would collide: each takes other channels, or, where there are few,
    other planes and a result of its own. How many there are does not depend on the threads, so neither does the sum.
    """
    channels, depth = shape[1], field.shape[2]
    slabs = max(1, min(FEW_CHANNELS // channels, depth))
    results = torch.zeros(slabs, shape[0], *shape[2:], channels)
    if slabs == 1:
        in_parts(scatter, channels, results[0].numpy(), gradient, field, border, (0, depth))
    else:
        edges = [depth * slab // slabs for slab in range(slabs + 1)]

        def slabs_from(start: int, stop: int) -> None:
            for slab in range(start, stop):
                scatter(0, channels, results[slab].numpy(), gradient, field, border, (edges[slab], edges[slab + 1]))

        in_parts(slabs_from, slabs)
    return results.sum(0).movedim(-1, 1).contiguous() if slabs > 1 else results[0].movedim(-1, 1).contiguous()
