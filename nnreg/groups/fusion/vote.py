"""A label map from warped atlases, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.arrays import AnyArray, Floats, LongIntegers, Mask, ShortIntegers
from nnreg.groups.fusion.blocks import Box, WarpedAtlases, boxes, places_of, tightened
from nnreg.groups.fusion.methods import METHODS, FusionSettings
from nnreg.groups.fusion.staple import staple
from nnreg.progress import Progress

STAPLE = "staple"
MOST_LIKELY = 0.5  # share from which a voxel belongs to a region


def method_names() -> list[str]:
    """What may be asked for."""
    return [*METHODS, STAPLE]


@dataclass(frozen=True)
class Meaning:
    """What labels of a dataset mean beside being one class each.

    Attributes
    ----------
    regions
        Labels of each region, in the order in which they are painted; none where each label is a class.
    painted
        What the voxels of each region get; later regions over earlier ones.
    ignore
        A label that says that nothing is known: it does not vote.
    """

    regions: tuple[tuple[int, ...], ...] = ()
    painted: tuple[int, ...] = ()
    ignore: int | None = None

    def decided(self, shares: Floats, values: AnyArray) -> LongIntegers:
        """Labels (M,) from shares (M, L): of the highest share, or of the regions whose shares are above a half."""
        if not self.regions:
            return np.asarray(values[shares.argmax(axis=1)])
        result = np.zeros(len(shares), np.int64)
        for region, value in zip(self.regions, self.painted, strict=True):
            result[shares[:, np.isin(values, region)].sum(axis=1) > MOST_LIKELY] = value
        return result

    def agreed(self, labels: AnyArray) -> AnyArray:
        """What voxels get whose label is certain."""
        result = labels if not self.regions else np.zeros_like(labels)
        for region, value in zip(self.regions, self.painted, strict=True):
            result[np.isin(labels, region)] = value
        return result

    def counted(self, shares: Floats, values: AnyArray) -> Floats:
        """Shares without the votes of those that know nothing, unless nobody knows."""
        known = values != self.ignore
        if self.ignore is None or known.all():
            return shares
        total = shares[:, known].sum(axis=1, keepdims=True)
        return np.where(known, shares / np.where(total > 0, total, 1), np.where(total > 0, 0, shares)).astype(np.float32)


PLAIN = Meaning()


@dataclass(frozen=True, eq=False)
class Fused:
    """What the vote gives.

    Attributes
    ----------
    labels : array, shape (D, H, W), int32
    entropy : array, shape (D, H, W), float32
        Of the shares of all labels, natural logarithm: 0 where all atlases agree. Of STAPLE, which gives no shares, of the plain votes.
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
    meaning: Meaning = PLAIN,
    classes: Sequence[int] | None = None,
    probabilities: AnyArray | None = None,
    on_progress: Progress | None = None,
) -> Fused:
    """Fuse by one of :func:`method_names`.

    Parameters
    ----------
    warped
    method
    settings
    meaning
    classes
        Labels in ascending order, the background first; those of the atlases by default.
    probabilities : array, shape (L, D, H, W), optional
        Zeros; takes the shares of the L classes. Not with STAPLE.
    on_progress

    Raises
    ------
    ConfigurationError
        If the method is unknown.
    """
    if method == STAPLE:
        plain = fuse_warped(warped, "majority", settings, on_progress=on_progress)
        return Fused(meaning.agreed(staple(warped)), plain.entropy, plain.disputed)
    weigh, values = METHODS[method], warped.all_values() if classes is None else list(classes)
    labels, entropy = np.zeros(warped.shape, np.int32), np.zeros(warped.shape, np.float32)
    disputed, blocks = 0, list(boxes(warped.shape))
    for done, block in enumerate(blocks):
        there = np.stack([array[block.slices] for array in warped.labels])
        differ = (there != there[0]).any(axis=0)
        labels[block.slices] = meaning.agreed(there[0])
        if probabilities is not None:
            _agreed(probabilities, block, there[0], ~differ, values)
        if differ.any():
            core, mask = tightened(block, differ)
            places = places_of(mask)
            shares, present = weigh(core, mask, warped, settings).shares(core, places, warped, values)
            own = np.asarray(values)[present]
            shares = meaning.counted(shares, own)
            at = tuple((places + core.low).T)
            labels[at], entropy[at] = meaning.decided(shares, own), _entropy(shares)
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
