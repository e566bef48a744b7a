"""Metrics of tensors as numbers that stay on their device: nothing of the size of an image is moved, and nothing waits for the device.

The same definitions as for arrays. Results are tensors without axes, float64 (float32 on Apple's GPUs); NaN where a value does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnreg.errors import GeometryError
from nnreg.geometry import FieldMap, Space, jacobian_determinant

LABELS_FROM, LABELS_TO = -(2**15), 2**15 - 1  # of int16


def ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.metrics.ncc`."""
    first, second, inside, count = _values(fixed, warped, mask)
    first, second = (_kept(values - (_sum(values) / count).float(), inside) for values in (first, second))
    scale = (_sum(first * first) * _sum(second * second)).sqrt()
    return torch.where(scale > 0, _sum(first * second) / scale, math.nan)


def mse(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.metrics.mse`."""
    first, second, _, count = _values(fixed, warped, mask)
    return _sum((first - second).square()) / count


def mae(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.metrics.mae`."""
    first, second, _, count = _values(fixed, warped, mask)
    return _sum((first - second).abs()) / count


def grad_l2(fields: Tensor, scale: Tensor | None = None, steps: Sequence[float] | None = None) -> Tensor:
    """See :func:`nnreg.metrics.grad_l2`: fields (B, ndim, *spatial), `scale` of their components, `steps` between voxels."""
    scaled = fields if scale is None else fields * scale
    means = [
        _mean_square(torch.diff(scaled, dim=axis) if steps is None else torch.diff(scaled, dim=axis).div_(steps[axis - 2]))
        for axis in range(2, fields.ndim)
        if fields.shape[axis] > 1
    ]
    return torch.stack(means).mean() if means else fields.new_full((), math.nan)


def _mean_square(values: Tensor) -> Tensor:
    return _sum(values.square_()) / values.numel()


def mean_length(difference: Tensor, inside: Tensor) -> Tensor:
    """Mean length of vectors (B, ndim, *spatial) where `inside` (B, *spatial) says so."""
    return _sum(_kept(difference.norm(dim=1), inside)) / inside.count_nonzero()


def folding(field: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See :func:`nnreg.metrics.folding`: field (B, ndim, *spatial)."""
    determinants, inside = _determinants(field, mask)
    folded = determinants <= 0
    total, count = (voxels.count_nonzero().to(_wide(field)) for voxels in (folded if inside is None else folded & inside, _counted(determinants, inside)))
    exists = 0 * total / count  # NaN where no voxel counts
    return total / len(field) + exists, 100 * total / count


def sdlogj(field: Tensor, mask: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.metrics.sdlogj`: field (B, ndim, *spatial)."""
    determinants, inside = _determinants(field, mask)
    inside = _counted(determinants, inside) & (determinants > 0)
    return _deviation(torch.where(inside, determinants, 1.0).to(_wide(field)).log(), inside)


def sdlogj_learn2reg(field: Tensor, mask: Tensor | None = None) -> Tensor:
    """See :func:`nnreg.metrics.sdlogj_learn2reg`: field (B, ndim, *spatial)."""
    determinants, inside = _determinants(field, mask, border=2)
    return _deviation((determinants.to(_wide(field)) + 3).clamp(1e-9, 1e9).log(), _counted(determinants, inside))


def _counted(values: Tensor, inside: Tensor | None) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool) if inside is None else inside


def _determinants(field: Tensor, mask: Tensor | None, border: int = 0) -> tuple[Tensor, Tensor | None]:
    """Determinants (B, *inner) without the border, and where they count; none on a grid that has no differences, or nothing but its border."""
    field, spatial = field.detach(), tuple(field.shape[2:])
    if min(spatial) < 2 or min(spatial) <= 2 * border:
        return field.new_zeros((len(field), *(0,) * len(spatial)), dtype=torch.float32), None
    inner = (slice(None), *(slice(border, size - border) for size in spatial))
    found = _of_each(field)
    return found[inner], None if mask is None else _on_grid(mask, found)[inner]


def _deviation(values: Tensor, inside: Tensor) -> Tensor:
    """Standard deviation of the values, in double precision, that count."""
    count = inside.count_nonzero()
    mean = torch.where(inside, values, 0.0).sum() / count
    return (torch.where(inside, (values - mean).square(), 0.0).sum() / count).sqrt()


def _of_each(fields: Tensor) -> Tensor:
    """Determinants (B, *spatial); on a CPU by the compiled loop, which takes a fifth of the time."""
    if fields.device.type != "cpu":
        return jacobian_determinant(fields)
    space = Space.plain(tuple(fields.shape[2:]))
    return torch.stack([torch.from_numpy(FieldMap(field.float().numpy(), space).determinants()) for field in fields])


def mean_dice(fixed: Tensor, warped: Tensor, moving: Tensor | None = None) -> Tensor:
    """Mean Dice of the labels above 0, int16 or narrower, that `fixed` has, and `moving`, if given, too (Learn2Reg's rule): NaN without one."""
    both = torch.where(fixed == warped, fixed, torch.zeros((), dtype=fixed.dtype, device=fixed.device))
    size, other, common = (_counts(labels) for labels in (fixed, warped, both))
    scored = size > 0 if moving is None else (size > 0) & (_counts(moving) > 0)
    present = scored.to(_wide(fixed))
    return (present * 2 * common / (size + other).clamp(min=1)).sum() / present.sum()


def _counts(labels: Tensor) -> Tensor:
    """How many voxels have each value of 1 to the largest of int16: as long for any labels, so that nobody has to look which there are."""
    return torch.bincount(labels.reshape(-1).clamp(min=0), minlength=LABELS_TO + 1)[1:]


def _wide(values: Tensor) -> torch.dtype:
    return torch.float32 if values.device.type == "mps" else torch.float64


def _sum(values: Tensor) -> Tensor:
    """Rows by themselves, which loses nothing, and only their sums in double precision, which takes three times as long."""
    return values.sum(dim=-1).sum(dtype=_wide(values))


def _kept(values: Tensor, inside: Tensor | None) -> Tensor:
    return values if inside is None else torch.where(inside, values, 0.0)


def _values(fixed: Tensor, warped: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | int]:
    """Both images, zero where the mask is, the mask, and how many values count."""
    if fixed.shape != warped.shape:
        raise GeometryError(f"shapes {tuple(fixed.shape)} and {tuple(warped.shape)} cannot be compared: bring both onto the fixed grid first.")
    first, second = fixed.detach().float(), warped.detach().to(fixed.device).float()
    if mask is None:
        return first, second, None, first.numel()
    try:
        inside = (mask.to(fixed.device) != 0).expand(first.shape)
    except RuntimeError:
        raise GeometryError(f"a mask of shape {tuple(mask.shape)} does not fit images of shape {tuple(first.shape)}.") from None
    return _kept(first, inside), _kept(second, inside), inside, inside.count_nonzero()


def _on_grid(mask: Tensor, values: Tensor) -> Tensor:
    """Voxels that count, boolean like `values` (B, *spatial). A mask may have leading axes of length 1."""
    spatial = tuple(values.shape[1:])
    if tuple(mask.shape[-len(spatial) :]) != spatial or math.prod(mask.shape[: -len(spatial)]) not in (1, len(values)):
        raise GeometryError(f"a mask of shape {tuple(mask.shape)} does not lie on the field's grid {spatial}.")
    return (mask.to(values.device) != 0).reshape(-1, *spatial).expand(values.shape)
