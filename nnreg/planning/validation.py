"""Plans may be edited by hand: what contradicts itself is refused by key, before hours of work are spent on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter

from nnreg.planning.configuration import Architecture, Configuration, Training

FOLDER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # becomes a folder: must not lead out of the dataset's
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


def configuration_problems(configuration: Configuration, channels: int) -> Iterator[str]:
    """What is wrong with a configuration of images with so many channels, one sentence each: key, value, expectation."""
    ndim = len(configuration.grid)
    if not FOLDER_NAME.match(configuration.data_identifier):
        yield f"data_identifier {configuration.data_identifier!r} cannot be a folder's name."
    if ndim not in (2, 3) or min(configuration.grid) < 1:
        yield f"grid {list(configuration.grid)}: expected 2 or 3 positive numbers."
    if len(configuration.spacing) != ndim or min(configuration.spacing) <= 0:
        yield f"spacing {list(configuration.spacing)}: expected {ndim} positive numbers, as grid has."
    if len(configuration.normalization) != channels:
        yield f"normalization has {len(configuration.normalization)} schemes for {channels} channels."
    yield from architecture_problems(configuration.architecture, ndim)
    for problem in training_problems(configuration.training):
        yield f"training.{problem}"


def architecture_problems(architecture: Architecture, ndim: int) -> Iterator[str]:
    """What is wrong with a network of images with so many axes, one sentence each: key, value, expectation."""
    stages = len(architecture.strides)
    per_stage: tuple[tuple[str, Sequence[object]], ...] = (
        ("kernel_sizes", architecture.kernel_sizes),
        ("features_per_stage", architecture.features_per_stage),
        ("blocks_per_stage", architecture.blocks_per_stage),
    )
    for key, values in per_stage:
        if len(values) != stages:
            yield f"architecture.{key} has {len(values)} entries, strides has {stages}: one per stage is needed."
    for key, tuples in (("strides", architecture.strides), ("kernel_sizes", architecture.kernel_sizes)):
        for stage, values in enumerate(tuples):
            if len(values) != ndim or min(values) < 1:
                yield f"architecture.{key}[{stage}] is {list(values)}: expected {ndim} positive numbers."
    if stages and any(step != 1 for step in architecture.strides[0]):
        yield f"architecture.strides[0] is {list(architecture.strides[0])}: the first stage keeps the resolution, all 1."
    if any(count < 1 for count in architecture.features_per_stage):
        yield f"architecture.features_per_stage {list(architecture.features_per_stage)}: expected positive numbers."


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
    name = training.checkpoints.model_name
    if name and not FOLDER_NAME.match(name):
        yield f"checkpoints.model_name is {name!r}: it becomes the name of files. Use letters, digits, '_', '.' and '-'."
    for key in training.shares:
        if not 0 <= getattr(training, key) <= 1:
            yield f"{key} is {getattr(training, key)}: expected a share of the patch, 0 to 1."
