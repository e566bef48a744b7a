"""How long a training takes: the work of a step in closed form, at the speed that this machine was measured to have. No network is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nnreg.errors import PlansError
from nnreg.planning import memory
from nnreg.planning.plans import Architecture
from nnreg.planning.training_options import Precision

PASSES = 3  # forward, gradient of the features, gradient of the weights: each the same products
MILLION = 1e6
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile(r"^(?=\d)" + "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS) + "$")


@dataclass(frozen=True)
class Work:
    """What a forward and backward pass of one pair does.

    Attributes
    ----------
    products : millions of multiplications in convolutions
    numbers : millions of numbers that layers, warps and losses write and the backward pass reads again
    levels : of the pyramid; each costs a little however small it is
    """

    products: float
    numbers: float
    levels: int


@dataclass(frozen=True)
class Speed:
    """Seconds of a training's parts on one machine, as measured there.

    Attributes
    ----------
    machine : what was measured, in words
    startup : before the first step: libraries, network, files
    product, number, level : per unit of :class:`Work`
    load : of a pair's samples, augmentation included, per million voxels of the working grid
    epoch : of an epoch's end: log, curves, checkpoint
    validation : of a pair in the validation at the end, per million native voxels
    comparison : the same of a pair that the engine registers too, alone and from the network's field
    precision : the quicker one here, which `product`, `number` and `level` are of
    """

    machine: str
    startup: float
    product: float
    number: float
    level: float
    load: float
    epoch: float
    validation: float
    comparison: float
    precision: Precision = "auto"

    def step(self, work: Work) -> float:
        """Seconds of a forward and backward pass of one pair."""
        return self.product * work.products + self.number * work.numbers + self.level * work.levels


@dataclass(frozen=True)
class Budget:
    """Seconds that a training may take, its validation included, and the speed of the machine it runs on."""

    seconds: float
    speed: Speed


def step_work(grid: Sequence[int], architecture: Architecture, *, channels: int, labels: int = 0) -> Work:
    """Work of one pair in a training step of the dual pyramid; arguments as in :func:`nnreg.planning.memory.training_memory_gb`."""
    resolution = architecture.kwargs["field_resolution"]
    pyramid = memory.levels(grid, architecture.strides, architecture.features_per_stage, architecture.blocks_per_stage, resolution)
    correlation = (2 * architecture.kwargs["correlation_radius"] + 1) ** len(grid)
    kernels = [prod(kernel) for kernel in architecture.kernel_sizes[len(architecture.strides) - len(pyramid) :]]
    twice = architecture.kwargs["inverse_consistent"]
    numbers = memory.kept_by_network(pyramid, grid, channels, correlation, architecture.kwargs["integration_steps"], twice)
    numbers += memory.kept_by_losses([prod(grid), *(level.voxels for level in pyramid[0 if resolution > 1 else 1 :])], channels, len(grid), labels)
    products, inputs = 0, channels
    for level, kernel in zip(pyramid, kernels, strict=True):
        width = level.features
        encoder = 2 * (inputs + 2 * level.blocks * width)  # both images
        decoder = ((2 * width + correlation + len(grid)) + width + len(grid)) * (2 if twice else 1)
        products += PASSES * level.voxels * kernel * width * (encoder + decoder)
        inputs = width
    return Work(products / MILLION, numbers / MILLION, len(pyramid))


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``2h`` or ``1h30m``.

    Raises
    ------
    PlansError
        For anything else, or no time at all.

    Examples
    --------
    >>> parse_duration("90s"), parse_duration("1h30m")
    (90.0, 5400.0)
    """
    match = DURATION.match(text.strip())
    seconds = sum(float(part or 0) * size for part, size in zip(match.groups(), UNITS.values(), strict=True)) if match else 0.0
    if seconds <= 0:
        raise PlansError(f"--time_budget {text}: expected a time such as 90s, 30m, 2h or 1h30m.")
    return seconds


def readable_duration(seconds: float) -> str:
    """A time in a few characters.

    Examples
    --------
    >>> readable_duration(75), readable_duration(5400), readable_duration(1.234)
    ('1m15s', '1h30m', '1.2s')
    """
    if seconds < 60:
        return f"{seconds:.2g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
