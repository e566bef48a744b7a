"""MIND-SSC: compares what each image says of the likeness of a voxel's neighbours, which is much the same in every modality (Heinrich et al., MICCAI 2013).

The descriptor is that of the engine (:func:`nnreg.engine.mind.mind`), with a gradient.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES, check_pair, full_precision, masked, slab_voxels
from nnreg.losses.lncc import box_sum
from nnreg.losses.ranks import mean_over_ranks

SLAB_VOXELS = 2**19  # twelve maps and what their derivatives need exist for so many voxels at a time
MAPS = 64  # as many, at most
FLOOR, CEILING = 1e-3, 1e3  # the local noise level is held between these multiples of its mean


def _neighbour_pairs(shape: tuple[int, ...], dilation: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of the nearest neighbours (two per axis of more than one voxel) that are not opposite each other."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    neighbours = [tuple(sign * dilation if axis == chosen else 0 for axis in range(len(shape))) for chosen in axes for sign in (-1, 1)]
    return [(a, b) for a, b in itertools.combinations(neighbours, 2) if any(one + other for one, other in zip(a, b, strict=True))]


def _moved(image: Tensor, shift: tuple[int, ...]) -> Tensor:
    """``image(x + shift)`` (N, *spatial), border values outside."""
    for axis, step in enumerate(shift, start=1):
        if step:
            size = image.shape[axis]
            index = (torch.arange(size, device=image.device) + step).clamp(0, size - 1)
            image = image.index_select(axis, index)
    return image


def _box_mean(values: Tensor, shape: tuple[int, ...], radius: int) -> Tensor:
    """Mean over a box (N, *spatial), border values outside; an axis on which `shape` is 1 is left alone."""
    reach = [radius if size > 1 else 0 for size in shape]
    padding = [amount for amount in reversed(reach) for _ in range(2)]
    window = [2 * amount + 1 for amount in reach]
    padded = nnf.pad(values[:, None], padding, mode="replicate")[:, 0]
    inner = (slice(None), *(slice(amount, size - amount) for amount, size in zip(reach, padded.shape[1:], strict=True)))
    count = 1
    for size in window:
        count *= size
    return box_sum(padded, window)[inner] / count


def _distances(image: Tensor, valid: Tensor | None, shape: tuple[int, ...], dilation: int, radius: int) -> Tensor:
    """How unlike the patches around each pair of neighbours are (K, N, *spatial), less the least of them: mean squares over voxels valid in both."""
    result = []
    for a, b in _neighbour_pairs(shape, dilation):
        squares = (_moved(image, a) - _moved(image, b)).square()
        if valid is None:
            result.append(_box_mean(squares, shape, radius))
            continue
        both = _moved(valid, a) & _moved(valid, b)
        share = _box_mean(both.to(image.dtype), shape, radius)
        result.append(torch.where(share > 0, _box_mean(torch.where(both, squares, 0.0), shape, radius) / share.clamp(min=1e-6), 0.0))
    distances = torch.stack(result)
    return distances - distances.amin(dim=0)


def descriptors(image: Tensor, dilation: int = 2, radius: int = 1) -> Tensor:
    """Self-similarity maps of every channel: (C, *spatial) to (C * K, *spatial), all at once and without a gradient."""
    distances = _distances(image, None, tuple(image.shape[1:]), dilation, radius).movedim(1, 0)
    variance = distances.mean(dim=1, keepdim=True)
    mean = variance.flatten(1).mean(dim=1).reshape(-1, *(1,) * image.ndim)
    variance = torch.minimum(torch.maximum(variance, FLOOR * mean), CEILING * mean)
    return torch.exp(-distances / torch.where(mean > 0, variance, 1.0)).flatten(0, 1)


class _Descriptors:
    """Descriptors of both images, slab by slab along the first axis."""

    def __init__(self, images: tuple[Tensor, Tensor], mask: Tensor | None, dilation: int, radius: int) -> None:
        self.images, self.mask, self.dilation, self.radius = images, mask, dilation, radius
        self.shape = tuple(images[0].shape[1:])
        self.halo = dilation + radius
        self.depth = max(1, slab_voxels(images[0].device, SLAB_VOXELS, MAPS) * self.shape[0] // max(1, images[0].numel()))
        self.noise = [self._mean_noise(image) for image in images]

    def slabs(self) -> list[tuple[slice, slice]]:
        """Of every slab: the rows to read, and the rows among those that it is for."""
        size = self.shape[0]
        result = []
        for start in range(0, size, self.depth):
            low, stop = max(0, start - self.halo), min(size, start + self.depth)
            result.append((slice(low, min(size, stop + self.halo)), slice(start - low, stop - low)))
        return result

    def scored(self, read: slice, rows: slice) -> Tensor | None:
        """The mask (N, *slab) of the voxels of a slab."""
        return None if self.mask is None else self.mask[:, read][:, rows]

    def of(self, which: int, image: Tensor, read: slice, rows: slice) -> Tensor:
        """Descriptors (K, N, *slab) in (0, 1] of the rows `read` of an image, 1 where two patches are equal."""
        distances = self._of_rows(image, read, rows)
        mean = self.noise[which]
        variance = torch.minimum(torch.maximum(distances.mean(dim=0), FLOOR * mean), CEILING * mean)
        return torch.exp(-distances / torch.where(mean > 0, variance, 1.0))

    def _of_rows(self, image: Tensor, read: slice, rows: slice) -> Tensor:
        valid = None if self.mask is None else self.mask[:, read]
        return _distances(image, valid, self.shape, self.dilation, self.radius)[:, :, rows]

    def _mean_noise(self, image: Tensor) -> Tensor:
        """Mean over the scored voxels of the local noise level, per image (N, 1 ...)."""
        total, count = image.new_zeros(len(image)), image.new_zeros(len(image))
        for read, rows in self.slabs():
            noise, inside = self._of_rows(image[:, read], read, rows).mean(dim=0), self.scored(read, rows)
            total += (noise if inside is None else torch.where(inside, noise, 0.0)).flatten(1).sum(dim=1)
            count += noise[0].numel() if inside is None else inside.flatten(1).sum(dim=1)
        return (total / count.clamp(min=1)).reshape(-1, *(1,) * len(self.shape))


class _MIND(torch.autograd.Function):
    """Value and gradient slab by slab, so that one image per input is kept for the backward pass instead of dozens of maps."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, mask: Tensor | None, dilation: int, radius: int) -> Tensor:
        images = (fixed.detach(), warped.detach())
        needed = [which for which in (0, 1) if ctx.needs_input_grad[which]]
        gradients = {which: torch.zeros_like(images[which], memory_format=torch.contiguous_format) for which in needed}
        descriptors = _Descriptors(images, mask, dilation, radius)
        total, maps = fixed.new_zeros(()), 1
        for read, rows in descriptors.slabs():
            parts = [image[:, read].clone() for image in images]
            with torch.enable_grad():
                for which in needed:
                    parts[which].requires_grad_()
                one, other = (descriptors.of(which, part, read, rows) for which, part in enumerate(parts))
                maps, inside = len(one), descriptors.scored(read, rows)
                squares = (other - one).square()
                value = (squares if inside is None else torch.where(inside, squares, 0.0)).sum()
            if needed:
                for which, gradient in zip(needed, torch.autograd.grad(value, [parts[which] for which in needed]), strict=True):
                    gradients[which][:, read] += gradient
            total += value.detach()
        count = maps * (fixed.numel() if mask is None else mask.sum().clamp(min=1))
        ctx.save_for_backward(*(gradients[which].div_(count) if which in gradients else None for which in (0, 1)))
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        on_fixed, on_warped = ctx.saved_tensors
        return (None if on_fixed is None else on_fixed * gradients[0], None if on_warped is None else on_warped * gradients[0], None, None, None)


@LOSSES.register("mind")
class MIND(nn.Module):
    """Mean squared difference of MIND-SSC descriptors, between 0 and 1: for images of different modalities. Channels are described one by one.

    Parameters
    ----------
    dilation
        Voxels from a voxel to its neighbours.
    radius
        Half size of the patches around the neighbours, voxels.

    Notes
    -----
    The mean local noise level, from which the descriptor's limits are taken, counts as a constant in the gradient. With a mask, patches are compared over
    their voxels inside it.
    """

    kind = "similarity"
    splits_over_ranks = True

    def __init__(self, dilation: int = 2, radius: int = 1) -> None:
        super().__init__()
        if dilation < 1 or radius < 0:
            raise ConfigurationError(f"mind needs dilation >= 1 and radius >= 0, found {dilation} and {radius}.")
        self.dilation, self.radius = dilation, radius

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the voxels where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        shape = tuple(fixed.shape[2:])
        if max(shape) == 1:
            return full_precision(warped).sum() * 0.0  # a single voxel has no neighbours
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            flat_mask = None if mask is None else mask.bool().expand_as(fixed).reshape(-1, *shape)
            # what the mask leaves out may be NaN
            pair = [masked(full_precision(image), mask).reshape(-1, *shape) for image in (fixed, warped)]
            value: Tensor = _MIND.apply(*pair, flat_mask, self.dilation, self.radius)
        return value if flat_mask is None else mean_over_ranks(value, flat_mask.sum())
