"""Training pairs: drawn, augmented and turned into tensors by (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.pairs import Pair
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES
from nnreg.planning.plans import LossTerm
from nnreg.planning.registration.plans import RegistrationConfiguration
from nnreg.planning.registration.rules.training import LABELS_PER_STEP
from nnreg.preprocessing.registration.storage import PreprocessedDataset, Properties
from nnreg.tasks.registration.synthesis import check_synthesis, pairs_of_labelled, validated_changes
from nnreg.training.augmentation.registration import PairSample, build_augmentation
from nnreg.training.augmentation.registration.synthesis import SHAPES
from nnreg.training.runtime_utils.memory import GB, free_memory

SPLITS = ("train", "val")
POINTS_PER_SAMPLE = 512  # samples of a batch need as many
TAUGHT_SHARE = 0.5  # of the training samples at least are pairs that have labels or keypoints, where only some cases have them; not tuned
RESIDENT_SHARE = 0.5  # of the free memory that cases may be kept in: the network needs the rest
BYTE = 255


def learns_from(supervision: Sequence[LossTerm], what: str) -> bool:
    """Whether a term needs ``labels``, ``keypoints`` or the ``true_field``; a similarity among these terms compares one-hot maps of labels."""
    kinds = {getattr(LOSSES[term.name], "kind", "labels") for term in supervision}
    return what in {"labels" if kind == "similarity" else kind for kind in kinds}


@dataclass(frozen=True, eq=False)
class CaseTensors:
    """A case on the working grid as tensors; `properties` as it is stored.

    Attributes
    ----------
    image : Tensor, shape (C, *grid), float32
    labels : Tensor, shape (1, *grid), int16, optional
    mask : Tensor, shape (1, *grid), uint8, optional
    """

    image: Tensor
    labels: Tensor | None
    mask: Tensor | None
    properties: Properties

    def packed(self, device: torch.device) -> CaseTensors:
        """As it is kept on `device`: on a GPU in half the bytes where nothing but the last digits of an image are lost."""
        if device.type == "cpu":
            return self
        labels = self.labels
        if labels is not None and int(labels.min()) >= 0 and int(labels.max()) <= BYTE:
            labels = labels.to(torch.uint8)
        half = self.image.half()
        if not bool(half.isfinite().all()):  # intensities that were not normalised may lie beyond 65504
            half = self.image
        image, labels, mask = (None if tensor is None else tensor.to(device) for tensor in (half, labels, self.mask))
        return CaseTensors(cast(Tensor, image), labels, mask, self.properties)

    def unpacked(self) -> CaseTensors:
        """The inverse of :meth:`packed`, on the device."""
        return CaseTensors(self.image.float(), None if self.labels is None else self.labels.to(torch.int16), self.mask, self.properties)


def _size(case: CaseTensors, device: torch.device) -> int:
    """Bytes of a case that is kept on `device`."""
    packed = case.packed(torch.device("meta") if device.type != "cpu" else device)
    return sum(tensor.nbytes for tensor in (packed.image, packed.labels, packed.mask) if tensor is not None)


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
        changes = plan.augmentation if augment else validated_changes(plan.augmentation, self.data)
        self.augmentation = build_augmentation(changes, configuration.ndim, spacing=configuration.spacing) if changes else None
        synthesis = None if self.augmentation is None else self.augmentation.synthesis
        if synthesis is not None:
            check_synthesis(configuration)
        self.with_labels = split == "val" or learns_from(plan.supervision, "labels") or plan.segmentation_weight > 0
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
        if synthesis is not None and synthesis.maps == SHAPES:
            self.maps = LABELS_PER_STEP  # of the shapes, whatever labels there are
        elif synthesis is not None:
            self.pairs, self.pad_labels = pairs_of_labelled(self.data, self.pairs), False
        # the images of a group may have a grid of their own size, those of a batch may not
        self.whole = configuration.grid if plan.batch_size > 1 else None
        labelled = self._labelled()
        self.taught = self._taught(labelled) if split == "train" else []
        self.device = torch.device("cpu")
        self._kept: dict[str, CaseTensors] | None = None
        if split == "val":
            # a fixed random order, so that few validation iterations still see many subjects
            order = np.random.default_rng([self.seed, SPLITS.index(split)]).permutation(len(self.pairs))
            # those that have labels first: few validation iterations are to measure them
            self.pairs = sorted((self.pairs[i] for i in order), key=lambda pair: pair not in labelled)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        pair = self._drawn(rng) if self.split == "train" else self.pairs[index % len(self.pairs)]
        fixed, moving = self._case(pair.fixed), self._case(pair.moving)
        sample = self._sample(fixed, moving, self._true_fields(pair, fixed.properties.working.shape))
        if self.augmentation is not None:
            sample = self.augmentation(sample, rng)
        result = {name: value for name in _FIELDS if (value := getattr(sample, name)) is not None}
        if self.with_labels and sample.fixed_labels is not None and sample.moving_labels is not None:
            result["label_subset"] = _draw_labels(sample.fixed_labels, sample.moving_labels, rng, self.maps)
            result["labels_known"] = (result["label_subset"] > 0).any()
        if self.with_points:
            result |= _draw_points(pair, sample, rng)
        return result

    def _labelled(self) -> set[Pair]:
        """Pairs of which both cases have labels."""
        having = {case for pair in self.pairs for case in (pair.fixed, pair.moving) if self.data.has_labels(case)} if self.with_labels else set()
        return {pair for pair in self.pairs if {pair.fixed, pair.moving} <= having}

    def _taught(self, labelled: set[Pair]) -> list[Pair]:
        """The pairs that teach, if they are so few that chance would rarely draw one; none where they are not."""
        found = set(labelled)
        if self.with_points:
            having = {case for case in {side for pair in self.pairs for side in (pair.fixed, pair.moving)} if self.data.properties(case).keypoints is not None}
            found |= {pair for pair in self.pairs if {pair.fixed, pair.moving} <= having}
        if self.with_fields:
            found |= {pair for pair in self.pairs if any(self.data.has_true_field(way) for way in self._ways(pair).values())}
        return [pair for pair in self.pairs if pair in found] if len(found) < TAUGHT_SHARE * len(self.pairs) else []

    def _drawn(self, rng: np.random.Generator) -> Pair:
        """Any pair; where few teach, every other time at least one of these."""
        pairs = self.taught if self.taught and rng.random() < TAUGHT_SHARE else self.pairs
        return pairs[rng.integers(len(pairs))]

    def _ways(self, pair: Pair) -> dict[str, Pair]:
        """Entry of a sample to the pair whose true field it holds."""
        return {name: pair if name == "field" else pair.swapped for name in self.directions}

    def _true_fields(self, pair: Pair, grid: tuple[int, ...]) -> dict[str, Tensor]:
        """What is known; in a training that needs it, NaN for what is not."""
        if self.split == "train" and not self.with_fields:
            return {}
        found = {name: self.data.true_field(way) for name, way in self._ways(pair).items()}
        if self.with_fields:
            unknown = np.full((len(grid), *grid), np.nan, np.float32)
            found = {name: _padded(unknown if field is None else field, self.whole, np.nan) for name, field in found.items()}
        return {name: torch.from_numpy(field).to(self.device) for name, field in found.items() if field is not None}

    def keep_on(self, device: torch.device) -> None:
        """From now on, read every case once and keep it on `device`, where samples are augmented too: the same ones, within interpolation.

        On a GPU images are kept in half precision. Nothing is left for other processes to load.

        Raises
        ------
        ConfigurationError
            If the cases need more than :data:`RESIDENT_SHARE` of the memory that is free there.
        """
        cases = sorted({side for pair in self.pairs for side in (pair.fixed, pair.moving)})
        needed, free = len(cases) * _size(self._read(cases[0]), device), free_memory(device)
        if free is not None and needed > RESIDENT_SHARE * free:
            raise ConfigurationError(
                f"gpu.resident: the {len(cases)} {self.split} cases need {needed / GB:.1f} GB, {device} has {free / GB:.1f} GB free, of which "
                f"{RESIDENT_SHARE:.0%} may be taken. Train without --set gpu.resident=true."
            )
        self.device, self._kept = device, {}

    def _case(self, name: str) -> CaseTensors:
        if self._kept is None:
            return self._read(name)
        if name not in self._kept:
            self._kept[name] = self._read(name).packed(self.device)
        return self._kept[name].unpacked()

    def _read(self, name: str) -> CaseTensors:
        case = self.data.load(name)
        arrays = (None if array is None else _padded(np.asarray(array), self.whole) for array in (case.image, case.labels, case.mask))
        image, labels, mask = (None if array is None else torch.from_numpy(array) for array in arrays)
        return CaseTensors(cast(Tensor, image), labels if self.with_labels else None, mask, case.properties)

    def _sample(self, fixed: CaseTensors, moving: CaseTensors, fields: Mapping[str, Tensor]) -> PairSample:
        images = {"fixed": fixed.image, "moving": moving.image}
        extras: dict[str, Tensor | None] = dict(fields)
        for role, case in (("fixed", fixed), ("moving", moving)):
            labels = case.labels
            if labels is None and self.pad_labels:
                # of a batch some cases may have labels and some none: without any, the overlap is constant
                labels = torch.zeros((1, *case.image.shape[1:]), dtype=torch.int16, device=self.device)
            extras[f"{role}_labels"], extras[f"{role}_mask"] = labels, case.mask
            points = case.properties.keypoints
            extras[f"{role}_keypoints"] = None if points is None else torch.as_tensor(np.asarray(points), dtype=torch.float32)
        return PairSample(**images, fixed_input=images["fixed"], moving_input=images["moving"], **extras)  # type: ignore[arg-type]


def _padded(array: npt.NDArray[Any], grid: tuple[int, ...] | None, value: float = 0) -> npt.NDArray[Any]:
    """(C, *spatial) continued by `value` at the end of its axes until it has the size of `grid`."""
    if grid is None or array.shape[1:] == tuple(grid):
        return array
    return np.pad(array, [(0, 0), *((0, max(0, most - size)) for size, most in zip(array.shape[1:], grid, strict=True))], constant_values=value)


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
    shared = np.intersect1d(_values_above_0(fixed), _values_above_0(moving))
    if shared.size == 0:
        shared = np.array([-1])  # no such label: both one-hot maps are empty, the overlap term is constant
    drawn = rng.permutation(shared)[:count]
    more = rng.choice(shared, count - drawn.size)
    return torch.from_numpy(np.concatenate([drawn, more]).astype(np.int16))


def _values_above_0(labels: Tensor) -> npt.NDArray[np.int16]:
    """Those that occur, ascending; counted where the labels lie, which takes a fraction of the time of sorting them."""
    counts = torch.bincount(labels.reshape(-1).clamp(min=0)).cpu().numpy()
    counts[0] = 0
    return np.flatnonzero(counts).astype(np.int16)
