"""Changes of contrast, noise and sharpness, drawn for each image on its own, with batchgeneratorsv2."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad

from nnreg.errors import ConfigurationError
from nnreg.training.augmentation import on_device
from nnreg.training.augmentation.seeding import global_seed

Range = tuple[float, float]
BLUR_ENDS = 6  # widths at which the library's Gaussian ends


@dataclass(frozen=True)
class RandomIntensity:
    """Draws intensity changes with nnU-Net's transforms, in its order, with its probabilities and ranges.

    Attributes
    ----------
    probability
        That an image is changed at all; then every transform has its own.
    noise, blur, brightness, contrast, low_resolution, inverted_gamma, gamma : (low, high)
        Noise: standard deviation as a share of the image's own. Blur: sigma in voxels. Brightness, contrast: factors.
        Low resolution: zoom. Gamma: exponent, on the inverted image first.
    """

    probability: float = 1.0
    noise: Range = (0.0, 0.1)
    noise_probability: float = 0.1
    blur: Range = (0.5, 1.0)
    blur_probability: float = 0.2
    brightness: Range = (0.75, 1.25)
    brightness_probability: float = 0.15
    contrast: Range = (0.75, 1.25)
    contrast_probability: float = 0.15
    low_resolution: Range = (0.5, 1.0)
    low_resolution_probability: float = 0.25
    inverted_gamma: Range = (0.7, 1.5)
    inverted_gamma_probability: float = 0.1
    gamma: Range = (0.7, 1.5)
    gamma_probability: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("probability"):
                if not 0 <= value <= 1:
                    raise ConfigurationError(f"augmentation: {field.name} is {value}, expected 0 to 1.")
            elif not 0 <= value[0] <= value[1]:
                raise ConfigurationError(f"augmentation: {field.name} is {list(value)}, expected [low, high] with 0 <= low <= high.")

    def sample(self, rng: np.random.Generator) -> IntensityChange:
        """Draw one change."""
        happens, seed = rng.random() < self.probability, int(rng.integers(2**32))
        return IntensityChange(self, seed if happens else None)


@dataclass(frozen=True)
class IntensityChange:
    """The change that a seed stands for; None changes nothing.

    The library draws its parameters from the image's shape and its noise while it is applied, both from global generators: the seed
    is the one complete description of a draw.
    """

    settings: RandomIntensity
    seed: int | None

    def image(self, image: Tensor) -> Tensor:
        """The changed image (C, *spatial), a new tensor; `image` itself without a seed."""
        if self.seed is None:
            return image
        if not on_device.is_compiled(image):
            return changed_on_device(self.settings, self.seed, image)
        with global_seed(self.seed):
            changed: Tensor = _pipeline(self.settings)(image=image.clone())["image"]
        return changed


@dataclass(frozen=True)
class ShareOfDeviation:
    """Draws a noise level relative to the image's own standard deviation: for a z-scored image that is nnU-Net's level."""

    low: float
    high: float

    def __call__(self, image: Tensor, *_: Any, **__: Any) -> float:
        """The level for this image."""
        return self.share() * float(image.std())

    def share(self) -> float:
        """The share of the deviation, drawn."""
        return float(np.random.uniform(self.low, self.high))  # noqa: NPY002  inside global_seed


def changed_on_device(settings: RandomIntensity, seed: int, image: Tensor) -> Tensor:
    """What :class:`IntensityChange` makes of an image (C, *spatial) that lies on a GPU, from the same draws; nothing is read back.

    The library draws from the generators of the image's device, and those of a GPU give other numbers. So parameters are drawn for a stand-in of the image's
    shape on the CPU, the library changes the image, and what it would mix with tensors of the CPU, noise and blur, is done here.
    """
    changed, stand_in = image.clone(), torch.empty(()).expand(image.shape)
    noise, blur, *others = _pipeline(settings).transforms
    with global_seed(seed):
        if noise.get_parameters()["apply_transform"]:
            torch.rand(len(image))  # the library draws which channels are changed: here all
            deviation = image.std() * noise.transform.noise_variance.share()
            drawn = torch.empty(tuple(image.shape), dtype=image.dtype).normal_()
            changed += drawn.to(image.device, non_blocking=True) * deviation
        if blur.get_parameters()["apply_transform"]:
            blur_channels(changed, **blur.transform.get_parameters(image=stand_in))
        for random in others:
            if random.get_parameters()["apply_transform"]:
                changed = random.transform.apply({"image": changed}, **random.transform.get_parameters(image=stand_in))["image"]
    return changed


def blur_channels(image: Tensor, apply_to_channel: Tensor, sigmas: Sequence[Sequence[float]]) -> None:
    """Blur channels of an image (C, *spatial) in place, axis by axis, with the library's kernels and borders; a sigma, in voxels, per channel and axis."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import _build_kernel

    convolve = (conv2d, conv3d)[image.ndim - 3]
    for channel, widths in zip(np.flatnonzero(apply_to_channel.numpy()).tolist(), sigmas, strict=True):
        blurred = image[channel][None, None]
        for axis, sigma in enumerate(widths):
            weights = _build_kernel(sigma, truncate=BLUR_ENDS).to(image.device, non_blocking=True)
            shape = [len(weights) if axis == other else 1 for other in range(image.ndim - 1)]
            sides = [side for other in reversed(range(image.ndim - 1)) for side in ([len(weights) // 2] * 2 if axis == other else [0, 0])]
            blurred = convolve(pad(blurred, sides, mode="reflect"), weights.reshape(1, 1, *shape))
        image[channel] = blurred[0, 0]


@functools.lru_cache(maxsize=4)
def _pipeline(settings: RandomIntensity) -> Any:
    """The library's transforms; imported here because that takes seconds."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    steps = (
        (GaussianNoiseTransform(ShareOfDeviation(*settings.noise), synchronize_channels=True), settings.noise_probability),
        (GaussianBlurTransform(settings.blur, synchronize_channels=False, synchronize_axes=False, p_per_channel=0.5), settings.blur_probability),
        (MultiplicativeBrightnessTransform(BGContrast(settings.brightness), synchronize_channels=False), settings.brightness_probability),
        (ContrastTransform(BGContrast(settings.contrast), preserve_range=True, synchronize_channels=False), settings.contrast_probability),
        (
            SimulateLowResolutionTransform(settings.low_resolution, synchronize_channels=False, synchronize_axes=True, ignore_axes=None, p_per_channel=0.5),
            settings.low_resolution_probability,
        ),
        (
            GammaTransform(settings.inverted_gamma, p_invert_image=1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1),
            settings.inverted_gamma_probability,
        ),
        (GammaTransform(settings.gamma, p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1), settings.gamma_probability),
    )
    return ComposeTransforms([RandomTransform(transform, probability) for transform, probability in steps])
