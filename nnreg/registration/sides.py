"""The two sides of a pair, made comparable: checked, windowed to [0, 1], pooled to coarse grids, with what is known of their foreground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.errors import RegistrationError
from nnreg.geometry import Space
from nnreg.geometry.space import FloatArray

HISTOGRAM_BINS = 64
WINDOW_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Side:
    """One image of a pair, ready to be compared.

    Attributes
    ----------
    image : Tensor, shape (1, C, *space.shape), float32 in [0, 1]
    mask : Tensor, shape (1, 1, *space.shape), float32 in [0, 1], or None
        Share of each voxel that may be looked at; None means all of it.
    space : Space
    """

    image: Tensor
    mask: Tensor | None
    space: Space

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.image.shape[1])

    def pooled(self, spacing: Sequence[float]) -> Side:
        """Means over blocks of whole voxels, as near to `spacing` (mm, array axis order) as whole blocks come, never finer than stored."""
        factors = tuple(max(1, min(size, round(wanted / own))) for wanted, own, size in zip(spacing, self.space.spacing, self.space.shape, strict=True))
        if max(factors) == 1:
            return self
        shape = tuple(size // factor for size, factor in zip(self.space.shape, factors, strict=True))
        starts = tuple((size - count * factor) // 2 for size, count, factor in zip(self.space.shape, shape, factors, strict=True))
        # the middle of the first block, so that nothing shifts by half a voxel
        matrix = self.space.matrix.copy()
        n = self.space.ndim
        matrix[:n, n] = self.space.to_world(np.asarray(starts) + (np.asarray(factors) - 1) / 2)
        matrix[:n, :n] = matrix[:n, :n] * np.asarray(factors)
        window = (slice(None), slice(None), *(slice(start, start + count * factor) for start, count, factor in zip(starts, shape, factors, strict=True)))
        image = _block_means(self.image[window], factors)
        mask = None
        if self.mask is not None:
            mask = _block_means(self.mask[window], factors)
            # what lies outside the mask must not leak into the blocks on its border
            image = _block_means((self.image * self.mask)[window], factors) / mask.clamp(min=1e-6)
        return Side(image, mask, Space.from_matrix(shape, matrix))


def _block_means(image: Tensor, factors: tuple[int, ...]) -> Tensor:
    # one axis after the other: each pass reads less than the one before, and torch reduces the inner axis with vectors
    for axis in reversed(range(len(factors))):
        if factors[axis] > 1:
            count = image.shape[axis + 2] // factors[axis]
            image = image.unflatten(axis + 2, (count, factors[axis])).mean(dim=axis + 3)
    return image


def smoothed(image: Tensor) -> Tensor:
    """(1, C, *grid) after a 1-2-1 filter along every axis: noise and the kinks of linear interpolation would otherwise draw the maximum off the lattice."""
    ndim = image.ndim - 2
    for axis in range(2, image.ndim):
        padding = [0] * (2 * ndim)
        padding[2 * (image.ndim - 1 - axis) : 2 * (image.ndim - axis)] = [1, 1]
        padded = nnf.pad(image, padding, mode="replicate")
        size = image.shape[axis]
        image = (padded.narrow(axis, 0, size) + padded.narrow(axis, 2, size)) / 4 + image / 2
    return image


def prepare(array: npt.NDArray[np.generic], space: Space, mask: npt.NDArray[np.generic] | None, role: str) -> Side:
    """Check one image and bring every channel to [0, 1].

    Parameters
    ----------
    array : array, shape (C, *space.shape)
    space : Space
    mask : array, shape (1, *space.shape) or space.shape, optional
        Where the image may be looked at.
    role
        "fixed" or "moving", for messages.

    Raises
    ------
    RegistrationError
        If shapes disagree, a value is not finite, a channel is constant or the mask is empty.
    """
    if tuple(array.shape[1:]) != space.shape:
        raise RegistrationError(
            f"the {role} image has shape {tuple(array.shape)}, expected (channels, {', '.join(map(str, space.shape))}) as its geometry says."
        )
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise RegistrationError(f"the {role} image holds {count} NaN or infinite values. Replace them before registering.")
    inside = _mask_tensor(mask, space, role)
    windowed = []
    for channel, image in enumerate(values):
        low, high = _window(image if inside is None else image[inside[0, 0] > 0.5])
        if not high > low:
            raise RegistrationError(
                f"channel {channel} of the {role} image is constant ({low:g}){' inside its mask' if inside is not None else ''}: nothing to align."
            )
        windowed.append(((image - low) / (high - low)).clamp(0, 1))
    return Side(torch.stack(windowed)[None], inside, space)


def _mask_tensor(mask: npt.NDArray[np.generic] | None, space: Space, role: str) -> Tensor | None:
    if mask is None:
        return None
    array = np.asarray(mask)
    array = array[0] if array.ndim == space.ndim + 1 else array
    if tuple(array.shape) != space.shape:
        raise RegistrationError(f"the {role} mask has shape {tuple(mask.shape)}, its image {space.shape}. They must agree.")
    inside = torch.from_numpy(np.ascontiguousarray(array > 0, dtype=np.float32))[None, None]
    if not bool(inside.any()):
        raise RegistrationError(f"the {role} mask is empty. Leave it out, or mark the part that may be looked at.")
    return inside


def _window(values: Tensor) -> tuple[float, float]:
    """Lower and upper value of an intensity window: robust percentiles, and the true ends where an image holds little but background."""
    sample = values.flatten()
    step = max(1, sample.numel() // 500_000)
    sample = sample[::step].sort().values
    low, high = (float(sample[round(share / 100 * (sample.numel() - 1))]) for share in WINDOW_PERCENTILES)
    if high > low:
        return low, high
    return float(values.min()), float(values.max())


def foreground(side: Side) -> Tensor:
    """Weights (1, 1, *shape) of the object, found without labels.

    The mask if there is one. Else Otsu's threshold of the mean channel, and of the two classes the one the border of the field of view shows less of
    (dark air around a head, white glass around a tissue section).
    """
    if side.mask is not None:
        return side.mask
    mean = side.image.mean(dim=1, keepdim=True)
    above = (mean > otsu(mean)).float()
    border = torch.ones_like(above)
    border[(slice(None), slice(None), *(slice(1, -1) if size > 2 else slice(None) for size in side.space.shape))] = 0
    bright_border = float((above * border).sum() / border.sum().clamp(min=1))
    return 1 - above if bright_border > 0.5 else above


def otsu(values: Tensor) -> float:
    """Threshold in [0, 1] that separates two classes best (Otsu 1979: largest variance between classes)."""
    counts = torch.histc(values.float(), bins=HISTOGRAM_BINS, min=0.0, max=1.0).double()
    centres = (torch.arange(HISTOGRAM_BINS, dtype=torch.float64) + 0.5) / HISTOGRAM_BINS
    below = counts.cumsum(0)[:-1]
    above = counts.sum() - below
    moment = (counts * centres).cumsum(0)
    difference = moment[:-1] / below.clamp(min=1) - (moment[-1] - moment[:-1]) / above.clamp(min=1)
    return float(torch.argmax(below * above * difference**2) + 1) / HISTOGRAM_BINS


def moments(weights: Tensor, space: Space) -> tuple[FloatArray, FloatArray]:
    """Centre (ndim,) and covariance (ndim, ndim) in world mm, x first, of weights (1, 1, *shape)."""
    index = torch.nonzero(weights[0, 0] > 0.5).double().numpy()
    if not len(index):
        return space.centre, np.diag((space.extent[::-1]) ** 2 / 12)
    points = space.to_world(index)
    centre = points.mean(axis=0)
    return centre, np.atleast_2d((points - centre).T @ (points - centre) / len(points))
