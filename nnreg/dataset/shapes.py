"""Label maps of random shapes, made of noise: something to learn registration from that is nobody's data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnreg.dataset.phantom import smooth_noise

LABELS = 26  # as SynthMorph has them (Hoffmann et al., IEEE TMI 2022)
SIZES = (1 / 12, 1 / 3)  # of a shape, about, in sizes of the image
LEAST_SPACING = 2.0  # voxels between control points: less is no shape


def random_shapes(rng: np.random.Generator, shape: Sequence[int], labels: int = LABELS) -> npt.NDArray[np.int16]:
    """At every voxel the number of the smooth noise that is largest there.

    Parameters
    ----------
    rng
        Draws how large the shapes are, and the noises.
    shape : (D, H, W) or (H, W)
    labels
        How many noises there are.

    Returns
    -------
    array, shape (1, *shape), int16, 0 to `labels` - 1

    Examples
    --------
    >>> random_shapes(np.random.default_rng(0), (16, 20), labels=4).shape
    (1, 16, 20)
    """
    size = rng.uniform(*SIZES)
    spacing = [max(LEAST_SPACING, size * length) for length in shape]
    largest = np.full(tuple(shape), -np.inf, np.float32)
    result = np.zeros((1, *shape), np.int16)
    for label in range(labels):  # one after the other: all of them together are 26 images in memory
        noise = smooth_noise(rng, 1, shape, spacing)[0]
        result[0][noise > largest] = label
        np.maximum(largest, noise, out=largest)
    return result
