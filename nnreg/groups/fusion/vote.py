"""A label map from warped atlases, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.arrays import AnyArray, Floats, Mask, ShortIntegers
from nnreg.groups.fusion.blocks import Box, WarpedAtlases, boxes, places_of, tightened
from nnreg.groups.fusion.methods import METHODS, FusionSettings
from nnreg.progress import Progress


@dataclass(frozen=True, eq=False)
class Fused:
    """What the vote gives.

    Attributes
    ----------
    labels : array, shape (D, H, W), int32
    entropy : array, shape (D, H, W), float32
        Of the shares of all labels, natural logarithm: 0 where all atlases agree.
    disputed : int
        Voxels at which atlases disagree.
    """

    labels: ShortIntegers
    entropy: Floats
    disputed: int


def fuse_warped(
    warped: WarpedAtlases,
    method: str,
    settings: FusionSettings,
    *,
    probabilities: AnyArray | None = None,
    on_progress: Progress | None = None,
) -> Fused:
    """Fuse by one of ``METHODS``.

    Parameters
    ----------
    warped
    method
    settings
    probabilities : array, shape (L, D, H, W), optional
        Takes the shares of the L labels of :meth:`WarpedAtlases.all_values`; zeros.
    on_progress

    Raises
    ------
    ConfigurationError
        If the method is unknown.
    """
    weigh, values = METHODS[method], warped.all_values()
    labels, entropy = np.zeros(warped.shape, np.int32), np.zeros(warped.shape, np.float32)
    disputed, blocks = 0, list(boxes(warped.shape))
    for done, block in enumerate(blocks):
        there = np.stack([array[block.slices] for array in warped.labels])
        differ = (there != there[0]).any(axis=0)
        labels[block.slices] = there[0]
        if probabilities is not None:
            _agreed(probabilities, block, there[0], ~differ, values)
        if differ.any():
            core, mask = tightened(block, differ)
            places = places_of(mask)
            shares, present = weigh(core, mask, warped, settings).shares(core, places, warped, values)
            at = tuple((places + core.low).T)
            labels[at], entropy[at] = np.asarray(values)[present][shares.argmax(axis=1)], _entropy(shares)
            if probabilities is not None:
                for share, number in zip(shares.T, np.flatnonzero(present), strict=True):
                    probabilities[(number, *at)] = share
            disputed += len(places)
        if on_progress is not None:
            on_progress(done + 1, len(blocks), "fusing")
    return Fused(labels, entropy, disputed)


def _agreed(probabilities: AnyArray, block: Box, labels: AnyArray, agreed: Mask, values: Sequence[int]) -> None:
    """All of the share to the label on which the atlases agree."""
    for value in np.unique(labels[agreed]).tolist():
        probabilities[(values.index(value), *block.slices)] = agreed & (labels == value)


def _entropy(shares: Floats) -> Floats:
    return np.asarray(-(shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))).sum(axis=1), dtype=np.float32)
