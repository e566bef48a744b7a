"""What fits a time budget: how long a training is, and how fine and wide it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Any

from nnreg.planning.decision import Decision, counted, rule
from nnreg.planning.registration.duration import Budget, Speed, readable_duration
from nnreg.planning.registration.rules.method import FEWEST_COMPARED
from nnreg.planning.training_options import Precision

PROPOSED = 3600.0  # seconds, where no budget was given: what a person waits for
MARGIN = 0.07  # of the budget stays free; a training that falls behind gets fewer epochs
VALIDATION_SHARE = 0.2  # of the budget at most, for the validation at the end
ENOUGH_STEPS = 1000  # brains, 3d_lowres: 1200 steps raise the Dice from .421 to .590
FEWEST_STEPS = 300
EPOCHS = 25
# chosen on 20 hippocampi with labels, 600 steps: 3e-3 is a little worse than 6e-3, 1e-2 too high; three times the Dice alone is rougher
PEAK_RATE, WARMUP_EPOCHS = 5e-3, 5
LABEL_FACTOR, SMOOTHNESS_FACTOR = 3.0, {2: 1.0, 3: 2.0}  # by the number of axes; slices of brains: 0.507 of Dice at 2, 0.513 at 1
CHEAP_FIELD = 2  # voxels between displacements
VALIDATION_ITERATIONS = 4
# of a comparison of a pair, for each atlas that is brought onto an image: brains at 2 mm 4.3 of 9 processor seconds, hippocampi 1.0 of 2
GUIDE_SHARE = 0.5
ROUNDING = 1e-6  # of a count: seconds that fit exactly
FORWARD_SHARE = 0.6  # of a step that a validation iteration takes: the forward pass, and its metrics
COARSEST = {2: 64, 3: 32}  # voxels of the longest axis


@dataclass(frozen=True)
class Length:
    """A training that fits.

    Attributes
    ----------
    epochs, iterations, validation_iterations, validation_pairs, compared_pairs
        As in the plans; the last two at most in the validation at the end.
    seconds
        Predicted, validation included.
    epoch_seconds, validation_seconds
        Of an epoch with its end, and of the validation.
    """

    epochs: int
    iterations: int
    validation_iterations: int
    validation_pairs: int
    compared_pairs: int
    seconds: float
    epoch_seconds: float
    validation_seconds: float

    @property
    def steps(self) -> int:
        """Optimisation steps in all."""
        return self.epochs * self.iterations


@dataclass(frozen=True)
class Validation:
    """What the validation at the end costs: seconds of a pair by the network, and of one by the engine with and without it; and how many there are of both.

    Where labels guide the engine, every image of compared pairs takes `guide` seconds more, once; so pairs share images as far as `to_one` (all are registered
    to one) allows.
    """

    pair: float
    most_pairs: int
    compared: float
    most_compared: int
    guide: float = 0.0
    to_one: bool = False

    def comparing(self, pairs: float) -> float:
        """Seconds of comparing so many pairs."""
        images = pairs + 1 if self.to_one else (1 + sqrt(1 + 4 * pairs)) / 2  # k images form k (k - 1) ordered pairs
        return self.compared * pairs + self.guide * images

    @property
    def all(self) -> float:
        """Seconds of all pairs."""
        return self.pair * self.most_pairs + self.comparing(self.most_compared)

    @property
    def least(self) -> float:
        """Seconds of one pair."""
        return self.pair + self.comparing(1)

    def fitting(self, seconds: float) -> tuple[int, int]:
        """Pairs of both kinds that fit, one at least: half of the time for comparing, more until six are compared; the network has what that leaves.

        More time gives no fewer.
        """
        alike = self._registered_and_compared(seconds)
        comparing = max(self.comparing(alike), min(seconds / 2, self.comparing(self.most_compared)))
        pairs = max(1, min(self.most_pairs, int((seconds - comparing) / self.pair + ROUNDING)))
        fitting = [count for count in range(1, min(pairs, self.most_compared) + 1) if self.comparing(count) <= comparing + ROUNDING]
        return pairs, max(fitting, default=1)

    def _registered_and_compared(self, seconds: float) -> float:
        """How many pairs, six at most, the network and the engine both register in the time; a fraction, so that a little more time is a little more."""
        most = float(min(FEWEST_COMPARED, self.most_compared))
        if self.pair * most + self.comparing(most) <= seconds:
            return most
        if self.least >= seconds:
            return 1.0
        from scipy.optimize import brentq  # a tenth of a second, for budgets alone

        found: float = brentq(lambda count: self.pair * count + self.comparing(count) - seconds, 1.0, most)
        return found


@rule("budget_length")
def length(budget: Budget, step: float, validation: Validation, most_steps: int) -> Decision[Length | None]:
    """25 epochs of what fits 93 % of a time budget beside start, ends of epochs and a validation of at most a fifth of it; none if under 300 steps."""
    speed, usable = budget.speed, (1 - MARGIN) * budget.seconds
    pairs, compared = validation.fitting(VALIDATION_SHARE * budget.seconds)
    fixed = speed.startup + EPOCHS * (speed.epoch + VALIDATION_ITERATIONS * FORWARD_SHARE * step)
    # what is kept for the validation grows with the budget without jumps, so that a longer one never has fewer steps
    kept = max(validation.least, min(VALIDATION_SHARE * budget.seconds, validation.all))
    iterations = min(int((usable - fixed - kept) / (EPOCHS * step)), most_steps // EPOCHS)
    if EPOCHS * iterations < FEWEST_STEPS:
        needed = needed_seconds(speed, step, validation)
        return Decision(None, f"{FEWEST_STEPS} steps of {readable_duration(step)} and a validation need {readable_duration(needed)}")
    validating = pairs * validation.pair + validation.comparing(compared)
    seconds = fixed + validating + EPOCHS * iterations * step
    epoch = iterations * step + speed.epoch + VALIDATION_ITERATIONS * FORWARD_SHARE * step
    return Decision(
        Length(EPOCHS, iterations, VALIDATION_ITERATIONS, pairs, compared, seconds, epoch, validating),
        f"--time_budget {readable_duration(budget.seconds)}: {EPOCHS * iterations} steps of {readable_duration(step)}, {speed.startup:.0f} s to start, "
        f"{validating:.0f} s for a validation of {counted(pairs, 'pair')}, {compared} of them by the engine too, in all {readable_duration(seconds)} "
        f"({MARGIN:.0%} stay free); measured on {speed.machine}",
    )


def needed_seconds(speed: Speed, step: float, validation: Validation) -> float:
    """The smallest budget that a training of 300 steps fits."""
    steps = EPOCHS * ceil(FEWEST_STEPS / EPOCHS) * step
    training = steps + speed.startup + EPOCHS * (speed.epoch + VALIDATION_ITERATIONS * FORWARD_SHARE * step)
    shared = min(training / (1 - MARGIN - VALIDATION_SHARE), (training + validation.all) / (1 - MARGIN))
    return max(shared, (training + validation.least) / (1 - MARGIN))


@rule("budget_grid")
def choose(enough: Sequence[int], steps_of: Callable[[int], int]) -> Decision[int | None]:
    """The first of the candidates, finest and widest first, that the budget gives enough steps; else the last (coarsest) one, if it gives 300.

    Enough are 1000, and all 20,000 or more of a training without a budget for a field at every voxel of a volume: at every second one a step takes a third.
    """
    candidates = len(enough)
    for index, wanted in enumerate(enough):
        if steps_of(index) >= wanted:
            why = "the finest grid and widest network" if index == 0 else f"the finest of {candidates} grids and widths"
            return Decision(index, f"{why} that the time budget gives {wanted} steps or more")
    last = candidates - 1
    if steps_of(last) >= FEWEST_STEPS:
        return Decision(last, f"the coarsest grid that is worth training: the time budget gives it {steps_of(last)} steps")
    return Decision(None, "no grid fits the time budget")


def worth_training(grid: Sequence[int]) -> bool:
    """Whether a grid is fine enough for a network worth having: 32 voxels along the longest axis in 3D, 64 in 2D."""
    return max(grid) >= COARSEST[len(grid)] and prod(grid) > 0


@rule("budget_batch_size")
def batch_size() -> Decision[int]:
    """One pair a step under a time budget."""
    return Decision(1, "one pair a step: in a given time twice the steps of batches of two; instance normalisation needs no more")


@rule("budget_precision")
def mixed_precision(speed: Speed) -> Decision[Precision]:
    """bfloat16 on a processor where a measured step takes at most 0.9 of the time of full precision; else as the device has it."""
    if speed.precision == "bf16":
        return Decision("bf16", "a step in bfloat16 was measured to take at most 0.9 of the time on this machine; fields, losses and weights stay float32")
    return Decision("auto", "half precision on a GPU alone: on this machine's processor it was not measured to be quicker")


@rule("budget_field_resolution")
def field_resolution(grid: Sequence[int], planned: Decision[int]) -> Decision[int]:
    """A volume's field at every second voxel where a budget leaves fewer steps than a training without one takes; else as planned without."""
    if len(grid) == 2 or planned.value != 1:
        return planned
    return Decision(
        CHEAP_FIELD, f"{prod(grid)} voxels, little time: at every second one a step takes a third, and more steps bring more [evidence: short trainings]"
    )


@rule("budget_optimizer")
def optimizer(gradient_clip: float | None) -> Decision[dict[str, Any]]:
    """Where labels of different subjects teach in fewer steps than without a budget: Adam up to 5e-3 within five epochs of 25, then down along a cosine."""
    value = {
        "optimizer": "adam",
        "learning_rate": PEAK_RATE,
        "lr_schedule": "cosine",
        "lr_schedule_kwargs": {},
        "warmup_epochs": WARMUP_EPOCHS,
        "lr_update": "step",
    }
    clipped = "" if gradient_clip is None else f", gradients clipped at {gradient_clip:g}"
    return Decision(
        value, f"labels teach and time is short: Adam up to {PEAK_RATE:g} over {WARMUP_EPOCHS} epochs, down along a cosine{clipped} [evidence: short trainings]"
    )


@rule("budget_weights")
def weights(ndim: int) -> Decision[tuple[float, float]]:
    """Where labels of different subjects teach beside local correlation in fewer steps than without a budget: three times the Dice.

    Of volumes twice the smoothness too.
    """
    smoothness = SMOOTHNESS_FACTOR[ndim]
    told = f"in little time labels weigh {LABEL_FACTOR:g} times as much" + (f" and smoothness {smoothness:g} times" if smoothness != 1 else "")
    return Decision((LABEL_FACTOR, smoothness), f"{told}: more Dice and smoother fields [evidence: short trainings]")
