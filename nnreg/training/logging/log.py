"""The training's log file and its history of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

LOG_NAME = "training_log.txt"
EMA_MOMENTUM = 0.9  # nnU-Net's smoothing of the online metric: the best epoch is not decided by one lucky draw


class TrainingLog:
    """Lines with a time stamp, appended to ``training_log.txt`` and handed to a listener (the command line prints them)."""

    def __init__(self, folder: Path, listener: Callable[[str], None] | None = None) -> None:
        self.path = folder / LOG_NAME
        self.listener = listener

    def __call__(self, line: str) -> None:
        """Write one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(sep=' ', timespec='seconds')}: {line}\n")
        if self.listener is not None:
            self.listener(line)


class History:
    """Every logged number of every finished epoch; the state is plain lists, for checkpoints and JSON."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.best_ema: float | None = None
        self.best_epoch: int | None = None

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of `epoch`; a name seen for the first time is NaN for earlier epochs."""
        for name in dict.fromkeys((*self.values, *numbers)):  # in the order in which they came: checkpoints of one training are the same
            _put(self.values.setdefault(name, []), epoch, float(numbers.get(name, math.nan)))

    def update_best(self, epoch: int, value: float, *, anew: bool = False) -> bool:
        """Feed the monitored metric (larger is better); whether its moving average is the best so far. The average begins with the first value, and `anew`."""
        if anew:
            self.best_ema = self.best_epoch = None
        previous = self.values.get("ema", [])
        last = previous[-1] if previous and not anew and math.isfinite(previous[-1]) else None
        if last is None:
            ema = value
        elif math.isfinite(value):
            ema = EMA_MOMENTUM * last + (1 - EMA_MOMENTUM) * value
        else:
            ema = last  # an epoch without a measure neither moves the average nor begins it anew
        _put(self.values.setdefault("ema", []), epoch, ema)
        if not math.isfinite(ema) or (self.best_ema is not None and ema <= self.best_ema):
            return False
        self.best_ema, self.best_epoch = ema, epoch
        return True

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"values": {name: list(series) for name, series in self.values.items()}, "best_ema": self.best_ema, "best_epoch": self.best_epoch}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The inverse of :meth:`state`."""
        history = cls()
        history.values = {name: list(series) for name, series in state["values"].items()}
        history.best_ema, history.best_epoch = state["best_ema"], state["best_epoch"]
        return history

    def __len__(self) -> int:
        return max((len(series) for series in self.values.values()), default=0)


def _put(series: list[float], epoch: int, value: float) -> None:
    """Make `value` the last of the series, at the place of its epoch."""
    series.extend([math.nan] * (epoch - len(series)))
    series[epoch:] = [value]


def mean_terms(terms: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each name over the steps where it is finite; NaN where there is none."""
    names = dict.fromkeys(name for step in terms for name in step)
    result = {}
    for name in names:
        values = np.asarray([step.get(name, math.nan) for step in terms], dtype=float)
        finite = values[np.isfinite(values)]
        result[name] = float(finite.mean()) if len(finite) else math.nan
    return result
