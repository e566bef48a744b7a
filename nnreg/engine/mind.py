"""MIND-SSC: how alike the neighbours of a voxel are to each other, which is much the same whatever the modality (Heinrich et al., MICCAI 2013)."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import uniform_filter

from nnreg.arrays import Floats

DILATION = 2  # voxels from the centre to a neighbour
RADIUS = 1  # half patch


def mind(image: Floats, *, dilation: int = DILATION, radius: int = RADIUS) -> Floats:
    """Self-similarity maps of every channel.

    Parameters
    ----------
    image : array, shape (C, D, H, W); an axis of one voxel is left out
    dilation, radius : voxels

    Returns
    -------
    array, shape (C * K, D, H, W), float32 in (0, 1]
        K is 12 in 3D and 4 in 2D: pairs of neighbours of the six (four) neighbourhood that are not opposite each other. 1 where two patches are equal.
    """
    if not isinstance(image, np.ndarray):
        from nnreg.losses.mind import descriptors

        maps: Floats = descriptors(image, dilation, radius)
        return maps
    axes = [axis for axis in range(3) if image.shape[axis + 1] > 1]
    neighbours = [tuple(sign * dilation if axis == chosen else 0 for axis in range(3)) for chosen in axes for sign in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(neighbours, 2) if any(one + other for one, other in zip(a, b, strict=True))]
    window = tuple(2 * radius + 1 if axis in axes else 1 for axis in range(3))
    return np.concatenate([_of_channel(channel, pairs, window) for channel in image])


def _of_channel(image: Floats, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], window: tuple[int, ...]) -> Floats:
    distances = np.stack([uniform_filter((_moved(image, a) - _moved(image, b)) ** 2, window, mode="nearest") for a, b in pairs])
    distances -= distances.min(axis=0)
    variance = distances.mean(axis=0)
    # local noise level, held between a thousandth and a thousand times its mean
    mean = float(variance.mean())
    if mean <= 0:
        return np.ones_like(distances)
    variance = np.clip(variance, 1e-3 * mean, 1e3 * mean)
    return np.exp(-distances / variance)


def _moved(image: Floats, shift: tuple[int, ...]) -> Floats:
    """``image(x + shift)``, border values outside."""
    for axis, step in enumerate(shift):
        if step:
            index = np.clip(np.arange(image.shape[axis]) + step, 0, image.shape[axis] - 1)
            image = np.take(image, index, axis=axis)
    return image
