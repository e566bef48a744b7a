"""The number that decides which epoch is best and when a training has stalled. Everything follows from the history, so a resumed run decides alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.planning.plans import Training
from nnreg.planning.training_options import EarlyStopping
from nnreg.training.logging import History

SMALLER_IS_BETTER = ("loss", "epe", "tre", "error", "folding", "ndv", "mse", "mae", "grad_l2", "sdlogj", "hd95")


class Monitor:
    """Reads the monitored number of an epoch, turned so that larger is better.

    Parameters
    ----------
    plan
        Its ``monitor`` and ``monitor_mode``.
    default
        The task's metric; where an epoch has none, the validation loss decides.
    """

    def __init__(self, plan: Training, default: str) -> None:
        self.name, self.default = plan.monitor, default
        mode = plan.monitor_mode or ("min" if self.name and any(part in self.name for part in SMALLER_IS_BETTER) else "max")
        self.sign = 1.0 if mode == "max" or self.name is None else -1.0

    def name_and_sign(self, values: Mapping[str, Sequence[float]]) -> tuple[str, float]:
        """What the log calls it, and -1 where :meth:`value` turned it; `values` is the history, which knows whether the task's metric was ever measured."""
        if self.name is not None:
            return self.name, self.sign
        return (self.default, 1.0) if _measured(values.get(f"val_{self.default}", ())) else ("the validation loss", -1.0)

    def value(self, numbers: Mapping[str, float]) -> float:
        """The monitored number of an epoch, NaN where it was not measured.

        Raises
        ------
        ConfigurationError
            If the plan names a number that no epoch has.
        """
        if self.name is None:
            value = numbers.get(f"val_{self.default}", math.nan)
            return value if math.isfinite(value) else -numbers.get("val_loss", math.nan)
        for name in (self.name, f"val_{self.name}"):
            if name in numbers:
                return self.sign * numbers[name]
        if any(name.startswith("val_") for name in numbers):
            raise ConfigurationError(f"monitor {self.name!r} is no number of an epoch; {did_you_mean(self.name, numbers)}")
        return math.nan  # an epoch without validation

    def update(self, history: History, epoch: int, numbers: Mapping[str, float]) -> bool:
        """Feed the number of an epoch to the moving average; whether that is the best so far.

        Where the validation loss stood in for the task's metric, the average begins anew with the metric's first value: the two have no scale in common.
        """
        own = f"val_{self.default}"
        seen = self.name is None and _measured(history.values.get(own, ()))
        measured = self.name is None and math.isfinite(numbers.get(own, math.nan))
        value = math.nan if seen and not measured else self.value(numbers)
        return history.update_best(epoch, value, anew=measured and not seen)

    def series(self, values: Mapping[str, Sequence[float]]) -> list[float]:
        """The monitored number of every epoch of a history."""
        own = values.get(f"val_{self.default}", ())
        if self.name is None and _measured(own):
            return list(own)
        length = max((len(column) for column in values.values()), default=0)
        rows = [{name: column[epoch] for name, column in values.items() if epoch < len(column)} for epoch in range(length)]
        return [self.value(row) for row in rows]


def _measured(series: Sequence[float]) -> bool:
    return any(map(math.isfinite, series))


def stalled(series: Sequence[float], options: EarlyStopping) -> bool:
    """Whether `patience` epochs have passed since a value was better than all before by more than `min_delta`.

    Examples
    --------
    >>> stalled([0.1, 0.5, 0.5, 0.4], EarlyStopping(patience=2)), stalled([0.1, 0.5, 0.4], EarlyStopping(patience=2))
    (True, False)
    """
    best, best_epoch = -math.inf, -1
    for epoch, value in enumerate(series):
        if math.isfinite(value) and value > best + (options.min_delta if math.isfinite(best) else 0.0):
            best, best_epoch = value, epoch
    return options.patience > 0 and best_epoch >= 0 and len(series) - 1 - best_epoch >= options.patience
