"""Predicted values against the truth: MAE, RMSE, PSNR and SSIM of every channel, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.dataset.continuous import check_channels, finite_or_unknown, read_map
from nnreg.imageio import Image, LazyImage, open_image
from nnreg.imageio.files import is_large
from nnreg.imageio.image import check_same_space
from nnreg.imageio.lazy import Box, boxes
from nnreg.metrics.similarity import SSIM_REACH, decibels, ssim_axes, ssim_map

BLOCK_VOXELS = 2**21  # of each, in double precision, with what their similarity needs


def value_key(channel: int, channels: int) -> str:
    """What a channel of a continuous target is called in a summary.

    Examples
    --------
    >>> value_key(0, 1), value_key(1, 2)
    ('value', 'channel 1')
    """
    return "value" if channels == 1 else f"channel {channel}"


def evaluate_values(*, reference: Image, prediction: Image) -> dict[str, dict[str, float]]:
    """Measure predicted values on one grid: by channel ``MAE``, ``RMSE``, ``PSNR`` and ``SSIM``, the last two relative to the range of the reference."""
    figures: dict[str, Callable[..., float]] = {"MAE": metrics.mae, "RMSE": metrics.rmse, "PSNR": metrics.psnr, "SSIM": metrics.ssim}
    result = {}
    for channel, (truth, found) in enumerate(zip(reference.array, prediction.array, strict=True)):
        known = np.isfinite(truth)
        result[value_key(channel, reference.channels)] = {name: figure(truth, found, known) for name, figure in figures.items()}
    return result


def evaluate_large_values(*, reference: LazyImage, prediction: LazyImage) -> dict[str, dict[str, float]]:
    """As :func:`evaluate_values` of maps that do not fit into memory, block by block."""
    sums = [_Errors() for _ in range(reference.channels)]
    blocks = list(boxes(reference.space.shape, prediction.chunks, None, BLOCK_VOXELS // reference.channels))
    for box in blocks:
        for errors, truth, found in zip(sums, _read(reference, box), _read(prediction, box), strict=True):
            errors.add(truth, found)
    axes = ssim_axes(reference.space.shape)
    for box in blocks:
        reach = [SSIM_REACH if axis in axes else 0 for axis in range(len(box))]
        wide = tuple((max(0, low - more), min(size, high + more)) for (low, high), more, size in zip(box, reach, reference.space.shape, strict=True))
        inside = tuple(slice(low - first, high - first) for (low, high), (first, _) in zip(box, wide, strict=True))
        for errors, truth, found in zip(sums, _read(reference, wide), _read(prediction, wide), strict=True):
            similarity, counted = ssim_map(truth, found, np.isfinite(truth), extent=errors.high - errors.low, axes=axes)
            errors.windows += int(counted[inside].sum())
            errors.similarity += float(similarity[inside][counted[inside]].sum())
    return {value_key(channel, len(sums)): errors.figures() for channel, errors in enumerate(sums)}


@dataclass
class _Errors:
    """Sums over the voxels of a channel whose truth is known."""

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    similarity: float = 0.0
    windows: int = 0

    def add(self, truth: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> None:
        known = np.isfinite(truth)
        if not known.any():
            return
        values, difference = truth[known], (truth - found)[known]
        self.count += len(values)
        self.absolute, self.squared = self.absolute + float(np.abs(difference).sum()), self.squared + float(np.square(difference).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def figures(self) -> dict[str, float]:
        count = self.count or math.nan
        rmse = math.sqrt(self.squared / count)
        mean = self.similarity / (self.windows or math.nan)
        return {"MAE": self.absolute / count, "RMSE": rmse, "PSNR": decibels(self.high - self.low, rmse), "SSIM": mean}


def _read(image: LazyImage, box: Box) -> npt.NDArray[np.float64]:
    # in single precision first, as files of values are read whole
    return finite_or_unknown(image.read(box), image.path).astype(np.float64)


@dataclass(frozen=True)
class ValueMeasure:
    """:func:`evaluate_values` of two files."""

    channels: int

    def __call__(self, reference: Path, prediction: Path) -> dict[str, dict[str, float]]:
        """Figures by channel, by parts where the files do not fit into memory."""
        if is_large([prediction]) and is_large([reference]):
            on_disk = open_image(reference), open_image(prediction)
            for image in on_disk:
                check_channels(image.channels, self.channels, image.path)
            check_same_space(on_disk[1].space, prediction, on_disk[0].space, reference)
            return evaluate_large_values(reference=on_disk[0], prediction=on_disk[1])
        truth, found = read_map(reference, self.channels), read_map(prediction, self.channels)
        check_same_space(found.space, prediction, truth.space, reference)
        return evaluate_values(reference=truth, prediction=found)
