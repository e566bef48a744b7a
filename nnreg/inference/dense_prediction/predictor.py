"""A trained model of dense prediction: networks of one or several folds, and what they make of a preprocessed image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import WHOLE, names_of_labels, outputs_of, previous_channels, stem_of_target
from nnreg.errors import PredictionError, did_you_mean
from nnreg.imageio.endings import ending_for, ending_of
from nnreg.inference.dense_prediction.sliding_window import OnTile, SlidingWindow, roomy
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.preprocessing.dense_prediction.restore import restore_labels, restore_maps, restore_probabilities
from nnreg.preprocessing.dense_prediction.storage import DenseProperties
from nnreg.training.runtime_utils.runtime import prediction_precision


@dataclass(frozen=True)
class TileOptions:
    """How tiles are laid.

    Attributes
    ----------
    step_size
        Distance of neighbouring tiles, as a share of the patch.
    mirror
        Average over mirrored tiles too, along the axes that training mirrored.
    """

    step_size: float = 0.5
    mirror: bool = True


DEFAULT_TILES = TileOptions()


class DensePredictor:
    """Logits and label maps from networks.

    Parameters
    ----------
    plans, configuration
        What the networks were trained with; the configuration as training resolved it.
    spec
        dataset.json of the model.
    networks
        One per fold; their logits are averaged.
    device
        Where they run.
    tiles
        How they are laid.
    """

    def __init__(
        self,
        *,
        plans: DensePlans,
        configuration: DenseConfiguration,
        spec: DatasetSpec,
        networks: Sequence[nn.Module | Callable[[Tensor], Any]],
        device: torch.device,
        tiles: TileOptions = DEFAULT_TILES,
    ) -> None:
        self.plans, self.configuration, self.spec = plans, configuration, spec
        self.targets = outputs_of(spec)
        """What the outputs mean, by target; several lie one behind another."""
        mirrored = configuration.training.augmentation.get("pose", {}).get("mirror_axes", ())
        self.window = SlidingWindow(
            [_AllTargets(network, tuple(self.targets)) for network in networks] if self.several else networks,
            tuple(configuration.patch_size),
            device,
            step_size=tiles.step_size,
            mirror_axes=tuple(mirrored) if tiles.mirror else (),
            precision=prediction_precision(device, configuration.training.mixed_precision),
            multiple=tuple(math.prod(steps) for steps in zip(*configuration.architecture.strides, strict=True)),
        )

    @property
    def several(self) -> bool:
        """Whether there is more than one target."""
        return len(self.targets) > 1

    def stems(self, case: str) -> dict[str, str]:
        """By target, what the files of a case are called without their endings."""
        return {target: stem_of_target(case, target, self.several) for target in self.targets}

    def label_names(self, target: str = WHOLE) -> list[tuple[int, str]]:
        """Values of a target's label maps and what dataset.json calls them."""
        return [(value, name) for name, value in names_of_labels(self.spec, target).items() if isinstance(value, int)]

    @property
    def previous_labels(self) -> tuple[tuple[int, ...], ...]:
        """Per target, label values that an earlier stage gives as channels of the input; none but in a cascade."""
        return previous_channels(self.spec) if self.configuration.previous_stage else ()

    def logits(self, image: npt.NDArray[np.float32], previous: npt.NDArray[np.integer] | None = None, on_tile: OnTile = lambda done, total: None) -> Tensor:
        """Logits (K, D, H, W) of a preprocessed image (C, D, H, W), in a cascade with the labels (T, D, H, W) of the stage before.

        Raises
        ------
        PredictionError
            If the network gives another number of logits than the labels need, or the earlier stage is missing.
        """
        if self.configuration.previous_stage:
            if previous is None:
                raise PredictionError(
                    f"this configuration needs predictions of {self.configuration.previous_stage}: name their folder (-prev_stage_predictions)."
                )
            image = with_previous(image, previous, self.previous_labels)
        logits = self.window(image, on_tile)
        heads = sum(labels.heads for labels in self.targets.values())
        if logits.shape[0] != heads:
            raise PredictionError(f"the network gives {logits.shape[0]} logits per voxel, the labels of dataset.json need {heads}.")
        return logits

    def of_target(self, logits: Tensor, target: str) -> Tensor:
        """Those of all logits (K, D, H, W) that are of one target."""
        if target not in self.targets:
            raise PredictionError(f"target {target!r} is unknown; {did_you_mean(target, self.targets)}")
        return logits[self.places[target]]

    @property
    def places(self) -> dict[str, slice]:
        """Which of all logits are those of each target."""
        ends = list(itertools.accumulate(output.heads for output in self.targets.values()))
        return {name: slice(end - output.heads, end) for (name, output), end in zip(self.targets.items(), ends, strict=True)}

    def label_map(self, logits: Tensor, properties: DenseProperties, target: str | None = None) -> npt.NDArray[np.integer]:
        """Labels (of the first target unless named) on the native grid, class by class in bounded memory."""
        target = next(iter(self.targets)) if target is None else target
        return restore_labels(self.of_target(logits, target), properties, self.plans, self.configuration, self.labels_of(target))

    def value_map(self, logits: Tensor, properties: DenseProperties, target: str) -> npt.NDArray[np.float32]:
        """Values (channels, *native) of a continuous target, in the units of its training files."""
        return restore_maps(self.of_target(logits, target), properties, self.plans, self.configuration, self.plans.targets[target])

    def has_labels(self, target: str) -> bool:
        """Whether a target is one of labels, not of values."""
        return isinstance(self.targets[target], LabelManager)

    def dtype(self, target: str) -> str:
        """Of the files of a continuous target: ``uint8`` or ``uint16`` if those of the training are, else ``float32``."""
        kinds = {values.dtype for values in self.plans.targets[target]}
        return kinds.pop() if len(kinds) == 1 else "float32"

    def dtype_in(self, path: Path, target: str) -> str:
        """Of a continuous target in the file `path`: whole numbers only where its format holds no others."""
        return "float32" if ending_for(ending_of(path), "float32") == ending_of(path) else self.dtype(target)

    def labels_of(self, target: str) -> LabelManager:
        """What the outputs of a target of labels mean.

        Raises
        ------
        PredictionError
            If it is continuous.
        """
        labels = self.targets[target]
        if not isinstance(labels, LabelManager):
            raise PredictionError(f"the target {target!r} has values, no labels or probabilities.")
        return labels

    def probabilities(self, logits: Tensor, properties: DenseProperties, target: str | None = None) -> npt.NDArray[np.floating]:
        """Probabilities (K, *native) of a target (the first unless named); in a temporary file, in half precision, where they are large."""
        target = next(iter(self.targets)) if target is None else target
        labels = self.labels_of(target)
        out = roomy((labels.heads, *properties.native.shape), self.window.largest_in_memory).numpy()
        return restore_probabilities(self.of_target(logits, target), properties, self.plans, self.configuration, labels, out=out)


def with_previous(image: npt.NDArray[np.float32], previous: npt.NDArray[np.integer], labels: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """An image (C, *spatial) and, as further channels, where each of the `labels` of every target was found in `previous` (T, *spatial)."""
    return np.concatenate([image, *((found[None] == value).astype(np.float32) for found, values in zip(previous, labels, strict=True) for value in values)])


@dataclass(frozen=True)
class _AllTargets:
    """The finest logits of all targets of a network, one behind another."""

    network: Any
    targets: tuple[str, ...]

    def __call__(self, tiles: Tensor) -> Tensor:
        first, others = self.network.with_auxiliary(tiles)
        return torch.cat([first[0], *(others[name][0] for name in self.targets[1:])], dim=1)
