"""Similarities of two images under a linear map: value and exact gradient with respect to the warped image, samples out of view left out.

All are to be maximised and at most 1. Images are volumes (C, D, H, W); an image of two axes is lifted to (C, H, 1, W) by the caller.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, binary_fill_holes

from nnreg.arrays import Floats
from nnreg.kernels import linear_cpu
from nnreg.kernels.correlation import Windows
from nnreg.kernels.threads import in_parts

SAME_CONTRAST = 0.45  # signed local correlation inside the body from which two images count as of one contrast
CONTRAST_RADIUS = 2  # half window of that correlation, voxels
FLAT = 1e-5  # variance below which a neighbourhood of an image in [0, 1] says nothing


class Similarity(Protocol):
    """What an affine stage maximises."""

    name: str
    rises_apart: bool  # whether it may rise where little is left in common: the pose of the headers is then optimised to the end too

    def __call__(self, warped: Floats, valid: Floats) -> tuple[float, Floats]:
        """Value and gradient for ``warped (C, D, H, W)``, each sample weighted by ``valid (D, H, W)`` in [0, 1]."""


class GlobalCorrelation:
    """Correlation coefficient over all valid samples, mean over channels."""

    name = "ncc"
    rises_apart = False

    def __init__(self, fixed: Floats) -> None:
        self.fixed = fixed

    def __call__(self, warped: Floats, valid: Floats) -> tuple[float, Floats]:
        """See :class:`Similarity`."""
        axes = (1, 2, 3)
        count = max(1.0, float(valid.sum()))
        fixed = self.fixed - (self.fixed * valid).sum(axis=axes, keepdims=True) / count
        moving = warped - (warped * valid).sum(axis=axes, keepdims=True) / count
        covariance = (fixed * moving * valid).sum(axis=axes, keepdims=True)
        fixed_power = np.maximum((fixed**2 * valid).sum(axis=axes, keepdims=True), FLAT)
        moving_power = np.maximum((moving**2 * valid).sum(axis=axes, keepdims=True), FLAT)
        scale = 1 / np.sqrt(fixed_power * moving_power)
        gradient = (fixed - moving * (covariance / moving_power)) * valid * scale / len(warped)
        return float((covariance * scale).mean()), gradient.astype(np.float32)


class LocalCorrelation:
    """Correlation coefficient in a box around every sample, mean over the samples where the fixed image is not flat."""

    name = "lncc"
    rises_apart = False

    def __init__(self, fixed: Floats, radius: int) -> None:
        self.fixed = fixed
        half_z, half_y, half_x = (radius if size > 1 else 0 for size in fixed.shape[1:])
        self.radii = half_z, half_y, half_x
        window = float(np.prod([2 * half + 1 for half in self.radii]))
        self.floor = FLAT * window
        # air around a body says nothing: were it counted, pushing it out of view would raise the mean
        inverses = [Windows.of(channel, self.radii, floor=self.floor).inverse for channel in fixed]
        self.textured = [(inverse > 0) & (inverse < 1 / (10 * self.floor)) for inverse in inverses]

    def __call__(self, warped: Floats, valid: Floats) -> tuple[float, Floats]:
        """See :class:`Similarity`."""
        mask = valid > 0.5
        gradient = np.empty_like(warped)
        value, counted = 0.0, 0
        for channel, textured in enumerate(self.textured):
            windows = Windows.of(self.fixed[channel], self.radii, floor=self.floor, mask=mask).only(textured)
            part, _ = windows.correlation(warped[channel], gradient[channel], signed=True)
            gradient[channel] *= windows.scored
            value, counted = value + part * windows.scored, counted + windows.scored
        return value / max(1, counted), gradient / np.float32(max(1, counted))


class MutualInformation:
    """Normalised mutual information (Studholme et al. 1999), ``(H(f) + H(m)) / H(f, m) - 1``, cubic B-spline windows on the moving side, mean over channels."""

    name = "nmi"
    rises_apart = True  # two scans of a neck were led 40 mm apart by the coarse grid, and the fine one knew better

    def __init__(self, fixed: Floats, bins: int = 32) -> None:
        self.bins = bins
        self.fixed_bins = (fixed * (bins - 1) + 0.5).astype(np.uint8)

    def __call__(self, warped: Floats, valid: Floats) -> tuple[float, Floats]:
        """See :class:`Similarity`."""
        gradient = np.empty_like(warped)
        total = 0.0
        for channel, image in enumerate(warped):
            total += self._channel(self.fixed_bins[channel], image, valid, gradient[channel]) / len(warped)
        return total, gradient / np.float32(len(warped))

    def _channel(self, fixed_bins: npt.NDArray[np.uint8], moving: Floats, valid: Floats, gradient: Floats) -> float:
        # three empty bins take the tails of the spline
        depth = len(moving)
        parts = np.zeros((depth, self.bins, self.bins + 3))
        in_parts(linear_cpu.joint_histogram, depth, parts, fixed_bins, moving, valid, self.bins)
        joint = parts.sum(axis=0)
        total = max(1.0, float(joint.sum()))
        joint /= total
        logs, fixed_logs, moving_logs = (
            np.log(np.maximum(table, 1e-12)) for table in (joint, joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True))
        )
        entropy = float(-(joint * logs).sum())
        if entropy < 1e-6:
            gradient[:] = 0
            return 0.0
        value = float(-(joint * (fixed_logs + moving_logs)).sum()) / entropy
        table = ((value * logs - fixed_logs - moving_logs) / (entropy * total)).astype(np.float32)
        in_parts(linear_cpu.histogram_slope, depth, gradient, table, fixed_bins, moving, valid, self.bins)
        return value - 1


def inner_correlation(fixed: Floats, warped: Floats, where: npt.NDArray[np.bool_]) -> float:
    """Mean signed correlation in small windows well inside a body.

    Its outline looks alike in every contrast, and a correlation of all voxels mostly sees that and the shading; what lies inside tells contrasts apart.
    Measured after rigid alignment: brains, hearts and lungs of one contrast 0.77 to 0.99, T1 against T2 0.0 to 0.2.

    Parameters
    ----------
    fixed, warped : array, shape (C, D, H, W), in [0, 1]
    where : array of bool, shape (D, H, W)
        The body, where both images are seen.
    """
    flat = tuple(axis for axis, size in enumerate(where.shape) if size == 1)
    body = np.squeeze(where, axis=flat)
    # an axis of few slices has no inside
    element = np.zeros((3,) * body.ndim, bool)
    for axis, size in enumerate(body.shape):
        if 2 * size >= max(body.shape):
            element[tuple(slice(None) if other == axis else 1 for other in range(body.ndim))] = True
    inner = np.expand_dims(binary_erosion(binary_fill_holes(body), element), flat)
    local = LocalCorrelation(fixed, CONTRAST_RADIUS)
    local.textured = [textured & inner for textured in local.textured]
    return local(warped, np.ones(where.shape, np.float32))[0]
