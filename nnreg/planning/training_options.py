"""Groups of training options: what is kept, when a training ends early, where its numbers go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nnreg.planning.plans import Training

Precision = Literal["auto", "off", "bf16", "fp16"]


@dataclass(frozen=True)
class Checkpoints:
    """Which checkpoints a training writes beside ``checkpoint_best.pth`` and ``checkpoint_final.pth``.

    Attributes
    ----------
    every : a numbered file, ``checkpoint_epoch_0010.pth``, after every so many epochs; 0 for none
    keep_last : how many of the numbered files stay; 0 for all
    best_only : neither numbered files nor ``checkpoint_latest.pth``; ``-c`` then goes on from the best epoch
    latest_every : epochs between two ``checkpoint_latest.pth``
    delete_latest : remove ``checkpoint_latest.pth`` once ``checkpoint_final.pth`` is written
    """

    every: int = 0
    keep_last: int = 0
    best_only: bool = False
    latest_every: int = 1
    delete_latest: bool = False


@dataclass(frozen=True)
class EarlyStopping:
    """When a training ends before its last epoch.

    Attributes
    ----------
    patience : epochs without a better value of the monitored metric; 0 never stops
    min_delta : by how much a value must be better to count
    """

    patience: int = 0
    min_delta: float = 0.0


@dataclass(frozen=True)
class Tracking:
    """Where the numbers go beside the log and ``progress.png``.

    Attributes
    ----------
    tensorboard : write ``tensorboard/`` in the fold's folder; None: where the package is installed
    histograms : of the gradients of every layer, once an epoch, for TensorBoard
    wandb : ``off`` (the package is not even imported), ``on`` or ``offline``
    wandb_project, wandb_run : names on the dashboard; the run is called after its folder unless named
    picture : ``debug.png`` (2D) or ``debug.gif`` (3D) of the first validation batch, anew after every validation
    console : names of the numbers that an epoch's line shows, in this order; empty: all
    """

    tensorboard: bool | None = None
    histograms: bool = False
    wandb: Literal["off", "on", "offline"] = "off"
    wandb_project: str = "nnreg"
    wandb_run: str | None = None
    picture: bool = False
    console: tuple[str, ...] = ()


AT_LEAST: dict[str, float] = {
    "epochs": 1,
    "batch_size": 1,
    "iterations_per_epoch": 1,
    "validation_iterations": 1,
    "gradient_accumulation_steps": 1,
    "warmup_epochs": 0,
    "validate_every": 0,
    "weight_decay": 0,
    "checkpoints.every": 0,
    "checkpoints.keep_last": 0,
    "checkpoints.latest_every": 1,
    "early_stopping.patience": 0,
    "early_stopping.min_delta": 0,
}


def training_problems(training: Training) -> Iterator[str]:
    """What is wrong with the values of a plan's training, one sentence each: key, value, expectation."""
    for key, least in {**AT_LEAST, **training.at_least}.items():
        value = attrgetter(key)(training)
        if value < least:
            yield f"{key} is {value}: expected {least:g} or more."
    if training.learning_rate <= 0:
        yield f"learning_rate is {training.learning_rate}: expected a positive number."
    if training.gradient_clip is not None and training.gradient_clip <= 0:
        yield f"gradient_clip is {training.gradient_clip}: expected a positive number or null."
    if training.ema_decay is not None and not 0 < training.ema_decay < 1:
        yield f"ema_decay is {training.ema_decay}: expected a number between 0 and 1, such as 0.999, or null."
    for key in training.shares:
        if not 0 <= getattr(training, key) <= 1:
            yield f"{key} is {getattr(training, key)}: expected a share of the patch, 0 to 1."
