"""What the curves of a training say, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Diagnosis = Literal["overfitting", "unstable", "not learning"]

WINDOW = 10  # epochs that a verdict is drawn from
UNSTABLE_NOISE = 0.2  # scatter of the training loss around its trend, as a share of its usual size
SIGNIFICANT = 2.0  # a trend counts where it is so many of its own standard errors

ADVICE: dict[Diagnosis, str] = {
    "overfitting": "the training loss falls while the validation loss rises. Raise weight_decay (1e-3), augment more, stop early "
    "(--set early_stopping.patience=20), or take a smaller network.",
    "unstable": "the training loss jumps up and down. Lower the learning rate (a tenth of it), clip gradients (--set gradient_clip=1.0), "
    "or try full precision (--set mixed_precision=off).",
    "not learning": "the training loss has not fallen since the start. Raise the learning rate (nnreg_find_lr suggests one), check images, labels and loss, "
    "look at train_gradient_norm (0: nothing reaches the network), or take a larger network.",
}


def diagnose(values: Mapping[str, Sequence[float]], window: int = WINDOW) -> Diagnosis | None:
    """The verdict on the last `window` epochs, None where the curves look healthy or are too short to tell.

    Parameters
    ----------
    values
        Series per name, an entry per epoch; ``train_loss`` and ``val_loss`` are looked at.
    window
        Epochs looked at.

    Notes
    -----
    With a straight line through the last `window` epochs of a curve: *unstable* if the training loss scatters around its line by more
    than a fifth of the median of its size; *overfitting* if the training line falls and the validation line rises, each by more than two
    standard errors, and the best validation loss lies before the window; *not learning* if after two windows the mean of the last is not
    lower than that of the first by two standard errors.
    """
    train = np.asarray(values.get("train_loss", ()), dtype=float)
    train = train[np.isfinite(train)]
    if len(train) < window:
        return None
    slope, error, scatter = _line(train[-window:])
    if scatter > UNSTABLE_NOISE * float(np.median(np.abs(train))):
        return "unstable"
    validation = np.asarray(values.get("val_loss", ()), dtype=float)
    validation = validation[np.isfinite(validation)]
    if len(validation) > window:
        rise, rise_error, _ = _line(validation[-window:])
        if slope < -SIGNIFICANT * error and rise > SIGNIFICANT * rise_error and validation[:-window].min() < validation[-window:].min():
            return "overfitting"
    if len(train) >= 2 * window:
        first, last = train[:window], train[-window:]
        if first.mean() - last.mean() < SIGNIFICANT * np.sqrt((first.var() + last.var()) / window):
            return "not learning"
    return None


def change_of_diagnosis(values: Mapping[str, Sequence[float]]) -> Diagnosis | None:
    """The verdict of the newest epoch where the epoch before had another: what is worth a line in the log."""
    found = diagnose(values)
    return found if found != diagnose({name: series[:-1] for name, series in values.items()}) else None


def _line(series: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope of the least-squares line, its standard error, and the standard deviation around it."""
    x = np.arange(len(series)) - (len(series) - 1) / 2
    slope = float(x @ series / (x @ x))
    residual = series - series.mean() - slope * x
    scatter = float(np.sqrt(residual @ residual / max(len(series) - 2, 1)))
    return slope, scatter / float(np.sqrt(x @ x)), scatter
