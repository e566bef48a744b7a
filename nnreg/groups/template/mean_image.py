"""The mean of images that lie on one grid: intensities brought to one scale, summed in double precision, sharpened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import laplace

from nnreg.arrays import Doubles, Floats
from nnreg.files import atomic_path
from nnreg.geometry import Space
from nnreg.imageio import Image

SEEN = 0.5  # share of the images that must show a voxel of the template, for it to be looked at


@dataclass(frozen=True)
class Scale:
    """Where an image's intensities lie, per channel: its background, and how far above it its foreground is."""

    low: tuple[float, ...]
    gain: tuple[float, ...]

    def common(self, array: Floats) -> Floats:
        """Values (C, *grid) on the common scale: background 0, foreground about 1."""
        low, gain = (_per_channel(values, array.ndim) for values in (self.low, self.gain))
        return (array - low) / gain

    def own(self, array: Floats) -> Floats:
        """The inverse of :meth:`common`."""
        low, gain = (_per_channel(values, array.ndim) for values in (self.low, self.gain))
        return array * gain + low


def _per_channel(values: Sequence[float], ndim: int) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, *(1,) * (ndim - 1))


@dataclass(frozen=True, eq=False)
class MeanImage:
    """A mean on a grid.

    Attributes
    ----------
    array : array, shape (C, *space.shape), common scale
    seen : array, shape space.shape
        Share of the images that show each voxel.
    space : Space
    """

    array: Floats
    seen: Floats
    space: Space

    def image(self, *, sharpen: bool = False) -> Image:
        """What the next round registers to."""
        return Image(sharpened(self.array) if sharpen else self.array, self.space)

    def mask(self) -> Image | None:
        """Where half of the images show something; None for everywhere."""
        inside = self.seen >= SEEN
        return None if inside.all() else Image(inside.astype(np.uint8)[None], self.space)

    def energy(self) -> float:
        """Mean square of the gradient, per mm, where half of the images show something: how sharp it is."""
        seen = self.seen >= SEEN
        total = 0.0
        for axis, step in enumerate(self.space.spacing):
            both = seen & np.roll(seen, -1, axis)
            slope = np.diff(self.array.astype(np.float64), axis=axis + 1) / step
            total += float(np.square(slope)[:, both.take(range(both.shape[axis] - 1), axis)].sum())
        return total / max(1, int(np.count_nonzero(seen)))

    def save(self, path: Path) -> None:
        """Whole or not at all; bit for bit what :meth:`load` gives back."""
        with atomic_path(path) as temporary:
            np.savez(temporary, array=self.array, seen=self.seen)

    @classmethod
    def load(cls, path: Path, space: Space) -> MeanImage:
        """What :meth:`save` wrote."""
        with np.load(path) as content:
            return cls(content["array"], content["seen"], space)


def mean_of(files: Sequence[Path], space: Space) -> MeanImage:
    """Mean of images kept as arrays (C + 1, *grid), the last channel their weight, one in memory at a time.

    Summed in double precision: the order then changes nothing that single precision shows.
    """
    total: Doubles | None = None
    weights = np.zeros(space.shape, np.float64)
    for path in files:
        array = np.load(path)
        if total is None:
            total = np.zeros((len(array) - 1, *space.shape), np.float64)
        total += array[:-1] * array[-1]
        weights += array[-1]
    assert total is not None
    seen = weights / len(files)
    mean = total / np.maximum(weights, 1e-3)
    # what few images show is no mean of the group: background
    return MeanImage(np.where(seen >= SEEN, mean, 0.0).astype(np.float32), seen.astype(np.float32), space)


def sharpened(array: Floats) -> Floats:
    """Each channel (C, *grid) minus its Laplacian, as ITK's LaplacianSharpeningImageFilter, by which ANTs sharpens its templates.

    The Laplacian is brought to the range of the image, the result keeps the image's mean, and is cut to its range.
    """
    return np.stack([_sharp(channel.astype(np.float64)) for channel in array]).astype(np.float32)


def _sharp(values: Doubles) -> Doubles:
    edges = laplace(values, mode="nearest")
    low, high = float(values.min()), float(values.max())
    smallest, largest = float(edges.min()), float(edges.max())
    if not (high > low and largest > smallest):
        return values
    result = values - ((edges - smallest) * ((high - low) / (largest - smallest)) + low)
    return np.clip(result - result.mean() + values.mean(), low, high)


def difference(one: MeanImage, other: MeanImage) -> float:
    """Mean absolute difference over the grid, as a share of the range of `one`."""
    low, high = np.percentile(one.array, (0.5, 99.5))
    return float(np.abs(one.array.astype(np.float64) - other.array).mean() / max(float(high - low), 1e-12))
