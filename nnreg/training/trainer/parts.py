"""Who listens to a training, and what its files say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nnreg.progress import Progress
from nnreg.run_record import run_record
from nnreg.training.logging.log import mean_terms
from nnreg.training.run_folders import SOURCE
from nnreg.training.runtime_utils.reading import read_terms
from nnreg.training.runtime_utils.runtime import autocast_type
from nnreg.typed import to_mapping

if TYPE_CHECKING:
    from nnreg.training.trainer.training_run import TrainingRun


NO_TRUTH = "val_epe"


@dataclass
class Listeners:
    """What a front end may listen to; all silent by default."""

    line: Callable[[str], None] | None = None
    step: Progress = field(default=lambda done, total, what: None)
    finished: Callable[[Path], None] = field(default=lambda folder: None)
    """Called with the fold's folder when all of it is written."""


def epoch_numbers(train_terms: Sequence[Mapping[str, Tensor]], validation_terms: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Means over the steps of an epoch, ``train_`` and ``val_`` before their names."""
    numbers: dict[str, float] = {}
    for split, terms in (("train", train_terms), ("val", validation_terms)):
        numbers |= {f"{split}_{name}": value for name, value in mean_terms(read_terms(terms)).items()}
    return numbers


def epoch_line(epoch: int, epochs: int, numbers: Mapping[str, float], shown: Sequence[str]) -> str:
    """The log's line of an epoch (counted from 0): what was measured, with `shown` just these numbers.

    One exception: of a validation without a true field, trainings on synthetic pairs show the end-point error 0 where they show it at all.
    """
    measured = {name: value for name, value in numbers.items() if not math.isnan(value) and name.startswith(("train_", "val_"))}
    if shown:
        validated = {NO_TRUTH: 0.0} if any(name.startswith("val_") for name in measured) else {}
        measured = {**validated, **measured}
        return f"[Epoch {epoch + 1:03d}/{epochs:03d}] " + ", ".join(f"{name} = {measured[name]:.4f}" for name in shown if name in measured)
    said = ", ".join(f"{name} = {value:.4f}" for name, value in measured.items())
    seconds = f"{numbers['epoch_seconds']:.1f} s ({numbers['waiting_seconds']:.1f} waiting)"  # for data
    return f"[Epoch {epoch + 1:03d}/{epochs:03d}] {said}, lr = {numbers['learning_rate']:.2e}, {seconds}"


def opening_lines(trainer: TrainingRun) -> list[str]:
    """What the log begins with: device, precision, sizes, dataset, network."""
    configuration, plan = trainer.configuration, trainer.configuration.training
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    network = type(trainer.network).__name__ if trainer.has_custom_network else configuration.architecture.name
    lines = [f"Device: {trainer.device}", f"AMP: {autocast_type(trainer.device, plan.mixed_precision) is not None}"]
    if trainer.ranks.size > 1:
        lines.append(f"Processes: {trainer.ranks.size}, which share every batch of {plan.batch_size}")
    if trainer.sample_counts:
        lines.append("Train samples: {train}, Val samples: {val}".format(**trainer.sample_counts))
    return [
        *lines,
        f"{trainer.plans.dataset_name}, {trainer.configuration_name}, fold {trainer.fold}, trainer {trainer.name}"
        + (f", from {trainer.source}" if trainer.source else ""),
        f"Network {network}: {parameters:,} parameters; grid {'x'.join(map(str, configuration.grid))} "
        f"at {' x '.join(f'{s:.3g}' for s in configuration.spacing)} {trainer.plans.unit}; "
        f"{trainer.num_epochs} epochs of {plan.iterations_per_epoch} iterations",
        *trainer.notes,
    ]


def debug_information(trainer: TrainingRun) -> dict[str, Any]:
    """What ``debug.json`` holds: the resolved configuration, the network and what made them."""
    return {
        **run_record(),
        "torch_version": str(torch.__version__),
        "trainer": trainer.name,
        SOURCE: trainer.source,
        "dataset": trainer.plans.dataset_name,
        "plans": trainer.plans.plans_name,
        "configuration_name": trainer.configuration_name,
        "fold": trainer.fold,
        "device": str(trainer.device),
        "overrides": trainer.overrides,
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "configuration": to_mapping(trainer.configuration),
        "network": str(trainer.network).splitlines(),
    }


def headline(summary: Mapping[str, Any]) -> str:
    """The means of a validation summary in one line."""
    foreground = summary.get("foreground_mean", {})  # of label maps; beside Dice and IoU, it counts voxels
    means = {name: foreground[name] for name in ("Dice", "IoU", "MAE", "PSNR", "SSIM") if name in foreground} if foreground else summary.get("mean", {})
    said = ", ".join(f"{name} {value:.4f}" for name, value in means.items() if isinstance(value, float) and not math.isnan(value))
    counts = summary.get("counts", {})
    without = f" ({counts['pairs_without_labels']} of {counts['pairs']} pairs without labels)" if "pairs_without_labels" in counts else ""
    return (said or "see validation_summary.json") + without
