"""Training pairs: drawn, augmented and turned into tensors by (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.pairs import Pair
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES
from nnreg.planning.plans import LossTerm
from nnreg.planning.registration.plans import RegistrationConfiguration
from nnreg.planning.registration.rules.training import LABELS_PER_STEP
from nnreg.preprocessing.registration.storage import PreprocessedCase, PreprocessedDataset
from nnreg.training.augmentation.registration import PairSample, build_augmentation

SPLITS = ("train", "val")
POINTS_PER_SAMPLE = 512  # samples of a batch need as many


def learns_from(supervision: Sequence[LossTerm], what: str) -> bool:
    """Whether a term needs ``labels``, ``keypoints`` or the ``true_field``; a similarity among these terms compares one-hot maps of labels."""
    kinds = {getattr(LOSSES[term.name], "kind", "labels") for term in supervision}
    return what in {"labels" if kind == "similarity" else kind for kind in kinds}


class PairSamples(Dataset[dict[str, Tensor]]):
    """Samples of registration pairs.

    Parameters
    ----------
    folder
        Preprocessed arrays of the configuration.
    pairs
        Pairs to draw from: at random for training, in order for validation.
    configuration
        Its training plan gives seed and augmentation.
    length
        Samples per epoch; indices beyond it are valid (later epochs).
    split : ``train`` or ``val``
    augment
        Whether to augment.
    maps
        Label maps that a sample is compared by.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[Pair],
        configuration: RegistrationConfiguration,
        length: int,
        split: str,
        augment: bool,
        maps: int = LABELS_PER_STEP,
    ) -> None:
        self.data = PreprocessedDataset(folder)
        self.pairs, self.length, self.split, self.maps = list(pairs), length, split, maps
        plan = configuration.training
        self.with_labels = split == "val" or learns_from(plan.supervision, "labels")
        self.seed, self.with_points = plan.seed, split == "train" and learns_from(plan.supervision, "keypoints")
        if self.with_points and not any(
            self.data.properties(case).keypoints is not None for case in {side for pair in pairs for side in (pair.fixed, pair.moving)}
        ):
            raise ConfigurationError(f"{folder}: training.supervision names a keypoint loss, but no case has keypoints. Remove the term or add keypointsTr.")
        # a validation has the end-point error of what is known, a training with such a term needs a field in every sample of a batch
        self.directions = ("field", "inverse_field") if plan.bidirectional and split == "train" else ("field",)
        self.with_fields = split == "train" and learns_from(plan.supervision, "true_field")
        if self.with_fields and not any(self.data.has_true_field(way) for pair in pairs for way in self._ways(pair).values()):
            raise ConfigurationError(
                f"{folder}: training.supervision names a loss of true fields, but no training pair has one. "
                "Remove the term, or add fieldsTr and preprocess again."
            )
        self.pad_labels = split == "train" and self.with_labels and self.data.any_labels
        self.augmentation = build_augmentation(plan.augmentation, configuration.ndim, spacing=configuration.spacing) if augment else None
        if split == "val":
            # a fixed random order, so that few validation iterations still see many subjects
            order = np.random.default_rng([self.seed, SPLITS.index(split)]).permutation(len(self.pairs))
            self.pairs = [self.pairs[i] for i in order]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        pair = self.pairs[rng.integers(len(self.pairs)) if self.split == "train" else index % len(self.pairs)]
        fixed, moving = self.data.load(pair.fixed), self.data.load(pair.moving)
        sample = self._sample(fixed, moving, self._true_fields(pair, fixed.properties.working.shape))
        if self.augmentation is not None:
            sample = self.augmentation(sample, rng)
        result = {name: value for name in _FIELDS if (value := getattr(sample, name)) is not None}
        if self.with_labels and sample.fixed_labels is not None and sample.moving_labels is not None:
            result["label_subset"] = _draw_labels(sample.fixed_labels, sample.moving_labels, rng, self.maps)
        if self.with_points:
            result |= _draw_points(pair, sample, rng)
        return result

    def _ways(self, pair: Pair) -> dict[str, Pair]:
        """Entry of a sample to the pair whose true field it holds."""
        return {name: pair if name == "field" else pair.swapped for name in self.directions}

    def _true_fields(self, pair: Pair, grid: tuple[int, ...]) -> dict[str, Tensor]:
        """What is known; in a training that needs it, NaN for what is not."""
        if self.split == "train" and not self.with_fields:
            return {}
        found = {name: self.data.true_field(way) for name, way in self._ways(pair).items()}
        if self.with_fields:
            found = {name: np.full((len(grid), *grid), np.nan, np.float32) if field is None else field for name, field in found.items()}
        return {name: torch.from_numpy(field) for name, field in found.items() if field is not None}

    def _sample(self, fixed: PreprocessedCase, moving: PreprocessedCase, fields: Mapping[str, Tensor]) -> PairSample:
        images = {"fixed": torch.from_numpy(np.asarray(fixed.image)), "moving": torch.from_numpy(np.asarray(moving.image))}
        extras: dict[str, Tensor | None] = dict(fields)
        for role, case in (("fixed", fixed), ("moving", moving)):
            labels = case.labels if self.with_labels else None
            if labels is None and self.pad_labels:
                # of a batch some cases may have labels and some none: without any, the overlap is constant
                labels = np.zeros((1, *case.image.shape[1:]), np.int16)
            extras[f"{role}_labels"] = None if labels is None else torch.from_numpy(np.asarray(labels))
            extras[f"{role}_mask"] = None if case.mask is None else torch.from_numpy(np.asarray(case.mask))
            points = case.properties.keypoints
            extras[f"{role}_keypoints"] = None if points is None else torch.as_tensor(np.asarray(points), dtype=torch.float32)
        return PairSample(**images, fixed_input=images["fixed"], moving_input=images["moving"], **extras)  # type: ignore[arg-type]


_FIELDS = (
    "fixed",
    "moving",
    "fixed_input",
    "moving_input",
    "fixed_labels",
    "moving_labels",
    "fixed_mask",
    "moving_mask",
    "fixed_keypoints",
    "moving_keypoints",
    "field",
    "inverse_field",
)


def _draw_points(pair: Pair, sample: PairSample, rng: np.random.Generator) -> dict[str, Tensor]:
    """Corresponding keypoints, as many for every sample: drawn if there are more, filled up with NaN if fewer. Nothing if either image has none."""
    fixed, moving = sample.fixed_keypoints, sample.moving_keypoints
    if fixed is None or moving is None:
        missing = torch.full((POINTS_PER_SAMPLE, sample.ndim), float("nan"))
        return {"fixed_keypoints": missing, "moving_keypoints": missing}
    if len(fixed) != len(moving):
        raise ConfigurationError(
            f"{pair.fixed} has {len(fixed)} keypoints, {pair.moving} {len(moving)}: a keypoint loss needs files whose rows correspond. Correct keypointsTr, "
            "or remove the term from training.supervision."
        )
    chosen = rng.permutation(len(fixed))[:POINTS_PER_SAMPLE]
    result = {}
    for name, points in (("fixed_keypoints", fixed), ("moving_keypoints", moving)):
        filled = points.new_full((POINTS_PER_SAMPLE, sample.ndim), float("nan"))
        filled[: len(chosen)] = points[torch.from_numpy(chosen)]
        result[name] = filled
    return result


def _draw_labels(fixed: Tensor, moving: Tensor, rng: np.random.Generator, count: int) -> Tensor:
    """`count` labels that both images have, drawn without regard to their size, 0-free: all of them before one is repeated."""
    shared = np.intersect1d(np.unique(fixed.numpy()), np.unique(moving.numpy()))
    shared = shared[shared > 0]
    if shared.size == 0:
        shared = np.array([-1])  # no such label: both one-hot maps are empty, the overlap term is constant
    drawn = rng.permutation(shared)[:count]
    more = rng.choice(shared, count - drawn.size)
    return torch.from_numpy(np.concatenate([drawn, more]).astype(np.int16))
