"""What :mod:`nnreg.kernels.volumes` and :mod:`nnreg.kernels.inversion` do, in torch on any device: each function is named after the one it stands for.

Filters are products with a banded matrix per axis: one pass over the volume however wide they are, which a GPU does at the speed of its memory.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.arrays import Doubles, Floats
from nnreg.kernels import inversion, reference, volumes

BORDER, ZEROS, LINEAR = 1, 0, 0  # torch's numbers of what lies outside and of linear interpolation


@functools.lru_cache(maxsize=32)
def _axes(grid: tuple[int, ...], matrix: tuple[float, ...], sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What torch's sampler wants to know of ``matrix (x + u)``, x in the middle column first, -1 and 1 at the ends of an image of `sizes`.

    Of each index along z, y and x its share of the place, (D, 1, 1, 3), (1, H, 1, 3), (1, 1, W, 3); and what a vector u adds, (3, 3).
    """
    # an axis of one voxel has no extent: its only index is 0, wherever the position says
    scale = np.array([2 / (size - 1) if size > 1 else 0.0 for size in sizes])
    whole = np.asarray(matrix).reshape(3, 4) * scale[:, None]
    whole[:, 3] -= 1
    whole = whole[::-1]
    with torch.inference_mode(False):  # what one caller was the first to ask for serves others too
        shares = [np.arange(size)[:, None] * whole[None, :, axis] + (whole[:, 3] if axis == 0 else 0) for axis, size in enumerate(grid)]
        shaped = [share.reshape(*(grid[axis] if axis == other else 1 for other in range(3)), 3) for axis, share in enumerate(shares)]
        z, y, x, slopes = (torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)).to(device) for part in (*shaped, whole[:, :3].T))
    return z, y, x, slopes


def _places(field: Tensor | None, grid: tuple[int, ...], matrix: Floats, sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Where torch's sampler finds ``matrix (x + field(x))`` in an image of `sizes`: (1, D, H, W, 3)."""
    z, y, x, slopes = _axes(tuple(grid), tuple(matrix.ravel().tolist()), tuple(sizes), device)
    places = (z + y) + x
    if field is not None:
        places.view(-1, 3).addmm_(field.reshape(len(field), -1).T, slopes[3 - len(field) :])
    return places[None]


def sample(
    image: Tensor,
    field: Tensor | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    matrix: Floats = volumes.IDENTITY,
    out: Tensor | None = None,
    ranges: None = None,
    blocks: volumes.Blocks | None = None,
) -> Tensor:
    """See :func:`nnreg.kernels.volumes.sample`; every row is sampled whole."""
    if blocks is not None and field is not None:
        field = sample(field, shape=blocks.shape, matrix=blocks.matrix) * _own_lengths(blocks, field)
    grid = tuple(field.shape[1:]) if field is not None else shape
    assert grid is not None
    places = _places(field, grid, matrix, tuple(image.shape[1:]), image.device)
    result = nnf.grid_sample(image[None], places, mode="bilinear", padding_mode="border", align_corners=True)[0]
    return result if out is None else out.copy_(result)


def compose(outer: Tensor, inner: Tensor, *, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.kernels.volumes.compose`."""
    inner = inner if scale == 1 else scale * inner
    return torch.add(sample(outer, inner), inner, out=out)


def spread(values: Tensor, field: Tensor) -> Tensor:
    """See :func:`nnreg.kernels.volumes.spread`: the derivative of sampling by the image. On a GPU the order of the additions, and their rounding, varies."""
    places = _places(field, tuple(field.shape[1:]), volumes.IDENTITY, tuple(values.shape[1:]), values.device)
    given = torch.ops.aten.grid_sampler_3d_backward(values[None], values[None], places, LINEAR, ZEROS, True, [True, False])
    received: Tensor = given[0][0]
    return received


@functools.lru_cache(maxsize=64)
def _filter(sigma: float, size: int, device: torch.device) -> Tensor:
    """A Gaussian over a line of `size` voxels as a matrix, border values continued outside."""
    weights = volumes.gaussian(sigma)
    reach, rows = len(weights) // 2, np.arange(size)
    matrix = np.zeros((size, size), np.float32)
    for offset, weight in enumerate(weights, start=-reach):
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
    with torch.inference_mode(False):
        return torch.from_numpy(matrix).to(device)


def smooth(volume: Tensor, sigma: tuple[float, float, float], *, out: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.kernels.volumes.smooth`."""
    count, depth, height, width = volume.shape
    layouts = ((count, depth, height * width), (count * depth, height, width), (count * depth * height, width, 1))
    result = volume.contiguous()
    for axis, (layout, width_of) in enumerate(zip(layouts, sigma, strict=True)):
        size = layout[1]
        if len(volumes.gaussian(float(width_of))) == 1 or size == 1:
            continue
        matrix, lines = _filter(float(width_of), size, volume.device), result.view(layout)
        # along rows one product of matrices, else one for each plane or volume
        moved = lines[..., 0] @ matrix.T if axis == 2 else torch.bmm(matrix.expand(layout[0], size, size), lines)
        result = moved.view(volume.shape)
    return result if out is None else out.copy_(result)


def smooth_force(gradient: Tensor, warped: Tensor, sigma: tuple[float, float, float], *, out: Tensor, blocks: volumes.Blocks | None = None) -> Tensor:
    """See :func:`nnreg.kernels.volumes.smooth_force`; the length is a tensor, which nobody waits for."""
    force = reference.force(gradient, warped, len(out))
    if blocks is not None:
        for axis, (start, factor, size) in enumerate(zip(blocks.starts, blocks.factors, out.shape[1:], strict=True), start=1):
            force = force.narrow(axis, start, factor * size)
        force = block_means(force, blocks.factors) / _own_lengths(blocks, force)
    smooth(force, sigma, out=out)
    return out.square().sum(0).max().sqrt()


def smooth_divergence(field: Tensor, shares: tuple[float, float, float], *, spare: None = None) -> Tensor:
    """See :func:`nnreg.kernels.volumes.smooth_divergence`."""
    first = 4 - len(field)
    divergence = torch.stack([_slope(field[k], first + k - 1) for k in range(len(field))]).sum(0)
    return field + torch.stack([shares[3 - len(field) + k] * _slope(divergence, first + k - 1) for k in range(len(field))])


def _slope(volume: Tensor, axis: int) -> Tensor:
    """Central difference of (D, H, W) along an axis, 0 across a border."""
    result, size = torch.zeros_like(volume), volume.shape[axis]
    if size > 2:
        result.narrow(axis, 1, size - 2).copy_((volume.narrow(axis, 2, size - 2) - volume.narrow(axis, 0, size - 2)) / 2)
    return result


def middle(image: Tensor, *, out: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.kernels.volumes.middle`."""
    result = (4 * image * (1 - image)).square()
    return result if out is None else out.copy_(result)


def _own_lengths(blocks: volumes.Blocks, field: Tensor) -> Tensor:
    """Of each component how many voxels of the images are as long as one of the field."""
    return torch.tensor(blocks.factors[3 - len(field) :], dtype=field.dtype, device=field.device).reshape(-1, 1, 1, 1)


def block_means(image: Tensor, factors: tuple[int, ...]) -> Tensor:
    """See :func:`nnreg.kernels.volumes.block_means`; (C, D, H, W) only."""
    return nnf.avg_pool3d(image[None], factors)[0]


def turned(field: Tensor, matrix: Doubles) -> Tensor:
    """See :func:`nnreg.kernels.volumes.turned`."""
    return torch.einsum("ij,jdhw->idhw", torch.from_numpy(matrix).to(field), field)


def added(volume: Tensor, index: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """See :func:`nnreg.kernels.volumes.added`."""
    flat = (index[0] * volume.shape[2] + index[1]) * volume.shape[3] + index[2]
    return volume.reshape(len(volume), -1).index_add(1, flat, values).reshape(volume.shape)


def settle(start: Tensor, field: Tensor) -> Tensor:
    """See :func:`nnreg.kernels.inversion.settle`."""
    result = start
    step, before = torch.ones_like(field[:1]), torch.full_like(field[:1], torch.inf)
    for _ in range(inversion.ITERATIONS):
        left = compose(field, result)
        square = left.square().sum(0, keepdim=True)
        step = torch.where(square > 0.81 * before, (step / 2).clamp(min=float(inversion.SHORTEST_STEP)), step)
        before = square
        # what has settled stays where it is
        result = result - torch.where(square > float(inversion.TOLERANCE) ** 2, step, 0.0) * left
    return result


def approach(result: Tensor, received: Tensor) -> Tensor:
    """See :func:`nnreg.kernels.inversion.approach`."""
    own = float(inversion.OWN_WEIGHT)
    return result - received[:-1] / (received[-1:] + own)


def unsettled(field: Tensor, inverse: Tensor) -> tuple[float, float]:
    """See :func:`nnreg.kernels.inversion.unsettled`."""
    length = compose(field, inverse).square().sum(0).sqrt()
    sizes = field.shape[1:]
    inside = torch.ones_like(length, dtype=torch.bool)
    for axis, part in enumerate(inverse, start=3 - len(inverse)):
        index = torch.arange(sizes[axis], device=field.device).reshape([-1 if axis == other else 1 for other in range(3)])
        inside &= (index + part >= 0) & (index + part <= sizes[axis] - 1)
    count = inside.sum().clamp(min=1)
    share, largest = ((length > inversion.LARGEST_RESIDUAL) & inside).sum() / count, torch.where(inside, length, 0.0).max()
    return float(share), float(largest)
