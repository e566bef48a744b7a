"""Simultaneous truth and performance level estimation of several labels (Rohlfing et al. 2004), by SimpleITK."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import AnyArray, ShortIntegers
from nnreg.groups.fusion.blocks import WarpedAtlases, boxes

ITERATIONS = 30  # at most; not tuned


def staple(warped: WarpedAtlases) -> ShortIntegers:
    """The label map (D, H, W).

    Performance is estimated at those voxels alone: at the others everyone is right, which hides who is wrong, and takes most of the time. Labels of all
    atlases at those voxels are in memory at once.
    """
    import SimpleITK as sitk

    values = np.asarray(warped.all_values())
    differ = np.zeros(warped.shape, bool)
    for block in boxes(warped.shape):
        there = np.stack([array[block.slices] for array in warped.labels])
        differ[block.slices] = (there != there[0]).any(axis=0)
    result = np.array(warped.labels[0], np.int32)
    if not differ.any():
        return result
    numbers = [np.searchsorted(values, array[differ]).astype(np.uint16) for array in warped.labels]
    estimate = sitk.MultiLabelSTAPLEImageFilter()
    estimate.SetLabelForUndecidedPixels(len(values))
    estimate.SetMaximumNumberOfIterations(ITERATIONS)
    found = sitk.GetArrayFromImage(estimate.Execute([sitk.GetImageFromArray(array[None]) for array in numbers]))[0]
    undecided = found == len(values)
    found[undecided] = _most_votes(np.stack([array[undecided] for array in numbers]), len(values))
    result[differ] = values[found]
    return result


def _most_votes(numbers: AnyArray, labels: int) -> AnyArray:
    """Of each column (N, M) the number that is there most often; the lowest of several."""
    votes = np.zeros((numbers.shape[1], labels), np.uint16)
    for row in numbers:
        votes[np.arange(len(votes)), row] += 1
    return votes.argmax(axis=1)
