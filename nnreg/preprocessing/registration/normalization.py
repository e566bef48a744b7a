"""Schemes that turn intensities into numbers around [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import ConfigurationError, PreprocessingError
from nnreg.planning.plans import Normalization
from nnreg.planning.registration.foreground import Foreground
from nnreg.registry import Registry

Scheme = Callable[..., Floats]
NORMALIZATIONS: Registry[Scheme] = Registry("normalization scheme")
"""``scheme(channel, foreground_values, **kwargs)``: the normalised channel, float32."""


def _rescaled(channel: npt.NDArray[np.generic], low: float, high: float, invert: bool) -> Floats:
    """`low` to 0, `high` to 1, clipped; a constant image becomes 0."""
    width = high - low
    result = np.clip((np.asarray(channel, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1) if width > 0 else np.zeros(channel.shape, np.float32)
    return np.asarray(1 - result if invert else result, dtype=np.float32)


@NORMALIZATIONS.register("none")
def _none(channel: npt.NDArray[np.generic], foreground: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(channel, dtype=np.float32)


@NORMALIZATIONS.register("window")
def _window(channel: npt.NDArray[np.generic], foreground: npt.NDArray[np.float64], *, low: float, high: float, invert: bool = False) -> Floats:
    """The same intensities for every image: physical units (CT), or the range of a byte (colour)."""
    return _rescaled(channel, low, high, invert)


@NORMALIZATIONS.register("percentiles")
def _percentiles(
    channel: npt.NDArray[np.generic], foreground: npt.NDArray[np.float64], *, low: float = 0.5, high: float = 99.5, invert: bool = False
) -> Floats:
    """Percentiles of the image's own foreground: arbitrary units (MR, ultrasound)."""
    first, last = np.percentile(foreground, (low, high))
    return _rescaled(channel, float(first), float(last), invert)


@NORMALIZATIONS.register("zscore")
def _zscore(channel: npt.NDArray[np.generic], foreground: npt.NDArray[np.float64]) -> Floats:
    """Mean 0 and standard deviation 1 over the image's own foreground."""
    # what single precision leaves of a constant is none; units may be as small as those of diffusivities in m²/s
    deviation = max(float(foreground.std()), float(np.finfo(np.float32).eps * np.abs(foreground).max())) or 1.0
    return np.asarray((np.asarray(channel, dtype=np.float32) - foreground.mean()) / deviation, dtype=np.float32)


def normalise(array: npt.NDArray[np.generic], foreground: Foreground, schemes: Sequence[Normalization], *, case: str) -> tuple[Floats, tuple[float, ...]]:
    """Normalise an image by its native intensities.

    Parameters
    ----------
    array : array, shape (C, *spatial)
    foreground
        Of `array`.
    schemes
        One per channel.

    Returns
    -------
    normalised : array, shape (C, *spatial), float32
        Padding holds the background, so that it looks like what lies beyond the image.
    background : float per channel
        What the image's background became: the value outside the image.

    Raises
    ------
    PreprocessingError
        If the number of channels is not the planned one.
    ConfigurationError
        If a scheme is unknown or its arguments are.
    """
    if len(array) != len(schemes):
        raise PreprocessingError(f"{case}: the image has {len(array)} channels, the plans are for {len(schemes)}. Give the channels the plans were made with.")
    values = foreground.values(array)
    channels, background = [], []
    for channel, inside, level, scheme in zip(array, values, foreground.background, schemes, strict=True):
        # the level is normalised with its image, so that outside and background are one and the same number
        channels.append(_apply(scheme, channel, inside))
        background.append(float(_apply(scheme, np.asarray([level]), inside)[0]))
    return foreground.filled_out(np.stack(channels), array, background), tuple(background)


def _apply(scheme: Normalization, channel: npt.NDArray[np.generic], inside: npt.NDArray[np.float64]) -> Floats:
    kwargs: dict[str, Any] = scheme.kwargs
    try:
        return NORMALIZATIONS[scheme.scheme](channel, inside, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"normalization {scheme.scheme!r} cannot take the arguments {kwargs}: {error}.") from error
