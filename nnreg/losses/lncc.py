"""Local normalised cross correlation, squared: exact gradient, float32, safe on flat regions.

The value of a window w is ``c^2 / (v_I v_J)`` with ``c = sum IJ - sum I sum J / N`` and the variances likewise. N is the number of
voxels of the window that lie inside the image (and inside the mask): padding with zeros and dividing by the full window size would
make the zeros part of the statistics, and reward pulling dark voxels to the border.

On the CPU a compiled sweep (:mod:`nnreg.kernels.lncc_cpu`) replaces :func:`lncc_value_and_gradient`, on CUDA devices a Triton kernel
(:mod:`nnreg.kernels.lncc_triton`) where triton is installed. Both are tested against that function, which runs elsewhere.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES, check_pair, full_precision
from nnreg.losses.ranks import mean_over_ranks

# A variance below this share of the sum of squares, in units of the float's step, is rounding: the window is flat.
FLAT_STEPS = 100.0


class _Window(NamedTuple):
    """Statistics of every window: means, covariance and variances (sums, not divided by N), and which windows say nothing."""

    mean_fixed: Tensor
    mean_warped: Tensor
    cross: Tensor
    variance_fixed: Tensor
    variance_warped: Tensor
    silent: Tensor


def box_sum(values: Tensor, window: Sequence[int]) -> Tensor:
    """Sum over a centred box, clipped at the border.

    Parameters
    ----------
    values : Tensor, shape (..., *spatial)
    window
        Odd size of the box per spatial axis, in voxels.

    Returns
    -------
    Tensor, same shape

    Notes
    -----
    Per axis, sums of 2, 4, 8 ... neighbours are doubled and added up to the window's size: log2(window) additions of whole arrays,
    faster on a CPU than pooling, and with fewer roundings than running sums.
    """
    for axis, size in zip(range(-len(window), 0), window):
        if size > 1:
            values = _sum_along(values, axis, size)
    return values


def _sum_along(values: Tensor, axis: int, size: int) -> Tensor:
    length = values.shape[axis]
    pad = [0, 0] * (-axis - 1) + [size // 2, size // 2]
    doubled = nnf.pad(values, pad)
    total: Tensor | None = None
    offset, width = 0, 1  # `doubled` holds sums of `width` neighbours; `total` the first `offset` voxels of every window
    while True:
        if size & width:
            part = doubled.narrow(axis, offset, length)
            total = part if total is None else total + part
            offset += width
        if offset == size:
            return total if total is not None else values
        doubled = doubled.narrow(axis, 0, doubled.shape[axis] - width) + doubled.narrow(axis, width, doubled.shape[axis] - width)
        width *= 2


def lncc_value_and_gradient(
    fixed: Tensor,
    warped: Tensor,
    window: Sequence[int],
    *,
    mask: Tensor | None = None,
    smooth_nr: float = 0.0,
    smooth_dr: float = 1e-5,
    warped_dr: float | None = None,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Mean squared local correlation of two images, and its derivative with respect to `warped`.

    Parameters
    ----------
    fixed, warped : Tensor, shape (N, *spatial), float32 or float64
        N counts samples and channels; windows never cross from one to the next.
    window
        Odd size per spatial axis, in voxels.
    mask : Tensor of bool, shape (N, *spatial), optional
        Voxels outside belong to no window, and windows centred there are not scored.
    smooth_nr, smooth_dr
        Added to the numerator; floor of each variance (sums over the window).
    warped_dr
        Another floor for the variance of `warped`.
    gradient
        Whether to return the derivative.

    Returns
    -------
    value : Tensor, scalar
        Mean over the scored windows; 0 where no window can be scored.
    gradient : Tensor, shape (N, *spatial), or None

    Notes
    -----
    With A = 2c / (v_I v_J) and B = -value / v_J per window, the derivative at a voxel is the sum over the windows that hold it of
    ``A (I - mean_I) + 2 B (J - mean_J)``: three box sums, and no graph to keep.
    """
    valid = None if mask is None else mask.to(fixed.dtype)
    statistics = _statistics(fixed, warped, window, valid, smooth_nr, smooth_dr)
    other_dr = smooth_dr if warped_dr is None else warped_dr
    centred_fixed, centred_warped, (mean_fixed, mean_warped, cross, variance_fixed, variance_warped, silent) = statistics
    floored_fixed, floored_warped = variance_fixed.clamp(min=smooth_dr), variance_warped.clamp(min=other_dr)
    inverse = (floored_fixed * floored_warped).reciprocal_().masked_fill_(silent, 0.0)
    values = (cross * cross + smooth_nr) * inverse if smooth_nr else cross * cross * inverse
    scored = fixed.numel() if mask is None else mask.sum().clamp(min=1)
    value = values.sum() / scored
    if not gradient:
        return value, None
    on_fixed = cross * inverse * 2.0
    on_warped = values.mul_(-2.0).div_(floored_warped).masked_fill_(variance_warped <= other_dr, 0.0)
    constant = box_sum(on_fixed * mean_fixed + on_warped * mean_warped, window)
    result = centred_fixed * box_sum(on_fixed, window) + centred_warped * box_sum(on_warped, window) - constant
    if valid is not None:
        result = result * valid
    return value, result / scored


def _statistics(
    fixed: Tensor, warped: Tensor, window: Sequence[int], valid: Tensor | None, smooth_nr: float, smooth_dr: float
) -> tuple[Tensor, Tensor, _Window]:
    """Both images without their mean (and zero outside `valid`), and the statistics of their windows."""
    centred_fixed, centred_warped = _centred(fixed, valid), _centred(warped, valid)
    count = box_sum(torch.ones_like(fixed[:1]) if valid is None else valid, window).clamp_(min=1.0)
    sums = box_sum(torch.stack([centred_fixed, centred_warped, centred_fixed * centred_warped, centred_fixed.square(), centred_warped.square()]), window)
    mean_fixed, mean_warped = sums[0] / count, sums[1] / count
    cross = sums[2] - sums[0] * mean_warped
    variance_fixed = sums[3] - sums[0] * mean_fixed
    variance_warped = sums[4] - sums[1] * mean_warped
    flat = FLAT_STEPS * torch.finfo(fixed.dtype).eps
    silent = (variance_fixed <= flat * sums[3]) | (variance_warped <= flat * sums[4])
    if smooth_nr:
        # with both variances at their floor the numerator's constant alone would score, and a flat pair would look perfect
        silent |= (variance_fixed <= smooth_dr) & (variance_warped <= smooth_dr)
    if valid is not None:
        silent |= valid == 0
    return centred_fixed, centred_warped, _Window(mean_fixed, mean_warped, cross, variance_fixed, variance_warped, silent)


def _centred(image: Tensor, valid: Tensor | None) -> Tensor:
    """Without its mean: the sums of squares of a window cancel, and every digit spent on an offset is lost."""
    axes = tuple(range(1, image.ndim))
    if valid is None:
        return image - image.mean(dim=axes, keepdim=True)
    inside = torch.where(valid > 0, image, 0.0)  # not a product: what the mask leaves out may be NaN
    mean = inside.sum(dim=axes, keepdim=True) / valid.sum(dim=axes, keepdim=True).clamp(min=1.0)
    return (inside - mean) * valid


def _fused_value_and_gradient(
    fixed: Tensor, warped: Tensor, window: Sequence[int], *, mask: Tensor | None, smooth_dr: float, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`lncc_value_and_gradient` by the compiled sweep: one pass over the images, nothing kept but a few planes."""
    from nnreg.kernels.correlation import Windows

    sizes = tuple(fixed.shape[1:])
    # an image of two axes is a volume of many thin planes, so that its rows go to different threads
    shape = sizes if len(sizes) == 3 else (sizes[0], 1, sizes[1])
    half = [size // 2 for size in window]
    radii = (half[0], half[1], half[2]) if len(half) == 3 else (half[0], 0, half[1])
    result = torch.empty_like(fixed, memory_format=torch.contiguous_format)
    total, scored = 0.0, 0
    for index in range(fixed.shape[0]):
        one, other, out = (tensor[index].detach().contiguous().numpy().reshape(shape) for tensor in (fixed, warped, result))
        inside = None if mask is None else (mask[index] > 0).numpy().reshape(shape)
        windows = Windows.of(one, radii, floor=smooth_dr, mask=inside)
        value, _ = windows.correlation(other, out)
        out *= windows.scored
        total, scored = total + value * windows.scored, scored + windows.scored
    return torch.tensor(total / max(1, scored)), result.div_(max(1, scored)) if gradient else None


@functools.cache
def _kernel_on(device: torch.device) -> Callable[..., tuple[Tensor, Tensor | None]] | None:
    """The Triton kernel, where triton is installed and agrees with torch about a small pair on this device."""
    if importlib.util.find_spec("triton") is None:
        return None
    fixed, warped = (torch.arange(60.0, device=device).reshape(1, 3, 4, 5).mul(step).sin() for step in (1.0, 2.0))
    try:
        from nnreg.kernels.lncc_triton import value_and_gradient

        found = value_and_gradient(fixed, warped, (3, 3, 3))
        torch.testing.assert_close(found, lncc_value_and_gradient(fixed, warped, (3, 3, 3)), rtol=1e-3, atol=1e-5)
    except Exception as error:  # a missing compiler, an old driver, a GPU that triton does not know: each fails in its own way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        warnings.warn(f"triton does not work on {device} ({reason}): local correlation is computed by torch there, which is slower.", stacklevel=2)
        return None
    return value_and_gradient


def _quickest(image: Tensor, smooth_nr: float) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """What computes value and gradient: the kernels know one kind of number, and no constant in the numerator."""
    kernel = None
    if image.dtype == torch.float32 and smooth_nr == 0:
        if image.device.type == "cpu":
            kernel = _fused_value_and_gradient
        elif image.device.type == "cuda":
            kernel = _kernel_on(image.device)
    return kernel or functools.partial(lncc_value_and_gradient, smooth_nr=smooth_nr)


def quickest_on(device: torch.device) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """What computes value and gradient of float32 tensors on a device, where nothing compiled for the CPU is to be used."""
    return (_kernel_on(device) if device.type == "cuda" else None) or lncc_value_and_gradient


class _SquaredLNCC(torch.autograd.Function):
    """The gradient is computed with the value, so that only one image per input is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, mask: Tensor | None, window: tuple[int, ...], smooth_nr: float, smooth_dr: float) -> Tensor:
        needs_fixed, needs_warped = ctx.needs_input_grad[:2]
        options: dict[str, Any] = {"mask": mask, "smooth_dr": smooth_dr}
        compute = _quickest(fixed, smooth_nr)
        value, on_warped = compute(fixed, warped, window, gradient=needs_warped, **options)
        # the similarity is symmetric: swapping the roles gives the derivative with respect to the other image
        on_fixed = compute(warped, fixed, window, gradient=True, **options)[1] if needs_fixed else None
        ctx.save_for_backward(on_fixed, on_warped)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        on_fixed, on_warped = ctx.saved_tensors
        scale = gradients[0]
        return (None if on_fixed is None else on_fixed * scale, None if on_warped is None else on_warped * scale, None, None, None, None)


@LOSSES.register("lncc")
class LNCC(nn.Module):
    """Negated mean of the squared local correlation: -1 is a perfect match, up to a local change of contrast; 0 is none.

    Parameters
    ----------
    window : int or one int per axis
        Odd size of the box, in voxels. An axis shorter than the window uses what there is.
    smooth_nr, smooth_dr
        MONAI's smoothing: added to the numerator, and floor of each variance (sums over the window). The defaults score flat windows 0.

    Notes
    -----
    Channels are correlated one by one and averaged. Blind to the sign of contrast, because the correlation is squared.
    """

    kind = "similarity"
    splits_over_ranks = True

    def __init__(self, window: int | Sequence[int] = 9, smooth_nr: float = 0.0, smooth_dr: float = 1e-5) -> None:
        super().__init__()
        sizes = (window,) if isinstance(window, int) else tuple(window)
        if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
            raise ConfigurationError(f"the window of lncc must be odd, found {window}.")
        if smooth_nr < 0 or smooth_dr <= 0:
            raise ConfigurationError(f"lncc needs smooth_nr >= 0 and smooth_dr > 0, found {smooth_nr} and {smooth_dr}.")
        self.window, self.smooth_nr, self.smooth_dr = sizes, smooth_nr, smooth_dr

    def forward(self, *, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of images (B, C, *spatial), over the windows centred where `mask` (B, 1, *spatial) is true."""
        check_pair(warped, fixed, mask)
        shape = tuple(fixed.shape[2:])
        window = self.window * len(shape) if len(self.window) == 1 else self.window
        if len(window) != len(shape):
            raise ConfigurationError(f"a window of {len(window)} sizes does not fit an image of {len(shape)} axes.")
        with torch.autocast(device_type=fixed.device.type, enabled=False):
            flat_mask = None if mask is None else mask.bool().expand_as(fixed).reshape(-1, *shape)
            pair = [full_precision(image).reshape(-1, *shape) for image in (fixed, warped)]
            value: Tensor = _SquaredLNCC.apply(*pair, flat_mask, window, self.smooth_nr, self.smooth_dr)
        return -(value if flat_mask is None else mean_over_ranks(value, flat_mask.sum()))
