"""What the overlap of all labels of a pair is made of, from the label maps themselves: its cost does not grow with the number of labels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from nnreg.geometry.fields import is_traced

LABELS = 2**15  # label maps of samples are int16; a fixed number, because counting those that occur would wait for the device


@dataclass(frozen=True)
class LabelSums:
    """Sums over the fixed grid for each label below LABELS.

    Attributes
    ----------
    overlap : Tensor, shape (LABELS,)
        Of the share of the label in the warped map, where the fixed map has that label.
    warped : Tensor, shape (LABELS,)
        Of that share everywhere.
    fixed : Tensor, shape (LABELS,)
        Voxels of the label in the fixed map.
    shared : Tensor, shape (LABELS,), bool
        Whether both maps have it; the background counts as no label.
    """

    overlap: Tensor
    warped: Tensor
    fixed: Tensor
    shared: Tensor


def label_sums(field: Tensor, fixed: Tensor, moving: Tensor) -> LabelSums:
    """The same as one-hot maps of all labels, warped by :func:`nnreg.geometry.warp` with zeros outside, would give.

    The share of a label is its weight among the neighbours that a position lies between. At a fixed voxel only the share of its own label counts for the
    overlap, so one pass over the neighbours is enough.

    Parameters
    ----------
    field : Tensor, shape (ndim, *spatial_fixed), voxels
    fixed, moving : Tensor, shape (*spatial), integers; 0 and below are background
    """
    values, source = fixed.clamp(min=0).long(), moving.clamp(min=0).long()
    overlap, warped = _sums(field.float(), values, source)
    sizes, there = (warped.new_zeros(LABELS).scatter_add(0, side.reshape(-1), warped.new_ones(side.numel())) for side in (values, source))
    shared = (sizes > 0) & (there > 0)
    shared[0] = False
    return LabelSums(overlap, warped, sizes, shared)


def _sums(field: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
    """Overlap and warped sums, (2, LABELS)."""
    if field.device.type == "cpu" and not is_traced():
        from nnreg.kernels.label_overlap_cpu import Sums

        found: Tensor = Sums.apply(field, fixed, moving, LABELS)
        return found
    return sums_by_torch(field, fixed, moving)


def sums_by_torch(field: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
    """The same on any device."""
    values, source = fixed.reshape(-1), moving.reshape(-1)
    neighbours, weights = _neighbours(field, tuple(moving.shape))
    labels = source[neighbours]
    overlap = field.new_zeros(LABELS).scatter_add(0, values, (weights * (labels == values)).sum(dim=0))
    return torch.stack([overlap, field.new_zeros(LABELS).scatter_add(0, labels.reshape(-1), weights.reshape(-1))])


def _neighbours(field: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Of each fixed voxel the 2^ndim voxels around its position in an image of `size`, as flat indices, and their weights: both (2^ndim, N)."""
    axes = [torch.arange(length, device=field.device, dtype=field.dtype) for length in field.shape[1:]]
    position = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + field).reshape(len(size), -1)
    low = position.detach().floor()
    share, low = position - low, low.long()
    indices, weights = [], []
    for corner in itertools.product((0, 1), repeat=len(size)):
        index, weight = torch.zeros_like(low[0]), torch.ones_like(share[0])
        for axis, step in enumerate(corner):
            at = low[axis] + step
            weight = weight * (share[axis] if step else 1.0 - share[axis]) * ((at >= 0) & (at < size[axis]))
            index = index * size[axis] + at.clamp(0, size[axis] - 1)
        indices.append(index)
        weights.append(weight)
    return torch.stack(indices), torch.stack(weights)
