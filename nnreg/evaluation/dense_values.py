"""Predicted values against the truth: MAE, RMSE, PSNR and SSIM of every channel, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnreg import metrics
from nnreg.dataset.continuous import read_map
from nnreg.imageio import Image
from nnreg.imageio.files import check_same_space


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


@dataclass(frozen=True)
class ValueMeasure:
    """:func:`evaluate_values` of two files."""

    channels: int

    def __call__(self, reference: Path, prediction: Path) -> dict[str, dict[str, float]]:
        """Figures by channel."""
        truth, found = read_map(reference, self.channels), read_map(prediction, self.channels)
        check_same_space(found.space, prediction, truth.space, reference)
        return evaluate_values(reference=truth, prediction=found)
