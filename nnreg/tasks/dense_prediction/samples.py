"""DenseTraining patches: placed, read, augmented and turned into tensors by (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.labels import OUTSIDE
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import outputs_of, targets_of
from nnreg.planning.dense_prediction.foreground import nonzero_box
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DenseTraining
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.tasks.dense_prediction.auxiliary import DerivedMaps
from nnreg.tasks.dense_prediction.cascade import PreviousStage
from nnreg.tasks.dense_prediction.patches import draw_start, is_forced
from nnreg.training.augmentation.dense_prediction.patch import DenseDraw, build_dense_augmentation

SPLITS = ("train", "val")
TRIES = 16  # of a patch that shows too few labels


@dataclass(frozen=True)
class Annotation:
    """What of the labels is learnt, and how much of it a patch must show.

    Attributes
    ----------
    label_only
        Per target, whether voxels of value 0 teach nothing, whatever a mask says.
    ignore
        Per target, the value that says nothing.
    min_labeled_ratio
        Share of a patch that is labelled or, where a mask says what is annotated, in it.
    min_bbox_percent
        Share of a patch that the box around that fills.
    continuous
        Whether there are targets whose values may be unknown in places.
    """

    label_only: tuple[bool, ...] = (False,)
    ignore: tuple[int | None, ...] = (None,)
    min_labeled_ratio: float = 0.0
    min_bbox_percent: float = 0.0
    continuous: bool = False

    @classmethod
    def of(cls, spec: DatasetSpec, training: DenseTraining) -> Annotation:
        """As dataset.json and the training plan have it."""
        targets, outputs = targets_of(spec).values(), outputs_of(spec).values()
        only = tuple((training.loss_on_label_only or target.loss_on_label_only) and not target.is_continuous for target in targets)
        continuous = any(target.is_continuous for target in targets)
        return cls(only, tuple(output.ignore for output in outputs), training.min_labeled_ratio, training.min_bbox_percent, continuous)

    @property
    def selective(self) -> bool:
        """Whether a patch may show too little."""
        return max(self.min_labeled_ratio, self.min_bbox_percent) > 0

    def labelled(self, labels: Tensor) -> Tensor:
        """(T, *spatial), 1 where the labels of a target are neither background nor ignored."""
        ignored = torch.stack(
            [torch.zeros_like(one, dtype=torch.bool) if value is None else one == value for one, value in zip(labels, self.ignore, strict=True)]
        )
        return ((labels > 0) & ~ignored).to(labels.dtype)

    def sufficiency(self, annotated: npt.NDArray[np.bool_]) -> float:
        """How much of what it must show a patch (*spatial) shows: 1 or more is enough."""
        box = prod(high - low for low, high in nonzero_box(annotated[None])) if annotated.any() else 0
        wanted = ((float(annotated.mean()), self.min_labeled_ratio), (box / annotated.size, self.min_bbox_percent))
        return min(found / least for found, least in wanted if least > 0)


EVERYTHING = Annotation()


class PatchSamples(Dataset[dict[str, Tensor]]):
    """Patches of ``image`` (C, *patch), float32, and ``labels`` (T, *patch), int16, with nnU-Net's share of forced foreground.

    Where there are continuous targets, ``maps`` (M, *patch), float32, are their values, NaN where unknown.

    Parameters
    ----------
    folder
        Preprocessed arrays of the configuration.
    cases
        Cases to draw from, all equally likely.
    configuration
        Its patch, batch size, seed and augmentation.
    length
        Samples per epoch; indices beyond it are valid (later epochs).
    split : ``train`` or ``val``
    augment
        Whether to augment.
    annotation
        What of the labels is learnt, and how much of it a patch must show. Where parts of images are not annotated (an ignore label, masks), every patch is
        placed on a voxel that is; where there are masks, samples have ``mask`` (T, *patch), bool, too.
    previous
        Label maps of the stage before, in a cascade: they become further channels of the image.
    derived
        What else is learnt from labels: derived after augmentation, so that directions and distances are those of the patch.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        configuration: DenseConfiguration,
        length: int,
        split: str,
        augment: bool,
        *,
        annotation: Annotation = EVERYTHING,
        previous: PreviousStage | None = None,
        derived: DerivedMaps | None = None,
    ) -> None:
        self.data = DenseDataset(folder)
        self.cases, self.length, self.split, self.previous = list(cases), length, split, previous
        self.annotation, self.derived = annotation, derived
        self.masked = any(annotation.label_only) or any(self.data.mask(case) is not None for case in self.cases)
        self.partly_annotated = self.masked or annotation.continuous or any(value is not None for value in annotation.ignore)
        plan = configuration.training
        self.seed, self.batch_size, self.patch = plan.seed, plan.batch_size, tuple(configuration.patch_size)
        masked = [channel for channel, used in enumerate(configuration.use_mask_for_norm) if used]
        self.augmentation = build_dense_augmentation(plan.augmentation, self.patch, masked) if augment else None
        if previous is not None:
            previous.check(self.cases)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        case = self.cases[int(rng.integers(len(self.cases)))]
        draw = None if self.augmentation is None else self.augmentation.draw(rng)
        forced = is_forced(index % self.batch_size, self.batch_size)
        start, size = self._place(case, rng, draw, forced)
        if self.annotation.selective:
            case, start = self._chosen(case, start, size, rng, draw, forced)
        stored = self.data.open(case)
        image = self._read(stored.image, start, size, 0)
        labels = self._read(stored.labels, start, size, OUTSIDE)
        targets = len(labels)
        maps = None if (values := self.data.maps(case)) is None else self._read(values, start, size, np.nan)
        if self.masked:
            labels = torch.cat([labels, self._learnt(case, labels, start, size)])
        if self.previous is not None:
            labels = torch.cat([labels, self._read(self.previous.open(case), start, size, OUTSIDE)])
        if draw is not None and maps is not None:
            image, labels, maps = draw.with_maps(image, labels, maps)
        elif draw is not None:
            image, labels = draw(image, labels)
        if self.previous is not None:
            image, labels = self.previous.onto(image, labels, rng if self.augmentation is not None else None)
        labels = labels.clamp_(min=0)
        mask = labels[targets:] > 0 if self.masked else None
        sample = {"image": image, "labels": labels[:targets]} | ({} if mask is None else {"mask": mask}) | ({} if maps is None else {"maps": maps})
        return sample | ({} if self.derived is None else self.derived(sample["labels"], mask))

    def _place(self, case: str, rng: np.random.Generator, draw: DenseDraw | None, forced: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Start and size of what is read for a patch of a case."""
        wide = self.patch if self.augmentation is None else self.augmentation.read
        # a plane is a patch of one slice
        flat = (1,) * (3 - len(self.patch))
        # a file of its own, which a patch that may lie anywhere need not wait for
        locations = self.data.locations(case) if forced or self.partly_annotated else {}
        start = draw_start(rng, self.data.open(case).image.shape[1:], flat + wide, flat + self.patch, locations, forced=forced)
        if draw is None:
            return start, flat + self.patch
        return tuple(first + inner for first, inner in zip(start, (0,) * len(flat) + draw.start, strict=True)), flat + draw.size

    def _chosen(
        self, case: str, start: tuple[int, ...], size: tuple[int, ...], rng: np.random.Generator, draw: DenseDraw | None, forced: bool
    ) -> tuple[str, tuple[int, ...]]:
        """The first of a few places that shows as many labels as a patch must; else that which shows most."""
        best = (-1.0, case, start)
        for _ in range(TRIES):
            labels = self._read(self.data.open(case).labels, start, size, OUTSIDE)
            annotated = self._learnt(case, labels, start, size) if self.data.mask(case) is not None else self.annotation.labelled(labels)
            share = self.annotation.sufficiency(annotated.numpy().max(axis=0) > 0)
            best = max(best, (share, case, start), key=lambda found: found[0])
            if share >= 1:
                break
            case = self.cases[int(rng.integers(len(self.cases)))]
            start, _ = self._place(case, rng, draw, forced)
        return best[1:]

    def _learnt(self, case: str, labels: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """(T, *size), 1 where a target is learnt: where the case's mask says so (all is, without one) and, if labels alone are learnt, where there are any."""
        mask = self.data.mask(case)
        alone = torch.tensor(self.annotation.label_only).reshape(-1, *(1,) * (labels.ndim - 1))
        learnt = (self.annotation.labelled(labels).bool() | ~alone).to(labels.dtype)
        return learnt if mask is None else learnt * (self._read(mask, start, size, 0) > 0)

    def _read(self, array: Any, start: Sequence[int], size: Sequence[int], fill: float) -> Tensor:
        """(C, *size) of a stored array, of the patch's axes."""
        found = torch.from_numpy(read_box(array, start, size, fill))
        return found[:, 0] if len(self.patch) == 2 else found


def read_box(array: Any, start: Sequence[int], size: Sequence[int], fill: float) -> npt.NDArray[Any]:
    """(C, *size) voxels from `start` on of a stored array (C, *spatial); `fill` where it ends. Nothing else of it is read."""
    inner = [(max(low, 0), min(low + extent, limit)) for low, extent, limit in zip(start, size, array.shape[1:], strict=True)]
    if any(low >= high for low, high in inner):
        return np.full((array.shape[0], *size), fill, array.dtype)
    found = np.asarray(array[(slice(None), *(slice(low, high) for low, high in inner))])
    if found.shape[1:] == tuple(size):
        return found
    result = np.full((array.shape[0], *size), fill, array.dtype)
    result[(slice(None), *(slice(low - first, high - first) for (low, high), first in zip(inner, start, strict=True)))] = found
    return result
