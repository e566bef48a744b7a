"""Channels and activation of targets that a file does not give: told by the images and by what the losses take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nnreg.dataset.target_spec import LossEntry
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.losses import LOSSES, DenseLoss, build_loss
from nnreg.training.importers.dense_prediction.target_file import Auxiliary, Target

ACTIVATIONS = ("sigmoid", "softmax", "none")
AUXILIARY = ("distance_transform", "surface_normals", "structure_tensor", "inplane_direction")
CHOICES: Mapping[str, Sequence[str]] = {
    "type": AUXILIARY,
    "distance_type": ("signed", "inside", "outside"),
    "compute_from": ("sdt", "binary"),
    "ds_interpolation": ("linear", "nearest"),
}
DERIVED = "regression"  # kind of the losses of derived maps
EDGE = 4  # voxels per axis on which a loss is tried


def with_outputs(name: str, target: Target, channels: int, ndim: int, where: str) -> Target:
    """The target with channels and activation.

    Channels that are not given are those of the images. Without an activation, it is the one that the losses can be computed with; where that is
    either, one channel is a sigmoid, several are a softmax. A softmax needs two channels, so it takes no single one from the images.

    Raises
    ------
    ConfigurationError
        Unknown activation or loss, channels given twice, losses that do not fit the activation, the channels or each other.
    """
    where = f"{where}: targets.{name}"
    if target.activation not in (*ACTIVATIONS, None):
        raise ConfigurationError(f"{where}.activation {target.activation!r} is unknown; {did_you_mean(str(target.activation), ACTIVATIONS)}")
    if None not in (target.channels, target.out_channels) and target.channels != target.out_channels:
        raise ConfigurationError(f"{where}: channels is {target.channels}, out_channels {target.out_channels}. Keep one of them.")
    given = target.channels if target.channels is not None else target.out_channels
    if given is not None and given < 1:
        raise ConfigurationError(f"{where}: channels is {given}, expected 1 or more.")
    kinds = {_kind(entry, f"{where}.losses") for entry in target.losses}
    if kinds == {DERIVED} or (target.activation == "none" and not kinds):
        return _of_values(target, given or channels, where)
    count = channels if given is None else given
    wanted = target.activation if target.activation in ("sigmoid", "softmax") else None
    reasons = []
    for activation in (wanted,) if wanted else ("sigmoid", "softmax") if count == 1 else ("softmax", "sigmoid"):
        outputs = 2 if activation == "softmax" and given is None and count == 1 else count
        reason = _refused(target.losses, activation == "sigmoid", outputs, ndim)
        if reason is None:
            return dataclasses.replace(target, activation=activation, channels=None, out_channels=outputs)
        reasons.append(f"{activation}: {reason}")
    raise ConfigurationError(f"{where}: the losses do not go with {count} channels and {'; '.join(reasons)}")


def _of_values(target: Target, channels: int, where: str) -> Target:
    if target.activation not in (None, "none"):
        raise ConfigurationError(f"{where}: activation is {target.activation!r}, but {target.losses[0].name} compares values. Use activation 'none'.")
    return dataclasses.replace(target, activation="none", channels=None, out_channels=channels)


def _kind(entry: LossEntry, where: str) -> str:
    if entry.name not in LOSSES:
        raise ConfigurationError(f"{where} {entry.name!r} is unknown; {did_you_mean(entry.name, _names(DenseLoss.kind, DERIVED))}")
    kind = str(getattr(LOSSES[entry.name], "kind", ""))
    if kind not in (DenseLoss.kind, DERIVED):
        raise ConfigurationError(f"{where} {entry.name!r} is no loss of dense prediction; {did_you_mean(entry.name, _names(DenseLoss.kind, DERIVED))}")
    return kind


def _names(*kinds: str) -> list[str]:
    return [name for name, made in LOSSES.items() if getattr(made, "kind", None) in kinds]


def _refused(losses: Sequence[LossEntry], regions: bool, channels: int, ndim: int) -> str | None:
    """Why the losses cannot be of such outputs; None if they can: each is computed once, on background."""
    if not regions and channels < 2:
        return "needs 2 channels or more, background being one."
    shape = (EDGE,) * ndim
    truth = torch.zeros(1, channels if regions else 1, *shape, dtype=torch.bool if regions else torch.int16)
    for entry in losses:
        reason = _fails(lambda entry=entry: build_loss(entry.name, **{"regions": regions, **entry.kwargs})(torch.zeros(1, channels, *shape), truth))  # type: ignore[misc]
        if reason is not None:
            return f"{entry.name}: {reason}"
    return None


def _fails(attempt: Callable[[], Tensor]) -> str | None:
    try:
        attempt()
    except ConfigurationError as error:
        return str(error)
    return None


def check_auxiliary(tasks: Mapping[str, Auxiliary], targets: Mapping[str, Target], ndim: int, where: str) -> list[str]:
    """Refuse auxiliary tasks that cannot be trained; returns a sentence for each value that has no effect.

    Raises
    ------
    ConfigurationError
        Unknown type, choice, loss or source; a name that a target has; a loss that does not fit the type.
    """
    notes = []
    for name, task in tasks.items():
        here = f"{where}: auxiliary_tasks.{name}"
        for key, valid in CHOICES.items():
            if getattr(task, key) not in valid:
                raise ConfigurationError(f"{here}.{key} {getattr(task, key)!r} is unknown; {did_you_mean(str(getattr(task, key)), valid)}")
        if targets and task.source_target not in targets:
            raise ConfigurationError(f"{here}.source_target {task.source_target!r} is no target; {did_you_mean(task.source_target, targets)}")
        if task.source_target in targets and targets[task.source_target].activation == "none":
            raise ConfigurationError(f"{here}.source_target {task.source_target!r} has continuous values. Name a target of labels.")
        if name in targets or not name.isidentifier():
            raise ConfigurationError(f"{here}: {'is the name of a target too' if name in targets else 'use letters, digits and underscores'}. Rename it.")
        notes += _auxiliary_losses(task, ndim, here)
    return notes


def _auxiliary_losses(task: Auxiliary, ndim: int, here: str) -> list[str]:
    """Compute each loss once on maps of the task's channels."""
    channels = {"distance_transform": 1, "structure_tensor": ndim * (ndim + 1) // 2}.get(task.type, ndim)
    maps = torch.ones(1, channels, *(EDGE,) * ndim)
    known, logits = torch.ones_like(maps[:, :1], dtype=torch.bool), torch.zeros_like(maps[:, :1])
    for entry in task.losses:
        if _kind(entry, f"{here}.losses") != DERIVED:
            raise ConfigurationError(f"{here}.losses {entry.name!r} is no loss of derived maps; {did_you_mean(entry.name, _names(DERIVED))}")
        reason = _fails(lambda entry=entry: build_loss(entry.name, **entry.kwargs)(maps, maps, known, source_pred=logits))  # type: ignore[misc]
        if reason is not None:
            raise ConfigurationError(f"{here}.losses {entry.name!r} does not go with {channels} channels: {reason}")
    notes = []
    if task.out_channels not in (None, channels):
        notes.append(f"{here}.out_channels {task.out_channels}: the type {task.type} has {channels} in {ndim}D")
    if task.ds_interpolation != "linear":
        notes.append(f"{here}.ds_interpolation {task.ds_interpolation}: coarser levels learn the mean of what is known")
    signed = [entry.name for entry in task.losses if entry.name in ("SignedDistanceLoss", "signed_distance")]
    if signed and task.type == "distance_transform" and task.distance_type != "signed":
        notes.append(f"{here}: {signed[0]} is meant for distance_type signed; MaskedMSELoss and WeightedSmoothL1Loss are for {task.distance_type}")
    return notes
