"""What a training that draws the shapes of other subjects needs of a dataset and its plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnreg.architecture.backbone import sampled_along_axes
from nnreg.dataset.pairs import Pair
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES
from nnreg.planning.plans import LossTerm
from nnreg.planning.registration.rules.training import SUBJECT_SHAPES
from nnreg.preprocessing.registration.storage import PreprocessedDataset
from nnreg.preprocessing.registration.subject_shapes import STEP, read_shape, shapes_of
from nnreg.training.augmentation.registration.shapes import RandomShape


class SubjectShapes:
    """Fields that give a training case part of the shape of another training case.

    Parameters
    ----------
    draw
        The augmentation of the plan.
    data
        Preprocessed arrays and fields.
    pairs
        Of the training: a shape is that of one of their cases, never of a validation case.
    supervision
        Of the plan.

    Raises
    ------
    ConfigurationError
        If a loss needs keypoints or true fields, which a changed case no longer has, or no field was made.
    """

    def __init__(self, draw: RandomShape, data: PreprocessedDataset, pairs: Sequence[Pair], supervision: Sequence[LossTerm]) -> None:
        unfit = [term.name for term in supervision if getattr(LOSSES[term.name], "kind", "labels") in ("keypoints", "true_field")]
        if unfit:
            raise ConfigurationError(
                f"augmentation.{SUBJECT_SHAPES}: {unfit[0]} needs what a case of another shape does not have. Remove one of the two from the training."
            )
        self.draw, self.data = draw, data
        self.others = shapes_of(data.folder, {side for pair in pairs for side in (pair.fixed, pair.moving)})
        if not any(self.others.values()):
            raise ConfigurationError(
                f"{data.folder}: augmentation.{SUBJECT_SHAPES} draws from fields between training cases, and there are none. Preprocessing makes them where "
                "the plans file names this augmentation: add it there and run nnreg_preprocess, or remove it from the training."
            )

    def drawn(self, case: str, shape: Sequence[int], rng: np.random.Generator) -> Tensor | None:
        """A displacement (1, ndim, *shape), voxels, for `case`; None where it keeps its shape."""
        found = self.draw.sample(rng, self.others[case])
        if found is None:
            return None
        other, share = found
        stored = torch.from_numpy(read_shape(self.data.folder, case, other))[None]
        return share * sampled_along_axes(stored, [torch.arange(size, dtype=torch.float32) / STEP for size in shape])
