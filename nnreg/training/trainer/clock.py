"""How long a training has taken and will take, and how many epochs its time budget leaves."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nnreg.planning.registration.duration import readable_duration

if TYPE_CHECKING:
    from nnreg.planning.registration.plans import TimeBudget
    from nnreg.training.logging import History

RECENT = 5  # epochs whose median says what the next ones take
SETTLED = 2  # epochs after which the length is adapted: the first one loads code and allocates


class Clock:
    """Seconds of a training; `budget` is the plan's, None where nothing limits it.

    `now` is for tests.
    """

    def __init__(self, budget: TimeBudget | None, now: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.now = budget, now
        self.begun, self.earlier = now(), 0.0

    def start(self, history: History) -> None:
        """Begin or go on: what earlier sessions took counts."""
        self.begun, self.earlier = self.now(), sum(_epochs(history))

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self.earlier + self.now() - self.begun

    def left(self, history: History, epochs: int, within: float) -> float | None:
        """Seconds until the end, validation included where it was planned; None before an epoch is over. `within` are those spent in the epoch at hand."""
        done = _epochs(history)
        if not done:
            return None
        epoch = _pace(done)
        return max(0, epochs - len(done)) * epoch - min(within, epoch) + self._validation(epoch)

    def fitting(self, history: History, epochs: int) -> int:
        """Epochs, at most `epochs` and no fewer than are over, that end with the validation inside the budget."""
        done = _epochs(history)
        if self.budget is None or len(done) < SETTLED:
            return epochs
        epoch = _pace(done)
        room = self.budget.seconds - self.spent - self._validation(epoch)
        return min(epochs, len(done) + max(0, int(room / epoch)))

    def _validation(self, epoch: float) -> float:
        """Seconds of the validation at the end, at the pace of the epochs."""
        return 0.0 if self.budget is None else self.budget.validation_seconds * max(1.0, epoch / self.budget.epoch_seconds)


def time_left(seconds: float | None) -> str:
    """What a bar shows."""
    return "" if seconds is None else f", {readable_duration(max(1.0, seconds))} left"


def _epochs(history: History) -> list[float]:
    return [value for value in history.values.get("epoch_seconds", []) if math.isfinite(value)]


def _pace(seconds: list[float]) -> float:
    """Seconds of an epoch to come."""
    return max(1e-6, statistics.median((seconds[1:] or seconds)[-RECENT:]))
