"""The two sides of a pair, made comparable: checked, windowed to [0, 1], pooled to coarse grids, with what is known of their foreground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d

from nnreg.arrays import Doubles, Floats
from nnreg.errors import RegistrationError
from nnreg.geometry import Space
from nnreg.kernels.backend import on
from nnreg.kernels.volumes import block_means
from nnreg.padding import Box, fill_values, shown, slices, without_fill

Features = Callable[[Floats], Floats]

HISTOGRAM_BINS = 64
SAMPLE = 100_000  # values from which percentiles are taken
WINDOW_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image of a pair, ready to be compared.

    Attributes
    ----------
    image : array, shape (C, *space.shape), float32 in [0, 1]
    mask : array, shape space.shape, float32 in [0, 1], or None
        Share of each voxel that may be looked at; None means all of it.
    space : Space
    make_features : callable (image) -> features, or None
        Makes of an image (C, *grid) what else of it is compared, (K, *grid).
    pooled_features : array, shape (K, *space.shape), or None
        What it made of the image before that was pooled.
    """

    image: Floats
    mask: Floats | None
    space: Space
    make_features: Features | None = None
    pooled_features: Floats | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.image.shape[0])

    @property
    def features(self) -> Floats | None:
        """What else is compared (K, *space.shape), made before the image was pooled; None for nothing.

        Those of an image that was not pooled are made whenever they are asked for: kept, they would take as much memory as it does.
        """
        if self.make_features is None or self.pooled_features is not None:
            return self.pooled_features
        return self.make_features(self.image)

    def plain(self) -> PreparedImage:
        """The same without features."""
        return replace(self, make_features=None, pooled_features=None)

    def on(self, device: Any) -> PreparedImage:
        """The same with its arrays as tensors on a device of torch; None leaves them what they are."""
        mask, features = (None if array is None else on(array, device) for array in (self.mask, self.pooled_features))
        return replace(self, image=on(self.image, device), mask=mask, pooled_features=features)

    def pooled(self, spacing: Sequence[float]) -> PreparedImage:
        """Means over blocks of whole voxels, as near to `spacing` (mm, array axis order) as whole blocks come, never finer than stored."""
        factors = tuple(max(1, min(size, round(wanted / own))) for wanted, own, size in zip(spacing, self.space.spacing, self.space.shape, strict=True))
        return self.pooled_by(factors)

    def pooled_by(self, factors: tuple[int, ...]) -> PreparedImage:
        """Means over blocks of `factors` voxels; what does not fill a block is left out on both sides alike."""
        if max(factors) == 1:
            return self
        shape = tuple(size // factor for size, factor in zip(self.space.shape, factors, strict=True))
        starts = tuple((size - count * factor) // 2 for size, count, factor in zip(self.space.shape, shape, factors, strict=True))
        # the middle of the first block, so that nothing shifts by half a voxel
        matrix = self.space.matrix.copy()
        n = self.space.ndim
        matrix[:n, n] = self.space.to_world(np.asarray(starts) + (np.asarray(factors) - 1) / 2)
        matrix[:n, :n] = matrix[:n, :n] * np.asarray(factors)
        window = (slice(None), *(slice(start, start + count * factor) for start, count, factor in zip(starts, shape, factors, strict=True)))
        mask = None if self.mask is None else block_means(self.mask[None][window], factors)

        def means(values: Floats) -> Floats:
            if self.mask is None or mask is None:
                return block_means(values[window], factors)
            # what lies outside the mask must not leak into the blocks on its border
            return np.divide(block_means((values * self.mask)[window], factors), np.maximum(mask, np.float32(1e-6)), dtype=np.float32)

        features = self.features
        return PreparedImage(
            means(self.image),
            None if mask is None else mask[0],
            Space.from_matrix(shape, matrix),
            self.make_features,
            None if features is None else means(features),
        )


def prepare(array: npt.NDArray[np.generic], space: Space, mask: npt.NDArray[np.generic] | None, role: str) -> PreparedImage:
    """Check one image and bring every channel to [0, 1], by percentiles of what it shows.

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
        If shapes disagree, a value is not finite, a channel is constant or has a range that single precision cannot scale, or the mask is empty or holds NaN.
    """
    if tuple(array.shape[1:]) != space.shape:
        raise RegistrationError(
            f"the {role} image has shape {tuple(array.shape)}, expected (channels, {', '.join(map(str, space.shape))}) as its geometry says."
        )
    values = np.ascontiguousarray(array, dtype=np.float32)
    # the sum of finite numbers of this size is finite: one pass, no array of truth values
    if not np.isfinite(values.sum(dtype=np.float64)):
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise RegistrationError(f"the {role} image holds {count} NaN or infinite values. Replace them before registering.")
    inside = _mask_array(mask, space, role)
    windowed = np.empty_like(values)
    within = slices(shown(values).airy)[1:]
    for channel, image in enumerate(values):
        where = within if inside is None else inside > 0.5
        image = without_fill(image, fill_values(_sample(image[where])))
        low, high = _window(image[where])
        told = "" if inside is None else " inside its mask"
        if not high > low:
            raise RegistrationError(f"channel {channel} of the {role} image is constant ({low:g}){told}: nothing to align.")
        with np.errstate(over="ignore"):
            spread, scale = np.float32(high - low), np.float32(1 / (high - low))
        if not np.isfinite([spread, scale]).all():
            raise RegistrationError(
                f"channel {channel} of the {role} image has values from {low:g} to {high:g}{told}, which single precision cannot bring to [0, 1]. "
                "Multiply them by a constant."
            )
        np.subtract(image, np.float32(low), out=windowed[channel])
        windowed[channel] *= scale
        np.clip(windowed[channel], 0, 1, out=windowed[channel])
    return PreparedImage(windowed, inside, space)


def prepare_shown(array: npt.NDArray[np.generic], space: Space, mask: npt.NDArray[np.generic] | None, role: str, box: Box | None = None) -> PreparedImage:
    """:func:`prepare` for what the image shows, or for the voxels in `box`: constant planes around it are left out, but for a usual amount of air.

    With much air around it an image would be compared on coarser grids, and mostly by its air.

    Raises
    ------
    RegistrationError
        As :func:`prepare` does, and for an image of one voxel along all axes but one.
    """
    if sum(size > 1 for size in space.shape) < 2:
        raise RegistrationError(f"the {role} image has {'x'.join(map(str, space.shape))} voxels. Expected more than one along two axes at least.")
    if tuple(array.shape[1:]) == space.shape:
        box = shown(array).airy if box is None else box
        space, array = space.part(box), array[slices(box)]
        if mask is not None:
            mask = mask.reshape(-1, *mask.shape[-space.ndim :])[slices(box)]
    return prepare(array, space, mask, role)


def _mask_array(mask: npt.NDArray[np.generic] | None, space: Space, role: str) -> Floats | None:
    if mask is None:
        return None
    array = np.asarray(mask)
    array = array[0] if array.ndim == space.ndim + 1 else array
    if tuple(array.shape) != space.shape:
        raise RegistrationError(f"the {role} mask has shape {tuple(mask.shape)}, its image {space.shape}. They must agree.")
    inside = marked(array, f"the {role} mask")
    if not inside.any():
        raise RegistrationError(f"the {role} mask is empty, or marks nothing but padding. Leave it out, or mark the part that may be looked at.")
    return inside


def marked(mask: npt.NDArray[np.generic], what: str) -> Floats:
    """Ones where a mask is not 0, zeros elsewhere.

    Raises
    ------
    RegistrationError
        If it holds NaN.
    """
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise RegistrationError(f"{what} holds {int(np.isnan(mask).sum())} NaN. A mask is 0 where nothing is marked, and not 0 where something is.")
    return np.ascontiguousarray(mask != 0, dtype=np.float32)


def _sample(values: Floats) -> Floats:
    """Some values, sorted."""
    flat = values.reshape(-1)
    return np.sort(flat[:: max(1, flat.size // SAMPLE)])


def _window(values: Floats) -> tuple[float, float]:
    """Lower and upper value of an intensity window: robust percentiles, and the true ends where an image holds little but background."""
    sample = _sample(values)
    low, high = (float(sample[round(share / 100 * (sample.size - 1))]) for share in WINDOW_PERCENTILES)
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def foreground(side: PreparedImage) -> Floats:
    """Weights (*grid) of the object, found without labels.

    The mask if there is one. Else Otsu's threshold of the mean channel, and of the two classes the one the border of the field of view shows less of
    (dark air around a head, white glass around a tissue section).
    """
    if side.mask is not None:
        return side.mask
    mean = side.image.mean(axis=0)
    within = slices(shown(mean[None]).airy)[1:]
    found = np.zeros_like(mean)
    found[within] = _object(mean[within])
    return found


def _object(mean: Floats) -> Floats:
    above = (mean > otsu(mean)).astype(np.float32)
    border = np.ones_like(above)
    border[tuple(slice(1, -1) if size > 2 else slice(None) for size in mean.shape)] = 0
    bright_border = float((above * border).sum() / max(1.0, border.sum()))
    return 1 - above if bright_border > 0.5 else above


def smoothed(image: Floats) -> Floats:
    """(C, *grid) after a 1-2-1 filter along every axis: noise and the kinks of linear interpolation would otherwise draw the maximum off the lattice."""
    for axis in range(1, image.ndim):
        image = np.asarray(correlate1d(image, [0.25, 0.5, 0.25], axis=axis, mode="nearest"))
    return np.ascontiguousarray(image)


def otsu(values: Floats) -> float:
    """Threshold in [0, 1] that separates two classes best (Otsu 1979: largest variance between classes)."""
    counts, _ = np.histogram(values, bins=HISTOGRAM_BINS, range=(0.0, 1.0))
    centres = (np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_BINS
    below = counts.cumsum()[:-1].astype(float)
    above = counts.sum() - below
    moment = (counts * centres).cumsum()
    difference = moment[:-1] / np.maximum(below, 1) - (moment[-1] - moment[:-1]) / np.maximum(above, 1)
    return float(np.argmax(below * above * difference**2) + 1) / HISTOGRAM_BINS


def moments(weights: Floats, space: Space) -> tuple[Doubles, Doubles]:
    """Centre (ndim,) and covariance (ndim, ndim) in world mm, x first, of weights (*grid)."""
    index = np.argwhere(weights > 0.5)
    if not len(index):
        return space.centre, np.diag((space.extent[::-1]) ** 2 / 12)
    points = space.to_world(index)
    centre = points.mean(axis=0)
    return centre, np.atleast_2d((points - centre).T @ (points - centre) / len(points))
