"""Normalisation of images that are read by parts: statistics in one pass, then any block by itself, with the numbers of :mod:`normalise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import ConfigurationError, PreprocessingError
from nnreg.imageio.lazy import Box, Volume
from nnreg.padding import tight_box
from nnreg.planning.plans import Normalization
from nnreg.preprocessing.dense_prediction.normalization import MEASURED, SCHEMES, SMALLEST

FIXED = ("none", "ct")  # what needs no statistics of the image


@dataclass
class Moments:
    """Count, mean, squared deviations and range of values that come in parts (Chan's update, in double precision)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take in further values."""
        if not values.size:
            return
        mean = squares = 0.0
        if values.any():  # most of a sparse image is not worth the arithmetic
            mean = float(values.mean(dtype=np.float64))
            squares = float(np.square(values - np.float32(mean)).sum(dtype=np.float64))
        total, between = self.count + values.size, mean - self.mean
        self.squares += squares + between**2 * self.count * values.size / total
        self.mean += between * values.size / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def std(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self.squares / max(1, self.count)))

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest value, to which padding is clipped; None if there was none."""
        return (self.low, self.high) if self.count else None


@dataclass(frozen=True)
class Step:
    """What is done to each value of a channel: clip, subtract, divide; outside the nonzero region nothing if `masked`."""

    subtract: float = 0.0
    divide: float = 1.0
    clip: tuple[float, float] | None = None
    masked: bool = False

    def __call__(self, channel: Floats, inside: npt.NDArray[np.bool_]) -> None:
        """In place; `inside` is the nonzero region."""
        where: Any = inside if self.masked else True
        if self.clip is not None:
            np.clip(channel, np.float32(self.clip[0]), np.float32(self.clip[1]), out=channel, where=where)
        np.subtract(channel, np.float32(self.subtract), out=channel, where=where)
        np.divide(channel, np.float32(self.divide), out=channel, where=where)


@dataclass(frozen=True)
class Normaliser:
    """One step per channel."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, volume: Volume, box: Box, schemes: Sequence[Normalization], case: str) -> Normaliser:
        """Measure what the planned schemes need of the voxels in `box`.

        Raises
        ------
        PreprocessingError
            If the number of channels is not the planned one, or a scheme cannot work on a channel.
        ConfigurationError
            If a scheme is none of nnReg's own, which alone work by parts.
        """
        if volume.shape[0] != len(schemes):
            raise PreprocessingError(
                f"{case}: the image has {volume.shape[0]} channels, the plans are for {len(schemes)}. Give the channels the plans were made with."
            )
        found = [Moments() for _ in schemes]
        if any(scheme.scheme not in FIXED for scheme in schemes):
            # padding has no part in statistics
            shown = tight_box(volume.read, box) if any(scheme.scheme in MEASURED for scheme in schemes) else box
            for part in volume.boxes(shown):
                block = volume.read(part)
                inside = (block != 0).any(axis=0)
                for channel, scheme, moments in zip(block, schemes, found, strict=True):
                    moments.add(channel[inside] if scheme.kwargs.get("use_mask") else channel)
        return cls(tuple(_step(scheme, moments, f"{case}, channel {index}") for index, (scheme, moments) in enumerate(zip(schemes, found, strict=True))))

    def __call__(self, block: npt.NDArray[Any]) -> Floats:
        """A normalised float32 copy of (C, D, H, W)."""
        inside = (block != 0).any(axis=0)
        result = np.array(block, dtype=np.float32, order="C")
        for channel, step in zip(result, self.steps, strict=True):
            step(channel, inside)
        return result


def _step(scheme: Normalization, moments: Moments, where: str) -> Step:
    given = scheme.kwargs
    if scheme.scheme == "none":
        return Step()
    if scheme.scheme == "ct":
        return Step(given["mean"], max(given["std"], SMALLEST), (given["low"], given["high"]))
    if scheme.scheme == "zscore":
        return Step(moments.mean, max(moments.std, SMALLEST), moments.range, masked=bool(given.get("use_mask", False)))
    if scheme.scheme == "rescale_to_0_1":
        return Step(moments.low, max(moments.high - moments.low, SMALLEST), moments.range)
    if scheme.scheme == "rgb_to_0_1":
        if moments.low < 0 or moments.high > 255:
            raise PreprocessingError(
                f"{where}: values from {moments.low:g} to {moments.high:g} are no bytes (0 to 255), as rgb_to_0_1 needs. Rename the channel in dataset.json."
            )
        return Step(0.0, 255.0)
    SCHEMES[scheme.scheme]  # an unknown name is said with the nearest valid one
    raise ConfigurationError(
        f"{where}: normalization {scheme.scheme!r} needs the whole image, which is too large. Raise nnReg_whole_voxels or plan another one."
    )
