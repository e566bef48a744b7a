"""What the stage before has predicted, as an input of the next: one-hot channels, in training damaged now and then as nnU-Net does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnreg.errors import TrainingError
from nnreg.preprocessing.registration.storage import ENDING, open_array
from nnreg.training.augmentation.seeding import global_seed

FOLDER = "predicted_next_stage"
LARGEST_REMOVED = 0.15  # share of the patch that a component may cover and still be removed


@dataclass(frozen=True)
class PreviousStage:
    """Label maps that an earlier configuration predicted for the training cases, on this configuration's grid.

    Attributes
    ----------
    folder
        ``MODEL_FOLDER_OF_THE_STAGE_BEFORE/predicted_next_stage/CONFIGURATION`` with ``CASE.b2nd`` (T, D, H, W) int16 each.
    labels
        Per target, the values that become channels, in this order.
    """

    folder: Path
    labels: tuple[tuple[int, ...], ...]

    def check(self, cases: Sequence[str]) -> None:
        """Raise a TrainingError if a case was not predicted."""
        missing = [case for case in cases if not self._path(case).is_file()]
        if missing:
            stage = self.folder.parent.parent.name.split("__")[-1]
            raise TrainingError(
                f"{self._path(missing[0])}: does not exist ({len(missing)} of {len(cases)} cases are missing). Train every fold of {stage} first, to the end "
                "of its validation: each predicts its validation cases for this stage."
            )

    def open(self, case: str) -> Any:
        """The stored maps (T, D, H, W) of a case, to be read in parts."""
        return open_array(self._path(case))

    def onto(self, image: Tensor, labels: Tensor, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """The last maps of `labels`, one per target of the stage before, as further channels of `image` (C, *patch); damaged if there is an `rng`."""
        from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform

        data, own = {"image": image, "segmentation": labels}, len(labels) - len(self.labels)
        for values in self.labels:  # each is taken out of the labels, so the next has its place
            data = MoveSegAsOneHotToDataTransform(own, list(values))(**data)
        if rng is not None:
            with global_seed(int(rng.integers(2**32))):
                data = _damage(sum(map(len, self.labels)))(**data)
        return data["image"], data["segmentation"]

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}{ENDING}"


@functools.lru_cache(maxsize=4)
def _damage(channels: int) -> Any:
    """nnU-Net's: now and then grow, shrink, open or close a label, now and then lose a component."""
    from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
    from batchgeneratorsv2.transforms.nnunet.remove_connected_components import RemoveRandomConnectedComponentFromOneHotEncodingTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    last = list(range(-channels, 0))
    morphology = ApplyRandomBinaryOperatorTransform(channel_idx=last, strel_size=(1, 8), p_per_label=0.5)
    removal = RemoveRandomConnectedComponentFromOneHotEncodingTransform(
        channel_idx=last, fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=LARGEST_REMOVED, p_per_label=0.5
    )
    return ComposeTransforms([RandomTransform(morphology, 0.4), RandomTransform(removal, 0.2)])
