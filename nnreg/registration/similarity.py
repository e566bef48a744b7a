"""Similarities of two images under a linear map: value and exact gradient with respect to the warped image, samples out of view left out.

All are to be maximised and lie between -1 or 0 and 1. They are written for the few hundred thousand samples of an affine stage.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as nnf

FLAT = 1e-5  # variance below which a neighbourhood of an image in [0, 1] says nothing


class Similarity(Protocol):
    """What an affine stage maximises."""

    name: str

    def __call__(self, warped: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        """Value and gradient for ``warped (C, *grid)``, each sample weighted by ``valid (*grid)`` in [0, 1]."""


class GlobalCorrelation:
    """Correlation coefficient over all valid samples, mean over channels."""

    name = "ncc"

    def __init__(self, fixed: Tensor) -> None:
        self.fixed = fixed

    def __call__(self, warped: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        """See :class:`Similarity`."""
        axes = tuple(range(1, warped.ndim))
        count = valid.sum().clamp(min=1)
        fixed = self.fixed - (self.fixed * valid).sum(dim=axes, keepdim=True) / count
        moving = warped - (warped * valid).sum(dim=axes, keepdim=True) / count
        covariance = (fixed * moving * valid).sum(dim=axes, keepdim=True)
        fixed_power = (fixed**2 * valid).sum(dim=axes, keepdim=True).clamp(min=FLAT)
        moving_power = (moving**2 * valid).sum(dim=axes, keepdim=True).clamp(min=FLAT)
        scale = (fixed_power * moving_power).rsqrt()
        gradient = (fixed - moving * (covariance / moving_power)) * valid * scale / len(warped)
        return float((covariance * scale).mean()), gradient


class LocalCorrelation:
    """Correlation coefficient in a box around every sample, mean over the samples where the fixed image is not flat."""

    name = "lncc"

    def __init__(self, fixed: Tensor, radius: int) -> None:
        self.fixed = fixed
        self.radius = radius
        count = box_sums(torch.ones_like(fixed), radius)
        variance = box_sums(fixed**2, radius) / count - (box_sums(fixed, radius) / count) ** 2
        # air around a body says nothing: were it counted, pushing it out of view would raise the mean
        self.textured = (variance > 10 * FLAT).float()

    def __call__(self, warped: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        """See :class:`Similarity`."""
        weight = valid[None]
        fixed, moving = self.fixed * weight, warped * weight
        channels = len(warped)
        sums = box_sums(torch.cat([weight, fixed, moving, fixed * self.fixed, moving * warped, fixed * warped]), self.radius)
        count = sums[:1].clamp(min=1)
        fixed_mean, moving_mean, fixed_square, moving_square, product = ((part / count) for part in sums[1:].split(channels))
        fixed_variance = (fixed_square - fixed_mean**2).clamp(min=0)
        moving_variance = (moving_square - moving_mean**2).clamp(min=0)
        covariance = product - fixed_mean * moving_mean
        scale = ((fixed_variance + FLAT) * (moving_variance + FLAT)).rsqrt()
        correlation = covariance * scale
        counted = weight * self.textured
        total = counted.sum().clamp(min=1)
        by_covariance = counted * scale / count
        by_variance = counted * correlation / (moving_variance + FLAT) / count
        back = box_sums(torch.cat([by_covariance, by_covariance * fixed_mean, by_variance, by_variance * moving_mean]), self.radius).split(channels)
        gradient = (self.fixed * back[0] - back[1] - warped * back[2] + back[3]) * weight / total
        return float((correlation * counted).sum() / total), gradient


class MutualInformation:
    """Normalised mutual information (Studholme et al. 1999), ``(H(f) + H(m)) / H(f, m) - 1``, cubic B-spline windows on the moving side, mean over channels."""

    name = "nmi"

    def __init__(self, fixed: Tensor, bins: int = 32) -> None:
        self.bins = bins
        self.fixed_bins = (fixed * (bins - 1)).round().long()

    def __call__(self, warped: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        """See :class:`Similarity`."""
        gradient = torch.zeros_like(warped)
        chosen = valid > 0
        total = 0.0
        for channel, image in enumerate(warped):
            value, part = self._channel(self.fixed_bins[channel][chosen], image[chosen], valid[chosen])
            total += value / len(warped)
            gradient[channel][chosen] = part / len(warped)
        return total, gradient

    def _channel(self, fixed_bins: Tensor, moving: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        # three empty bins take the tails of the spline
        position = moving * (self.bins - 1) + 1
        base = position.floor().long()
        offset = position - base
        width = self.bins + 3
        start = fixed_bins * width + base - 1
        joint = torch.zeros(self.bins * width, dtype=torch.float64)
        weights = _spline(offset)
        for tap, weight in enumerate(weights):
            joint += torch.bincount(start + tap, weights=weight * valid, minlength=self.bins * width)
        total = max(1.0, float(valid.sum()))
        joint = (joint / total).reshape(self.bins, width)
        logs = joint.clamp(min=1e-12).log()
        fixed_logs = joint.sum(1, keepdim=True).clamp(min=1e-12).log()
        moving_logs = joint.sum(0, keepdim=True).clamp(min=1e-12).log()
        entropy = float(-(joint * logs).sum())
        if entropy < 1e-6:
            return 0.0, torch.zeros_like(moving)
        value = float(-(joint * (fixed_logs + moving_logs)).sum()) / entropy
        table = ((value * logs - fixed_logs - moving_logs) / entropy).float().flatten()
        slope = sum((table[start + tap] * weight for tap, weight in enumerate(_spline_slope(offset))), torch.zeros_like(moving))
        return value - 1, slope * valid * ((self.bins - 1) / total)


def _spline(offset: Tensor) -> tuple[Tensor, ...]:
    """Weights of the four bins around a position (cubic B-spline)."""
    rest = 1 - offset
    return (
        rest**3 / 6,
        (4 - 6 * offset**2 + 3 * offset**3) / 6,
        (4 - 6 * rest**2 + 3 * rest**3) / 6,
        offset**3 / 6,
    )


def _spline_slope(offset: Tensor) -> tuple[Tensor, ...]:
    rest = 1 - offset
    return (-(rest**2) / 2, -2 * offset + 1.5 * offset**2, 2 * rest - 1.5 * rest**2, offset**2 / 2)


def box_sums(images: Tensor, radius: int) -> Tensor:
    """Sums over boxes of ``2 radius + 1`` voxels along every axis of (C, *grid), zero outside: one running sum per axis, whatever the window."""
    window = 2 * radius + 1
    ndim = images.ndim - 1
    for axis in range(1, images.ndim):
        padding = [0] * (2 * ndim)
        padding[2 * (ndim - axis) : 2 * (ndim - axis) + 2] = [radius + 1, radius]
        running = nnf.pad(images, padding).cumsum(dim=axis)
        images = running.narrow(axis, window, images.shape[axis]) - running.narrow(axis, 0, images.shape[axis])
    return images
