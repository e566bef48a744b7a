"""Dice per connected component, so that small structures count as much as large ones."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from nnreg.arrays import LongIntegers
from nnreg.errors import ConfigurationError
from nnreg.losses.base import LOSSES
from nnreg.losses.dense import DenseLoss, Scored
from nnreg.losses.ranks import mean_over_ranks, over_ranks

CONNECTIVITY: dict[str, dict[int, Literal[4, 6, 8, 26]]] = {"full": {2: 8, 3: 26}, "faces": {2: 4, 3: 6}}
CELL_VOXELS = 2**18  # a distance transform of more takes longer than the step it belongs to


class Components(NamedTuple):
    """Connected components of a batch.

    Attributes
    ----------
    identity : array, shape (B, K, *spatial)
        Number of the component of each voxel, 0 for none; K is 1 for a label map, else the number of maps.
    sample, channel : arrays, shape (components + 1,)
        Where component i lies; entry 0 stands for no component.
    """

    identity: LongIntegers
    sample: LongIntegers
    channel: LongIntegers


def find_components(labels: LongIntegers, connectivity: str, largest: int | None = None) -> Components:
    """Connected components of equal non-zero values (B, K, *spatial).

    Parameters
    ----------
    labels
        Channel i of one of several maps must hold i + 1 (or 0); one label map holds anything.
    connectivity
        ``full`` (8 or 26 neighbours) or ``faces`` (4 or 6).
    largest
        Of the components of each (sample, map) only so many are told apart; the smaller ones form one.
    """
    import cc3d

    neighbours = CONNECTIVITY[connectivity][labels.ndim - 2]
    identity = np.zeros(labels.shape, np.int64)
    samples, values, count = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], 0
    for sample, maps in enumerate(labels):
        for channel, image in enumerate(maps):
            found = cc3d.connected_components(np.ascontiguousarray(image, dtype=np.uint16), connectivity=neighbours).astype(np.int64)
            number = int(found.max(initial=0))
            value = np.zeros(number + 1, np.int64)
            value[found.ravel()] = image.ravel()
            if largest is not None and number > largest:
                found, value = _merge_smallest(found, value, largest)
                number = len(value) - 1
            identity[sample, channel] = np.where(found > 0, found + count, 0)
            samples.append(np.full(number, sample))
            values.append(value[1:] - 1)
            count += number
    return Components(identity, np.concatenate(samples), np.concatenate(values))


def _merge_smallest(found: LongIntegers, value: LongIntegers, largest: int) -> tuple[LongIntegers, LongIntegers]:
    """Components of each value beyond its largest ones under one number."""
    sizes = np.bincount(found.ravel(), minlength=len(value))
    names, rename = [0], np.zeros(len(value), np.int64)
    for wanted in np.unique(value[1:]):
        members = np.flatnonzero(value == wanted)
        members = members[members > 0]
        order = members[np.argsort(-sizes[members], kind="stable")]
        rename[order] = len(names) + np.minimum(np.arange(len(order)), largest - 1)
        names.extend([int(wanted)] * min(len(order), largest))
    return rename[found], np.array(names)


def _nearest(components: Components, labels: LongIntegers, channels: range) -> LongIntegers:
    """For every voxel and channel the component of that channel which is nearest (B, len(channels), *spatial), 0 where the channel has none.

    On blocks of voxels where there are more than ``CELL_VOXELS``: where two cells meet need not be known to the voxel.
    """
    result = np.zeros((len(labels), len(channels), *labels.shape[2:]), np.int64)
    for sample, maps in enumerate(labels):
        for index, channel in enumerate(channels):
            of_map = 0 if len(maps) == 1 else channel
            own = np.where(maps[of_map] == channel + 1, components.identity[sample, of_map], 0)
            if own.any():
                result[sample, index] = _cells(own)
    return result


def _cells(identity: LongIntegers) -> LongIntegers:
    """The number of the nearest component at every voxel of a map (*spatial) that holds numbers, and 0 elsewhere."""
    step = math.ceil((identity.size / CELL_VOXELS) ** (1 / identity.ndim)) if identity.size > CELL_VOXELS else 1
    blocks = identity
    for axis, size in enumerate(identity.shape):
        blocks = np.maximum.reduceat(blocks, range(0, size, step), axis=axis)
    nearest = blocks[tuple(distance_transform_edt(blocks == 0, return_distances=False, return_indices=True))]
    for axis, size in enumerate(identity.shape):
        nearest = nearest.repeat(step, axis=axis).take(range(size), axis=axis)
    return nearest


@LOSSES.register("blob_dice", "BlobDiceLoss")
class BlobDice(DenseLoss):
    """Minus the mean soft Dice of the connected components of the truth (after Kofler et al., blob loss, IPMI 2023).

    Component k of class c is scored in its cell, the voxels nearer to it than to any other component of c (as in CC-metrics): ``D = 2 sum_k p / (sum_cell p +
    |k|)``. In the paper every false positive counts against every component: of thirty small objects one that is not there costs ten times what a missed one
    does, and fewer are found than with Dice (``benchmarks/small_objects.py``). A component's own voxels alone (as in code that is about) would have no false
    positives, and foreground everywhere would score like a perfect prediction.

    Parameters
    ----------
    smooth
        Added to both sides of the fraction.
    batch_dice
        Mean over all components of the batch instead of over those of each sample first.
    component_weight
        ``uniform``, or ``inverse_volume`` or ``log`` (one over the volume or its logarithm): smaller ones count more.
    connectivity
        ``full``: voxels that share a corner are connected. ``faces``: those that share a face.
    cells
        Count a false positive against the nearest component only. False is the paper's form: against every one of its class.
    max_components
        Of a class in a sample, as many of the largest are told apart; the others count as one.
    ddp
        With `batch_dice`, take the mean over the components of all ranks.

    Notes
    -----
    A batch without components scores 0: what is predicted there is left to the Dice or cross entropy beside it.
    """

    full_resolution_only = True
    splits_over_ranks = True

    def __init__(
        self,
        smooth: float = 1e-5,
        batch_dice: bool = False,
        component_weight: Literal["uniform", "inverse_volume", "log"] = "uniform",
        connectivity: Literal["full", "faces"] = "full",
        cells: bool = True,
        max_components: int | None = None,
        ddp: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if connectivity not in CONNECTIVITY or component_weight not in ("uniform", "inverse_volume", "log") or smooth < 0:
            raise ConfigurationError(
                f"blob_dice needs connectivity 'full' or 'faces', component_weight 'uniform', 'inverse_volume' or 'log' and smooth >= 0, "
                f"found {connectivity!r}, {component_weight!r} and {smooth}."
            )
        if max_components is not None and max_components < 1:
            raise ConfigurationError(f"blob_dice needs max_components >= 1, found {max_components}.")
        self.smooth, self.batch_dice, self.component_weight, self.connectivity = smooth, batch_dice, component_weight, connectivity
        self.cells, self.max_components, self.ddp = cells, max_components, ddp

    def score(self, scored: Scored) -> Tensor:
        """See :class:`DenseLoss`."""
        labels = self._truth(scored)
        components = find_components(labels.cpu().numpy(), self.connectivity, self.max_components)
        device, number = labels.device, len(components.sample)
        identity = torch.from_numpy(components.identity).to(device)
        hit, size = self._own(scored, labels, identity, number)
        sample, channel = (torch.from_numpy(values).to(device) for values in (components.sample, components.channel))
        wrong = self._wrong(scored, labels, components, number) if self.cells else self._wrong_per_class(scored, labels)[sample, channel]
        dice = ((2 * hit + self.smooth) / (hit + wrong + size + self.smooth).clamp(min=1e-8))[1:]
        return -self._mean(dice, size[1:], sample[1:], len(labels)) + 0.0 * scored.logits.sum()

    def _truth(self, scored: Scored) -> Tensor:
        """Label map (B, 1, *spatial), or maps (B, C, *spatial) that hold their number; background and what is not scored are 0."""
        if scored.labels is not None:
            return scored.labels[:, None]
        maps = scored.maps > 0.5
        if not scored.regions:
            return torch.where(maps.any(dim=1, keepdim=True), maps.to(torch.uint8).argmax(dim=1, keepdim=True), 0)
        numbers = torch.arange(1, maps.shape[1] + 1, device=maps.device).reshape(1, -1, *(1,) * (maps.ndim - 2))
        return maps * numbers

    @staticmethod
    def _own(scored: Scored, labels: Tensor, identity: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Probability found inside each component, and its voxels."""
        p = scored.probabilities if scored.regions else scored.probabilities.gather(1, labels)
        flat = identity.flatten()
        return p.new_zeros(number).index_add(0, flat, p.flatten()), flat.bincount(minlength=number).to(p.dtype)

    @staticmethod
    def _outside(scored: Scored, labels: Tensor) -> Tensor:
        """Probability of each channel where it is not the truth."""
        p = scored.masked(scored.probabilities)
        return torch.where(labels > 0, 0.0, p) if scored.regions else p.scatter(1, labels, 0.0)

    def _wrong_per_class(self, scored: Scored, labels: Tensor) -> Tensor:
        wrong = self._outside(scored, labels).flatten(2).sum(dim=2)
        # channel 0 of a label map is background, label 1 channel 1: the components' channel is their label less one
        return wrong if scored.regions else torch.cat([wrong[:, 1:], wrong[:, :1]], dim=1)

    def _wrong(self, scored: Scored, labels: Tensor, components: Components, number: int) -> Tensor:
        wrong = self._outside(scored, labels)[:, scored.first_class :]
        cells = _nearest(components, labels.cpu().numpy(), range(wrong.shape[1]))
        return wrong.new_zeros(number).index_add(0, torch.from_numpy(cells).to(wrong.device).flatten(), wrong.flatten())

    def _mean(self, dice: Tensor, size: Tensor, sample: Tensor, batch: int) -> Tensor:
        if self.component_weight == "inverse_volume":
            weight = 1 / size.clamp(min=1)
        elif self.component_weight == "log":
            weight = 1 / (1 + size.clamp(min=1).log())
        else:
            weight = torch.ones_like(size)
        if self.batch_dice:
            total, count = (dice * weight).sum(), weight.sum()
            total, count = over_ranks(total, count) if self.ddp else (total, count)
            return total / count.clamp(min=1e-12)
        totals, counts = (dice.new_zeros(batch).index_add(0, sample, values) for values in (dice * weight, weight))
        present = counts > 0
        return mean_over_ranks(torch.where(present, totals / counts.clamp(min=1e-12), 0.0).sum() / present.sum().clamp(min=1), present.sum())
