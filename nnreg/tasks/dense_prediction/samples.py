"""Training patches: placed, read, augmented and turned into tensors by (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.labels import OUTSIDE
from nnreg.planning.dense.plans import DenseConfiguration
from nnreg.preprocessing.dense.storage import DenseDataset
from nnreg.tasks.dense_prediction.auxiliary import DerivedMaps
from nnreg.tasks.dense_prediction.cascade import PreviousStage
from nnreg.tasks.dense_prediction.patches import draw_start, is_forced
from nnreg.training.augmentation.dense import build_dense_augmentation

SPLITS = ("train", "val")


class PatchSamples(Dataset[dict[str, Tensor]]):
    """Patches of ``image`` (C, *patch), float32, and ``labels`` (T, *patch), int16, with nnU-Net's share of forced foreground.

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
    partly_annotated
        Whether there is an ignore label: then every patch is placed on a voxel that is annotated.
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
        partly_annotated: bool = False,
        previous: PreviousStage | None = None,
        derived: DerivedMaps | None = None,
    ) -> None:
        self.data = DenseDataset(folder)
        self.cases, self.length, self.split, self.previous = list(cases), length, split, previous
        self.partly_annotated, self.derived = partly_annotated, derived
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
        stored = self.data.open(case)
        draw = None if self.augmentation is None else self.augmentation.draw(rng)
        wide = self.patch if self.augmentation is None else self.augmentation.read
        # a plane is a patch of one slice
        flat = (1,) * (3 - len(self.patch))
        forced = is_forced(index % self.batch_size, self.batch_size)
        # a file of its own, which a patch that may lie anywhere need not wait for
        locations = self.data.locations(case) if forced or self.partly_annotated else {}
        start = draw_start(rng, stored.image.shape[1:], flat + wide, flat + self.patch, locations, forced=forced)
        size = flat + self.patch
        if draw is not None:
            start = tuple(first + inner for first, inner in zip(start, (0,) * len(flat) + draw.start, strict=True))
            size = flat + draw.size
        image = self._read(stored.image, start, size, 0)
        labels = self._read(stored.labels, start, size, OUTSIDE)
        if self.previous is not None:
            labels = torch.cat([labels, self._read(self.previous.open(case), start, size, OUTSIDE)])
        if draw is not None:
            image, labels = draw(image, labels)
        if self.previous is not None:
            image, labels = self.previous.onto(image, labels, rng if self.augmentation is not None else None)
        labels = labels.clamp_(min=0)
        return {"image": image, "labels": labels} | ({} if self.derived is None else self.derived(labels))

    def _read(self, array: Any, start: Sequence[int], size: Sequence[int], fill: int) -> Tensor:
        """(C, *size) of a stored array, of the patch's axes."""
        found = torch.from_numpy(read_box(array, start, size, fill))
        return found[:, 0] if len(self.patch) == 2 else found


def read_box(array: Any, start: Sequence[int], size: Sequence[int], fill: int) -> npt.NDArray[Any]:
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
