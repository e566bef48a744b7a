"""Normalised mutual information, for images whose contrasts are related but not alike (CT and MR, T1 and T2).

Each fixed intensity falls into one bin, each warped one is spread over four by a cubic B-spline (Mattes et al. 2003), so that the joint histogram has a
derivative. The definition is that of the engine (:class:`nnreg.engine.similarity.MutualInformation`), whose compiled histogram is used on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.errors import ConfigurationError
from nnreg.geometry.fields import constant
from nnreg.losses.base import LOSSES, check_pair, full_precision, slab_voxels

CHUNK = 2**17  # voxels whose spline weights exist at a time, at least: a table of all voxels and bins would be 35 images
WORKING_TABLES = 8  # of that size that exist side by side
TAIL = 3  # bins beyond the last that take the ends of the spline
OUTSIDE = -1  # bin of voxels that no row of the histogram counts
EMPTY = 1e-12  # floor of a probability under a logarithm


def _spline(distance: Tensor) -> Tensor:
    """Cubic B-spline at a distance from its centre, in bins."""
    near = distance.abs()
    return torch.where(near < 1, (4 - 6 * near**2 + 3 * near**3) / 6, (2 - near).clamp(min=0) ** 3 / 6)


def _spline_slope(distance: Tensor) -> Tensor:
    near = distance.abs()
    return torch.where(near < 1, 1.5 * near**2 - 2 * near, -0.5 * (2 - near).clamp(min=0) ** 2) * distance.sign()


def _chunks(fixed_bins: Tensor, position: Tensor, bins: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Parts of the voxels: where, their fixed bins, their distances (n, bins + 3) from the centre of every warped bin."""
    centres = torch.arange(bins + TAIL, device=position.device, dtype=position.dtype) - 1
    size = slab_voxels(position.device, CHUNK, WORKING_TABLES * len(centres))
    for start in range(0, position.numel(), size):
        part = slice(start, start + size)
        yield part, fixed_bins[part], position[part, None] - centres


def joint_histogram(fixed_bins: Tensor, position: Tensor, bins: int) -> Tensor:
    """Joint histogram (bins, bins + 3), float64, of voxels (n,): fixed bins (int) and positions of the warped intensities between 0 and bins - 1."""
    total = torch.zeros(bins, bins + TAIL, dtype=torch.float64, device=position.device)
    rows = torch.arange(bins, device=position.device)
    for _, part_bins, distances in _chunks(fixed_bins, position, bins):
        # a product with one-hot rows instead of scattered additions: the same sum every time, on any device
        total += ((part_bins == rows[:, None]).to(position.dtype) @ _spline(distances)).double()
    return total


def _slope(table: Tensor, fixed_bins: Tensor, position: Tensor, bins: int) -> Tensor:
    """Derivative by position (n,) of a function of the histogram whose derivative by its bins is `table`."""
    result = torch.empty_like(position)
    for part, part_bins, distances in _chunks(fixed_bins, position, bins):
        result[part] = (table.to(position.dtype)[part_bins] * _spline_slope(distances)).sum(dim=1)
    return result


def _information(joint: Tensor) -> tuple[Tensor, Tensor]:
    """``(H(f) + H(w)) / H(f, w) - 1`` of a joint histogram of counts, and its derivative by each count; both 0 where only one bin is filled."""
    total = joint.sum().clamp(min=1)
    joint = joint / total
    logs, fixed_logs, warped_logs = (table.clamp(min=EMPTY).log() for table in (joint, joint.sum(dim=1, keepdim=True), joint.sum(dim=0, keepdim=True)))
    entropy = -(joint * logs).sum()
    told = entropy >= 1e-6
    ratio = -(joint * (fixed_logs + warped_logs)).sum() / entropy
    slope = (ratio * logs - fixed_logs - warped_logs) / (entropy * total)
    return torch.where(told, ratio - 1, 0.0), torch.where(told, slope, 0.0)  # chosen on the device, which nobody waits for


def value_and_slope(fixed_bins: Tensor, position: Tensor, inside: Tensor | None, bins: int) -> tuple[Tensor, Tensor]:
    """Value and derivative by position of one channel (n,), voxels of the mask `inside` only. Nothing is read back from a device."""
    if inside is not None:
        fixed_bins = torch.where(inside, fixed_bins, OUTSIDE)  # to pick voxels out, a GPU would have to say first how many there are
    value, table = _information(joint_histogram(fixed_bins, position, bins))
    slope = _slope(table, fixed_bins, position, bins)
    return value, slope if inside is None else torch.where(inside, slope, 0.0)


def _by_compiled(fixed_bins: Tensor, position: Tensor, inside: Tensor | None, bins: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """:func:`value_and_slope` by the engine's compiled histogram, which goes over the image once."""
    import numpy as np

    from nnreg.kernels import linear_cpu
    from nnreg.kernels.threads import in_parts

    # an image of two axes is a volume of many thin planes, so that its rows go to different threads
    volume = tuple(shape) if len(shape) == 3 else (shape[0], 1, shape[1])
    depth = volume[0]
    row = fixed_bins.to(torch.uint8).numpy().reshape(volume)
    unit = (position / (bins - 1)).numpy().reshape(volume)
    valid = np.ones(volume, np.float32) if inside is None else inside.numpy().astype(np.float32).reshape(volume)
    parts = np.zeros((depth, bins, bins + TAIL))
    in_parts(linear_cpu.joint_histogram, depth, parts, row, unit, valid, bins)
    value, table = _information(torch.from_numpy(parts.sum(axis=0)))
    gradient = np.empty(volume, np.float32)
    in_parts(linear_cpu.histogram_slope, depth, gradient, table.float().numpy(), row, unit, valid, bins)
    return value, torch.from_numpy(gradient).reshape(-1) / (bins - 1)  # the kernel's derivative is by the intensity in [0, 1]


class _NMI(torch.autograd.Function):
    """The gradient is computed with the value, so that one image is kept for the backward pass and never a table of voxels and bins."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, mask: Tensor | None, bins: int, limits: tuple[float, float] | None) -> Tensor:
        shape, gradient, total = warped.shape[1:], torch.empty_like(warped, memory_format=torch.contiguous_format), torch.zeros((), device=warped.device)
        for index in range(len(warped)):
            inside = None if mask is None else mask[index].flatten()
            fixed_position, _ = _positions(fixed[index].flatten(), inside, bins, limits)
            position, scale = _positions(warped[index].flatten(), inside, bins, limits)
            fixed_bins = (fixed_position + 0.5).long()
            if position.device.type == "cpu" and position.dtype == torch.float32 and bins <= 256:
                value, slope = _by_compiled(fixed_bins, position, inside, bins, shape)
            else:
                value, slope = value_and_slope(fixed_bins, position, inside, bins)
            # what the limits cut off does not change with the intensity
            result = slope * scale
            if limits is not None:
                result = torch.where((position > 0) & (position < bins - 1), result, 0.0)
            gradient[index] = result.reshape(shape)
            total = total + value
        ctx.save_for_backward(gradient.div_(len(warped)))
        return (total / len(warped)).to(warped.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * gradients[0], None, None, None


def _positions(image: Tensor, inside: Tensor | None, bins: int, limits: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Intensities (n,) as positions between 0 and bins - 1, 0 outside the mask, and positions per intensity."""
    if limits is not None:
        low, high = constant(limits, image.device, image.dtype)
    elif inside is None:
        low, high = image.amin(), image.amax()
    else:  # nothing inside leaves no positive range
        low, high = torch.where(inside, image, math.inf).amin(), torch.where(inside, image, -math.inf).amax()
    scale = torch.where(high > low, (bins - 1) / (high - low).clamp(min=torch.finfo(image.dtype).tiny), 0.0)
    position = ((image - low) * scale).clamp(0, bins - 1)
    return position if inside is None else torch.where(inside, position, 0.0), scale


@LOSSES.register("nmi")
class NMI(nn.Module):
    """Negated normalised mutual information (Studholme et al. 1999), ``1 - (H(f) + H(w)) / H(f, w)``: 0 where one image says nothing of the other, at best -1.

    Per sample and channel, then averaged. Only `warped` gets a gradient: fixed intensities fall into whole bins.

    Parameters
    ----------
    bins
        Of each image's intensities, 4 to 256.
    limits : (low, high), optional
        Intensities that the bins span, for both images; values beyond fall into the outermost bins. Without, each image's own range (within the mask).
    """

    kind = "similarity"
    splits_over_ranks = True

    def __init__(self, bins: int = 32, limits: tuple[float, float] | None = None) -> None:
        super().__init__()
        if not 4 <= bins <= 256:
            raise ConfigurationError(f"nmi needs 4 to 256 bins, found {bins}.")
        if limits is not None and (len(limits) != 2 or not limits[0] < limits[1]):
            raise ConfigurationError(f"the limits of nmi must be [low, high] with low < high, found {limits}.")
        self.bins, self.limits = bins, None if limits is None else (float(limits[0]), float(limits[1]))

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the voxels where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        shape = tuple(fixed.shape[2:])
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            flat_mask = None if mask is None else mask.bool().expand_as(fixed).reshape(-1, *shape)
            value: Tensor = _NMI.apply(*(full_precision(image).reshape(-1, *shape) for image in (fixed.detach(), warped)), flat_mask, self.bins, self.limits)
        return -value
