"""Augmentation of a pair: what the two images share, what the moving one gets on top, and what each sees of contrast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnreg.errors import ConfigurationError
from nnreg.registry import Registry
from nnreg.training.augmentation.intensity import IntensityChange, RandomIntensity
from nnreg.training.augmentation.registration.affine import VoxelAffine
from nnreg.training.augmentation.registration.sample import PairSample
from nnreg.training.augmentation.registration.spatial import RandomAffine
from nnreg.training.augmentation.registration.synthesis import RandomSynthesis, Synthesis
from nnreg.typed import from_mapping

AUGMENTATIONS: Registry[type[RandomAffine] | type[RandomIntensity] | type[RandomSynthesis]] = Registry("augmentation")
AUGMENTATIONS["spatial"] = RandomAffine
AUGMENTATIONS["relative_affine"] = RandomAffine
AUGMENTATIONS["intensity"] = RandomIntensity
AUGMENTATIONS["synthesis"] = RandomSynthesis


@dataclass(frozen=True, eq=False)
class PairDraw:
    """What was drawn for one pair; call it on a sample to apply it, as often as wanted.

    Attributes
    ----------
    fixed_map, moving_map : VoxelAffine
        What happens to each image, its labels, mask and keypoints, and between them to their true field.
    fixed_intensity, moving_intensity : IntensityChange, optional
        What the network's inputs look like afterwards.
    synthesis : Synthesis, optional
        Makes new images of the labels, which then are all that the sample holds.
    """

    fixed_map: VoxelAffine
    moving_map: VoxelAffine
    fixed_intensity: IntensityChange | None = None
    moving_intensity: IntensityChange | None = None
    synthesis: Synthesis | None = None

    def __call__(self, sample: PairSample) -> PairSample:
        """The augmented sample; `sample` stays as it is."""
        if self.synthesis is not None:
            return self._with_intensities(self.synthesis(sample, self.fixed_map, self.moving_map))
        fixed, moving = self._images(sample.fixed, sample.moving)
        unchanged = sample.fixed_input is sample.fixed and sample.moving_input is sample.moving
        inputs = (fixed, moving) if unchanged else self._images(sample.fixed_input, sample.moving_input)
        fixed_labels, moving_labels = self._labels(sample.fixed_labels, sample.moving_labels)
        fixed_mask, moving_mask = self._labels(sample.fixed_mask, sample.moving_mask)
        mapped = PairSample(
            fixed=fixed,
            moving=moving,
            fixed_input=inputs[0],
            moving_input=inputs[1],
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            fixed_keypoints=None if sample.fixed_keypoints is None else self.fixed_map.points(sample.fixed_keypoints),
            moving_keypoints=None if sample.moving_keypoints is None else self.moving_map.points(sample.moving_keypoints),
            field=None if sample.field is None else self.field(sample.field),
            inverse_field=None if sample.inverse_field is None else self.moving_map.field(sample.inverse_field, self.fixed_map),
        )
        return self._with_intensities(mapped)

    def _with_intensities(self, sample: PairSample) -> PairSample:
        fixed, moving = self.fixed_intensity, self.moving_intensity
        return dataclasses.replace(
            sample,
            fixed_input=fixed.image(sample.fixed_input) if fixed else sample.fixed_input,
            moving_input=moving.image(sample.moving_input) if moving else sample.moving_input,
        )

    def _images(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        if not self._one_pass(fixed, moving):
            return self.fixed_map.image(fixed), self.moving_map.image(moving)
        both = self.fixed_map.image(torch.cat([fixed, moving]))
        return both[: len(fixed)], both[len(fixed) :]

    def _labels(self, fixed: Tensor | None, moving: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if fixed is None or moving is None or not self._one_pass(fixed, moving):
            return None if fixed is None else self.fixed_map.labels(fixed), None if moving is None else self.moving_map.labels(moving)
        both = self.fixed_map.labels(torch.cat([fixed, moving]))
        return both[: len(fixed)], both[len(fixed) :]

    def _one_pass(self, fixed: Tensor, moving: Tensor) -> bool:
        """Whether both are resampled by one map: then positions are computed once for the two."""
        return self.moving_map is self.fixed_map and self.fixed_map.mirrored_axes is None and fixed.dtype == moving.dtype

    def field(self, field: Tensor) -> Tensor:
        """The field (ndim, *shape), voxels, between the augmented images, given the one between the original images."""
        return self.fixed_map.field(field, self.moving_map)


@dataclass(frozen=True)
class PairAugmentation:
    """Draws and applies. Built by :func:`build_augmentation`.

    Attributes
    ----------
    spatial
        One map for both images: the pair stays as far apart as it was, in another pose.
    relative_affine
        A further small map of the moving image alone: teaches the network a larger capture range.
    intensity
        Drawn for each image on its own, for the network's inputs only: the loss compares unchanged intensities.
    synthesis
        Images of random contrast in place of those that there are.
    spacing : mm, array axis order
    """

    spacing: tuple[float, ...]
    spatial: RandomAffine | None = None
    relative_affine: RandomAffine | None = None
    intensity: RandomIntensity | None = None
    synthesis: RandomSynthesis | None = None

    def draw(self, shape: Sequence[int], rng: np.random.Generator) -> PairDraw:
        """Draw for a grid of `shape`."""
        # every part has its own stream, so that one part's settings do not change the draws of another
        streams = [np.random.default_rng(seed) for seed in rng.integers(2**63, size=4)]
        shared = self.spatial.sample(streams[0], shape, self.spacing) if self.spatial else VoxelAffine.identity(shape)
        moving = self.relative_affine.sample(streams[1], shape, self.spacing).after(shared) if self.relative_affine else shared
        fixed_intensity, moving_intensity = (self.intensity.sample(stream) if self.intensity else None for stream in streams[2:])
        # drawn last: without it, what follows a sample's augmentation stays as it was
        synthesis = self.synthesis.sample(rng, self.spacing) if self.synthesis else None
        return PairDraw(shared, moving, fixed_intensity, moving_intensity, synthesis)

    def __call__(self, sample: PairSample, rng: np.random.Generator) -> PairSample:
        """An augmented copy of the sample; the same for the same state of `rng`."""
        return self.draw(sample.shape, rng)(sample)


def build_augmentation(config: Mapping[str, Mapping[str, Any]], ndim: int, spacing: Sequence[float] | None = None) -> PairAugmentation:
    """The augmentation that a plans file describes.

    Parameters
    ----------
    config
        ``spatial``, ``relative_affine``, ``intensity``, ``synthesis`` to their arguments (see :class:`RandomAffine`, :class:`RandomIntensity`,
        :class:`RandomSynthesis`); what is not named does not happen.
    ndim
        2 or 3.
    spacing
        Of the working grid, mm, array axis order; isotropic if absent.

    Raises
    ------
    ConfigurationError
        Unknown name or argument (with the nearest valid one), value of the wrong type or out of range.
    """
    parts: dict[str, Any] = {
        name: from_mapping(AUGMENTATIONS[name], arguments, where=f"augmentation {name}", error=ConfigurationError) for name, arguments in config.items()
    }
    for name, part in parts.items():
        axes = getattr(part, "mirror_axes", ())
        if any(not 0 <= axis < ndim for axis in axes) or (axes and name == "relative_affine"):
            allowed = "none: the two images would no longer fit" if name == "relative_affine" else f"axes 0 to {ndim - 1}"
            raise ConfigurationError(f"augmentation {name}: mirror_axes is {list(axes)}, expected {allowed}.")
    if spacing is not None and len(spacing) != ndim:
        raise ConfigurationError(f"augmentation: {ndim} axes need {ndim} spacings, found {list(spacing)}.")
    return PairAugmentation(tuple(map(float, spacing)) if spacing is not None else (1.0,) * ndim, **parts)
