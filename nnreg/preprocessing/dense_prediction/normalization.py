"""nnU-Net's normalisation of intensities, one scheme per channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats, Mask
from nnreg.errors import ConfigurationError, PreprocessingError
from nnreg.padding import Box, slices, tight_box
from nnreg.planning.plans import Normalization
from nnreg.registry import Registry

Scheme = Callable[..., None]
SCHEMES: Registry[Scheme] = Registry("normalization scheme of dense prediction")
"""``scheme(channel, inside, **kwargs)``: normalises the float32 channel in place; `inside` is the nonzero region. Padding was cut off before."""

MEASURED = ("zscore", "rescale_to_0_1")  # what takes statistics of the image

SMALLEST = 1e-8  # standard deviation or range below which an image counts as constant
PART = 2**20  # values that are squared at once


@SCHEMES.register("none")
def _none(channel: Floats, inside: Mask) -> None:
    """Intensities as they are."""


@SCHEMES.register("zscore")
def _zscore(channel: Floats, inside: Mask, *, use_mask: bool = False) -> None:
    """Mean 0 and standard deviation 1, of the whole image or of its nonzero region; outside of that, values stay."""
    if not use_mask:
        mean, std = _moments(channel)
        channel -= np.float32(mean)
        channel /= np.float32(max(std, SMALLEST))
    elif inside.any():
        values = channel[inside]
        mean, std = _moments(values)
        channel[inside] = (values - np.float32(mean)) / np.float32(max(std, SMALLEST))


@SCHEMES.register("ct")
def _ct(channel: Floats, inside: Mask, *, low: float, high: float, mean: float, std: float) -> None:
    """Clipped to the window of the dataset's foreground, then its mean and standard deviation to 0 and 1."""
    np.clip(channel, np.float32(low), np.float32(high), out=channel)
    channel -= np.float32(mean)
    channel /= np.float32(max(std, SMALLEST))


@SCHEMES.register("rescale_to_0_1")
def _rescale(channel: Floats, inside: Mask) -> None:
    """Smallest value to 0, largest to 1."""
    channel -= channel.min()
    channel /= max(channel.max(), np.float32(SMALLEST))


@SCHEMES.register("rgb_to_0_1")
def _rgb(channel: Floats, inside: Mask) -> None:
    """A byte to [0, 1]."""
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise PreprocessingError(f"values from {low:g} to {high:g} are no bytes (0 to 255), as rgb_to_0_1 needs. Rename the channel in dataset.json.")
    channel /= np.float32(255)


def _moments(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation in double precision, without a copy in it."""
    mean = float(values.mean(dtype=np.float64))
    total = 0.0
    flat = values.reshape(-1)
    for start in range(0, flat.size, PART):
        total += float(np.square(flat[start : start + PART] - np.float32(mean)).sum(dtype=np.float64))
    return mean, float(np.sqrt(total / flat.size))


def normalise(image: npt.NDArray[Any], inside: Mask, schemes: Sequence[Normalization], *, case: str) -> Floats:
    """A normalised float32 copy of (C, D, H, W).

    Constant planes around what the image shows have no part in statistics, and are clipped to its range.

    Raises
    ------
    PreprocessingError
        If the number of channels is not the planned one, or a scheme cannot work on a channel.
    ConfigurationError
        If a scheme is unknown or its arguments are.
    """
    if len(image) != len(schemes):
        raise PreprocessingError(f"{case}: the image has {len(image)} channels, the plans are for {len(schemes)}. Give the channels the plans were made with.")
    result = np.array(image, dtype=np.float32, order="C")
    whole: Box = tuple((0, size) for size in image.shape[1:])
    shown = tight_box(lambda box: image[slices(box)], whole) if any(scheme.scheme in MEASURED for scheme in schemes) else whole
    for index, (channel, scheme) in enumerate(zip(result, schemes, strict=True)):
        try:
            if shown == whole or scheme.scheme not in MEASURED:
                SCHEMES[scheme.scheme](channel, inside, **scheme.kwargs)
            else:
                _without_padding(scheme, channel, inside, slices(shown)[1:])
        except TypeError as error:
            raise ConfigurationError(f"normalization {scheme.scheme!r} cannot take the arguments {scheme.kwargs}: {error}.") from error
        except PreprocessingError as error:
            raise PreprocessingError(f"{case}, channel {index}: {error}") from error
    return result


def _without_padding(scheme: Normalization, channel: Floats, inside: Mask, shown: tuple[slice, ...]) -> None:
    """Normalise a channel in place by the statistics of a part of it."""
    masked = bool(scheme.kwargs.get("use_mask", False))
    values = channel[shown][inside[shown]] if masked else channel[shown]
    if not values.size:
        return
    where = inside if masked else np.ones_like(inside)
    low, high = float(values.min()), float(values.max())
    subtract, divide = _moments(values) if scheme.scheme == "zscore" else (low, high - low)
    channel[where] = (np.clip(channel[where], low, high) - np.float32(subtract)) / np.float32(max(divide, SMALLEST))
