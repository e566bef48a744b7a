"""Crop to what is not 0, as nnU-Net does, and mark what is outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Mask, StoredLabels
from nnreg.dataset.labels import OUTSIDE
from nnreg.planning.dense_prediction.foreground import Box, nonzero_box


def crop(image: npt.NDArray[Any], labels: npt.NDArray[Any] | None, continuous: Sequence[int] = ()) -> tuple[npt.NDArray[Any], StoredLabels, Box]:
    """Image and labels in the box around what is not 0 in any channel.

    Parameters
    ----------
    image : array, shape (C, D, H, W)
    labels : array, shape (T, D, H, W), optional
    continuous
        Which of the T are no labels: values outside do not make that a part of the image.

    Returns
    -------
    image
        A view.
    labels : array, shape (T, *box)
        Without labels, 0. What is unlabelled (0) and outside the nonzero region (whose holes are filled) is -1.
    box
        First and one past the last index per axis.
    """
    box = nonzero_box(image)
    inside = (slice(None), *(slice(low, high) for low, high in box))
    image = image[inside]
    outside = ~filled((image != 0).any(axis=0))
    found = np.zeros((1, *outside.shape), np.int16) if labels is None else labels[inside].astype(np.int16)
    for index, target in enumerate(found):
        target[outside & ((target == 0) | (index in continuous))] = OUTSIDE
    return image, found, box


def filled(mask: Mask) -> Mask:
    """`mask` with its holes: what faces do not connect to the border of the array.

    A mask that fills the array's bounding box has the same holes as in the whole image. A single slice has none, as every voxel is on the border.
    """
    if min(mask.shape) < 3 or mask.all():
        return mask
    import cc3d

    parts = cc3d.connected_components(~mask, connectivity=6)
    open_parts = np.zeros(int(parts.max()) + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            open_parts[np.take(parts, end, axis)] = True
    open_parts[0] = False  # the mask itself
    return np.asarray(~open_parts[parts])
