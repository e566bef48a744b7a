"""The learning rate range test: the rate rises with every step, and the loss tells where training is fastest and where it breaks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from nnreg.errors import ConfigurationError, TrainingError
from nnreg.files import atomic_path, write_json
from nnreg.training.trainer.trainer import nnRegTrainer

SMOOTHING = 0.9  # of the loss from step to step: one batch says little
SAFETY = 0.1  # of the rate at the minimum: beyond it the loss rises again


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    rates, losses : one per step made; the losses are smoothed
    suggestion : learning rate to start with
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def write(self, folder: Path) -> Path:
        """Write ``find_lr.json`` and ``find_lr.png`` into `folder`; returns the picture."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        write_json(folder / "find_lr.json", {"suggestion": self.suggestion, "rates": self.rates, "losses": self.losses})
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(self.rates, self.losses)
        axes.axvline(self.suggestion, color="grey", linestyle="--", label=f"suggestion {self.suggestion:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
        axes.legend()
        with atomic_path(folder / "find_lr.png") as temporary:
            figure.savefig(temporary, dpi=110)
        return folder / "find_lr.png"


def find_learning_rate(trainer: nnRegTrainer, *, lowest: float = 1e-7, highest: float = 1.0, steps: int = 100) -> RangeTest:
    """Train `steps` steps while the rate rises from `lowest` to `highest` by equal factors, or until the loss breaks.

    Parameters
    ----------
    trainer
        Fresh; its network is spent afterwards, and nothing is written.
    lowest, highest
        Range of the rate.
    steps
        Optimisation steps.

    Raises
    ------
    ConfigurationError
        For a range or a number of steps that makes no test.
    TrainingError
        If the loss falls at no rate.

    Notes
    -----
    The test ends where the loss has risen above its start by as much as it had fallen below it. The suggestion is the rate at which the
    smoothed loss falls fastest (L. N. Smith 2017), at most a tenth of the rate of its minimum.
    """
    if not 0 < lowest < highest or steps < 10:
        raise ConfigurationError(f"range test from {lowest:g} to {highest:g} in {steps} steps: expected 0 < lowest < highest and 10 steps or more.")
    trainer.initialize()
    trainer.begin_after_stage_before()
    loader, _ = trainer.get_dataloaders()
    trainer.network.train()
    per_step = trainer.plan.gradient_accumulation_steps
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for index, rate in enumerate(np.geomspace(lowest, highest, steps)):
        for group in trainer.optimizer.param_groups:
            group["lr"] = float(rate)
        loss = float(np.mean([_loss(trainer, batch) for batch in itertools.islice(batches, per_step)]))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (index + 1))  # without the bias towards the zero it began with
        if not math.isfinite(loss):
            break
        rates.append(float(rate))
        losses.append(smooth)
        if smooth - losses[0] > max(losses[0] - min(losses), abs(losses[0])):
            break
        trainer.listeners.step(index + 1, steps, f"learning rate {rate:.1e}")
    return RangeTest(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate of the steepest fall before the minimum, at most a tenth of the minimum's rate.

    Raises
    ------
    TrainingError
        If the loss falls nowhere.
    """
    lowest = int(np.argmin(losses)) if losses else 0
    if lowest < 2:
        raise TrainingError("range test: the loss falls at no learning rate. Check images and loss, or begin lower (--lowest).")
    slope = np.gradient(np.asarray(losses[: lowest + 1]), np.log(rates[: lowest + 1]))
    return min(float(rates[int(np.argmin(slope))]), SAFETY * float(rates[lowest]))


def _loss(trainer: nnRegTrainer, batch: dict[str, Tensor]) -> float:
    result = trainer.train_step(trainer.on_device(batch))
    if isinstance(result, Tensor):
        trainer.stepper(result)
        return float(result.detach())
    return float(result["loss"])
