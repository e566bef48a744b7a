"""Pairs made of label maps: deformed at random, and given images of random contrast (SynthMorph: Hoffmann et al., IEEE TMI 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nnreg.arrays import Floats
from nnreg.dataset.phantom import Velocity, control_points, smooth_noise
from nnreg.dataset.shapes import random_shapes
from nnreg.errors import ConfigurationError
from nnreg.geometry import integrate, resize, resize_field, warp
from nnreg.training.augmentation.intensity import Range, blur_channels
from nnreg.training.augmentation.registration.affine import VoxelAffine
from nnreg.training.augmentation.registration.sample import PairSample

SHAPES = "shapes"
VALUES = 2**15  # an intensity is drawn for every value that a label may have, so that it does not depend on which occur
SQUARINGS = 5
LEAST_SPACING = 2.0  # voxels between control points
SMALLEST_HALVED = 8  # voxels of an axis
TAIL = 0.005  # of the intensities on either side, as the plan's normalisation has it
THINNEST = 8.0  # voxels of an axis per voxel of blur's sigma: the kernel ends inside the image


@dataclass(frozen=True)
class RandomSynthesis:
    """Draws pairs of images from label maps. Every [low, high] is drawn from uniformly, for each image on its own.

    Attributes
    ----------
    maps : ``labels`` of the cases, or ``shapes`` made of noise
    same_map : share of the pairs that are one label map, deformed in two ways; the others are two cases. Shapes are always one.
    control_spacing, displacement : of the flow
        Distance of its control points in sizes of the image, and its longest vector as a share of that distance, so that fine flows are short.
    groups : how many different intensities there are at most; labels of one group look alike, as the parcels of one tissue do
    dark_background : share of the images in which label 0 is black
    deviation : standard deviation of the intensities of a label; its mean lies between 0 and 1
    blur : sigma, voxels
    bias : logarithm of the factor that shading has, one standard deviation
    thickness : of slices along one axis, voxels
    noise : standard deviation, added last
    log_gamma : logarithm of the exponent
    """

    maps: Literal["labels", "shapes"] = "labels"
    same_map: float = 0.5
    control_spacing: Range = (0.12, 0.35)
    displacement: Range = (0.0, 0.35)
    groups: tuple[int, int] = (4, 40)
    dark_background: float = 0.5
    deviation: Range = (0.0, 0.1)
    blur: Range = (0.0, 1.0)
    bias: Range = (0.0, 0.3)
    thickness: Range = (1.0, 4.0)
    noise: Range = (0.0, 0.05)
    log_gamma: Range = (-0.4, 0.4)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("same_map", "dark_background"):
                if not 0 <= value <= 1:
                    raise ConfigurationError(f"augmentation synthesis: {field.name} is {value}, expected 0 to 1.")
            elif field.name != "maps" and not _LEAST.get(field.name, 0.0) <= value[0] <= value[1]:
                least = _LEAST.get(field.name, 0.0)
                raise ConfigurationError(f"augmentation synthesis: {field.name} is {list(value)}, expected [low, high] with {least:g} <= low <= high.")

    def sample(self, rng: np.random.Generator, spacing: Sequence[float]) -> Synthesis:
        """Draw one pair of images."""
        return Synthesis(self, int(rng.integers(2**63)), tuple(spacing))


_LEAST = {"control_spacing": 0.01, "groups": 1, "thickness": 1.0, "log_gamma": -math.inf}


@dataclass(frozen=True)
class Synthesis:
    """What a seed makes of a pair.

    Attributes
    ----------
    settings, seed
    spacing : mm, array axis order
    """

    settings: RandomSynthesis
    seed: int
    spacing: tuple[float, ...]

    def __call__(self, sample: PairSample, fixed_map: VoxelAffine, moving_map: VoxelAffine) -> PairSample:
        """New images with their labels, on which the maps and a random flow each have been done; of `sample` only labels count.

        Raises
        ------
        ConfigurationError
            If labels are needed and not there.
        """
        # what is deformed, what the images look like: streams of their own, so that the settings of one do not change another
        streams = [np.random.default_rng([self.seed, number]) for number in range(5)]
        fixed, moving = self._maps(sample, streams[0])
        fixed, moving = (self._deformed(*parts) for parts in ((fixed, fixed_map, streams[1]), (moving, moving_map, streams[2])))
        channels = len(sample.fixed)
        one, other = (self._image(labels, channels, rng) for labels, rng in ((fixed, streams[3]), (moving, streams[4])))
        return PairSample(one, other, one, other, fixed_labels=fixed, moving_labels=moving)

    def _maps(self, sample: PairSample, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if self.settings.maps == SHAPES:
            shapes = torch.from_numpy(random_shapes(rng, sample.shape)).to(sample.fixed.device)
            return shapes, shapes
        if sample.fixed_labels is None or sample.moving_labels is None:
            raise ConfigurationError("augmentation synthesis makes images of labels, but a sample has none. Add a loss of labels to training.supervision.")
        return sample.fixed_labels, sample.fixed_labels if rng.random() < self.settings.same_map else sample.moving_labels

    def _deformed(self, labels: Tensor, affine: VoxelAffine, rng: np.random.Generator) -> Tensor:
        flow = self._flow(affine.shape, rng).to(labels.device)
        # one resampling for both: a label map loses a little in each
        total = affine.field(flow, VoxelAffine.identity(affine.shape))
        return warp(labels[None], total[None], mode="nearest")[0]

    def _flow(self, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
        """A random displacement field (ndim, *shape), voxels; integrated on every other voxel, which is fine enough for its control points."""
        coarse = [(size + 1) // 2 if size >= SMALLEST_HALVED else size for size in shape]
        share, length = rng.uniform(*self.settings.control_spacing), rng.uniform(*self.settings.displacement)
        steps = tuple(max(LEAST_SPACING, share * size) for size in coarse)
        spacing = [width * (full - 1) / max(size - 1, 1) for width, full, size in zip(self.spacing, shape, coarse, strict=True)]
        longest = length * min(step * width for step, width in zip(steps, spacing, strict=True))  # mm
        velocity = Velocity(rng.normal(size=(len(shape), *control_points(coarse, steps))), steps, longest).field(coarse)
        voxels = velocity / np.asarray(spacing, np.float32).reshape(-1, *(1,) * len(shape))
        return resize_field(integrate(torch.from_numpy(voxels)[None], SQUARINGS), shape)[0]

    def _image(self, labels: Tensor, channels: int, rng: np.random.Generator) -> Tensor:
        return torch.cat([self._channel(labels, rng) for _ in range(channels)])

    def _channel(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        settings, noise = self.settings, torch.Generator().manual_seed(int(rng.integers(2**63)))
        means, deviations = (torch.from_numpy(table).to(labels.device) for table in self._intensities(rng))
        values = labels.long().clamp(min=0)
        image = means[values] + deviations[values] * _normal(labels, noise)
        image = _blurred(image, [rng.uniform(*settings.blur)] * (labels.ndim - 1))
        image = image * self._shading(labels, rng)
        image = _in_slices(image, int(rng.integers(labels.ndim - 1)), rng.uniform(*settings.thickness))
        image = _unit(image + rng.uniform(*settings.noise) * _normal(labels, noise))
        return image ** math.exp(rng.uniform(*settings.log_gamma))

    def _intensities(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Mean and standard deviation of every label."""
        settings = self.settings
        group = rng.integers(rng.integers(settings.groups[0], settings.groups[1] + 1), size=VALUES)
        tables = rng.uniform(size=settings.groups[1]), rng.uniform(*settings.deviation, size=settings.groups[1])
        means, deviations = (table[group].astype(np.float32) for table in tables)
        if rng.random() < settings.dark_background:
            means[0] = deviations[0] = 0
        return means, deviations

    def _shading(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        shape = labels.shape[1:]
        noise = smooth_noise(rng, 1, shape, [max(LEAST_SPACING, size / 2) for size in shape])
        return torch.from_numpy(np.exp(np.float32(rng.uniform(*self.settings.bias)) * noise)).to(labels.device)


def _normal(labels: Tensor, generator: torch.Generator) -> Tensor:
    # drawn on the CPU: a GPU's generator gives other numbers
    return torch.randn(labels.shape, generator=generator).to(labels.device, non_blocking=True)


def _blurred(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    fitting = [max(min(sigma, size / THINNEST), 1e-3) for sigma, size in zip(sigmas, image.shape[1:], strict=True)]
    blur_channels(image, torch.ones(len(image), dtype=torch.bool), [fitting] * len(image))
    return image


def _in_slices(image: Tensor, axis: int, thickness: float) -> Tensor:
    """As if it had been taken in slices so many voxels thick along an axis."""
    shape = list(image.shape[1:])
    fewer = [max(2, round(size / thickness)) if place == axis and size > 2 else size for place, size in enumerate(shape)]
    if fewer == shape:
        return image
    thick = _blurred(image, [thickness / 2 if place == axis else 0.0 for place in range(len(shape))])
    return resize(resize(thick[None], fewer), shape)[0]


def _unit(image: Tensor) -> Tensor:
    """Its tails cut off, from 0 to 1; a constant image becomes 0."""
    values = image.flatten()
    cut = int(TAIL * (len(values) - 1))
    low, high = values.kthvalue(cut + 1).values, values.kthvalue(len(values) - cut).values
    return ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
