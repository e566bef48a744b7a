"""Auxiliary targets of ``dataset.json``: what they are, their losses, and how they come to coarser levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.target_spec import LossEntry, Output, label_targets, outputs_of
from nnreg.errors import DatasetError, did_you_mean
from nnreg.losses import LOSSES, build_loss
from nnreg.tasks.dense_prediction import derived
from nnreg.typed import from_mapping

PREFIX = "derived_"  # of their entries in a batch
KINDS = ("distance_transform", "surface_normals", "structure_tensor", "inplane_direction")
UNIT_VECTORS = ("surface_normals", "inplane_direction")
CHOICES = {"type": KINDS, "distance_type": ("signed", "inside", "outside"), "compute_from": ("sdt", "binary")}


@dataclass(frozen=True)
class AuxiliaryTarget:
    """An entry of ``auxiliary_tasks``.

    Attributes
    ----------
    type
        One of `KINDS`.
    losses
        By default one that fits the type.
    loss_weight
        Of all its losses beside the main one's.
    distance_type, compute_from, grad_sigma, tensor_sigma
        See :mod:`nnreg.tasks.dense_prediction.derived`.
    source_target
        Whose labels it is derived from; the first target's if it names none.
    out_channels, ds_interpolation
        Understood for files made elsewhere: the type gives the channels, coarser levels are means of what is known.
    """

    type: str
    losses: tuple[LossEntry, ...] = ()
    loss_weight: float = 0.1
    distance_type: str = "signed"
    compute_from: str = "sdt"
    grad_sigma: float = 1.0
    tensor_sigma: float = 1.5
    source_target: str = ""
    out_channels: int | None = None
    ds_interpolation: str = "linear"

    def channels(self, ndim: int) -> int:
        """Components per voxel."""
        return {"distance_transform": 1, "structure_tensor": ndim * (ndim + 1) // 2}.get(self.type, ndim)

    def entries(self) -> tuple[LossEntry, ...]:
        """Its losses, or the one that fits."""
        fitting = {"distance_transform": "signed_distance" if self.distance_type == "signed" else "masked_mse", "structure_tensor": "masked_mse"}
        invariant = {"sign_invariant": True} if self.type == "inplane_direction" else {}
        return self.losses or (LossEntry(fitting.get(self.type, "cosine"), kwargs=invariant),)

    def derive(self, labels: Tensor, foreground: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """(channels, *patch), float32, from labels (1, *patch); unknown (-100) where labels are neither background nor `foreground`."""
        values = labels[0].numpy()
        mask = np.isin(values, foreground)
        step = [value / min(spacing) for value in spacing]
        tensor = {"compute_from": self.compute_from, "grad_sigma": self.grad_sigma, "tensor_sigma": self.tensor_sigma}
        options: dict[str, Any] = {"distance_transform": {"distance_type": self.distance_type}, "surface_normals": {}}.get(self.type, tensor)
        found = getattr(derived, self.type)(mask, step, **options)
        return torch.from_numpy(np.where(mask | (values <= 0), found, np.float32(derived.UNKNOWN)))


def auxiliary_targets(spec: DatasetSpec) -> dict[str, AuxiliaryTarget]:
    """The auxiliary targets of a dataset, by name.

    Raises
    ------
    DatasetError
        Unknown key, type, choice or loss; a name that a target has; of several targets a source that is none of them.
    """
    found = {}
    for name, content in spec.auxiliary_tasks.items():
        where = f"{FILE_NAME}: auxiliary_tasks.{name}"
        target = from_mapping(AuxiliaryTarget, content, where=where, error=DatasetError)
        for key, valid in CHOICES.items():
            if getattr(target, key) not in valid:
                raise DatasetError(f"{where}.{key} {getattr(target, key)!r} is unknown; {did_you_mean(getattr(target, key), valid)}")
        for entry in target.losses:
            if entry.name not in LOSSES or getattr(LOSSES[entry.name], "kind", "regression") != "regression":
                fitting = [other for other, made in LOSSES.items() if getattr(made, "kind", None) == "regression"]
                raise DatasetError(f"{where}.losses {entry.name!r} is no loss of derived maps; {did_you_mean(entry.name, fitting)}")
        if name in spec.targets:
            raise DatasetError(f"{where}: {name!r} is a target too. Give one of them another name.")
        sources = label_targets(spec)
        if not sources:
            raise DatasetError(f"{where}: is derived from labels, but no target has any. Take it out.")
        if len(spec.targets) > 1 and target.source_target not in sources:
            raise DatasetError(f"{where}.source_target {target.source_target!r} is no target of labels; {did_you_mean(target.source_target, sources)}")
        if not name.isidentifier():
            raise DatasetError(f"{where}: the name becomes a part of a network. Use letters, digits and underscores.")
        found[name] = target
    return found


@dataclass(frozen=True)
class DerivedMaps:
    """Derives all auxiliary targets of a patch.

    Attributes
    ----------
    targets : by name
    sources : what labels mean, by the name of the target, in the order of the labels' channels
    spacing : of the patch
    """

    targets: dict[str, AuxiliaryTarget]
    sources: dict[str, Output]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, spec: DatasetSpec, spacing: Sequence[float]) -> DerivedMaps:
        """All auxiliary targets of a dataset."""
        return cls(auxiliary_targets(spec), outputs_of(spec), tuple(spacing))

    def __call__(self, labels: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """``derived_NAME`` to (channels, *patch), float32, from labels (T, *patch); unknown (-100) where `mask` (T, *patch) is false."""
        result = {}
        for name, target in self.targets.items():
            channel = source_channel(target, self.sources)
            source = list(self.sources.values())[channel]
            foreground = source.values[1:] if isinstance(source, LabelManager) else ()
            found = target.derive(labels[channel : channel + 1], foreground, self.spacing)
            result[PREFIX + name] = found if mask is None else torch.where(mask[channel], found, derived.UNKNOWN)
        return result


def source_channel(target: AuxiliaryTarget, sources: Mapping[str, Any]) -> int:
    """Which of the targets it is derived from; one that a dataset of a single target does not have is understood as that one."""
    return list(sources).index(target.source_target) if target.source_target in sources else 0


class AuxiliaryLosses(nn.Module):
    """Losses of all auxiliary targets at every level.

    Parameters
    ----------
    targets
        By name.
    spacing
        Of the patch, in any unit: distances are in its smallest step.
    """

    def __init__(self, targets: Mapping[str, AuxiliaryTarget], spacing: Sequence[float]) -> None:
        super().__init__()
        self.targets, self.step = dict(targets), [value / min(spacing) for value in spacing]
        self.epoch = 0

    @property
    def splits_over_ranks(self) -> bool:
        """Whether all losses do; see :mod:`nnreg.losses.ranks`."""
        return all(getattr(LOSSES[entry.name], "splits_over_ranks", False) for target in self.targets.values() for entry in target.entries())

    def set_epoch(self, epoch: int) -> None:
        """Of the training, counted from 0; losses may begin late."""
        self.epoch = epoch

    def forward(
        self, outputs: Mapping[str, Sequence[Tensor]], batch: Mapping[str, Tensor], weights: Sequence[float], logits: Mapping[str, Sequence[Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum over targets and levels, and each target's detached loss at the finest.

        Parameters
        ----------
        outputs
            Name to maps (B, channels, *level), finest first.
        batch
            Has each target's map as ``derived_NAME`` (B, channels, *patch).
        weights
            Of the levels.
        logits
            Of the labels, per level, by the name of their target.
        """
        of_targets = list(logits.values())
        total, terms = of_targets[0][0].new_zeros((), dtype=torch.float32), {}
        for name, target in self.targets.items():
            truth, source = batch[PREFIX + name], of_targets[source_channel(target, logits)]
            for level, (prediction, weight) in enumerate(zip(outputs[name], weights, strict=True)):
                if weight == 0:
                    continue
                coarse, known = at_level(truth, prediction.shape[2:], unit=target.type in UNIT_VECTORS)
                value = self._loss(target, prediction, coarse, known, source[level], truth.shape[2:])
                total = total + target.loss_weight * weight * value
                if level == 0:
                    terms[f"{name}_loss"] = value.detach()
        return total, terms

    def _loss(self, target: AuxiliaryTarget, prediction: Tensor, truth: Tensor, known: Tensor, logits: Tensor, full: Sequence[int]) -> Tensor:
        total = prediction.new_zeros((), dtype=torch.float32)
        for entry in target.entries():
            if self.epoch >= entry.start_epoch:
                kwargs = dict(entry.kwargs)
                if entry.name in ("signed_distance", "SignedDistanceLoss"):
                    # distances stay those of the full resolution: a coarse voxel is a longer step
                    kwargs.setdefault("spacing", tuple(step * size / kept for step, size, kept in zip(self.step, full, truth.shape[2:], strict=True)))
                total = total + entry.weight * build_loss(entry.name, **kwargs)(prediction, truth, known, source_pred=logits)
        return total


def at_level(truth: Tensor, shape: Sequence[int], *, unit: bool, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A map (B, C, *patch) at a coarser resolution, the mean of what is `known` there, and where that is at least half (B, 1, *shape)."""
    known = (truth != derived.UNKNOWN if known is None else known).all(dim=1, keepdim=True)
    if truth.shape[2:] == tuple(shape):
        return truth, known
    pool = nnf.adaptive_avg_pool3d if truth.ndim == 5 else nnf.adaptive_avg_pool2d
    share = pool(known.to(truth.dtype), tuple(shape))  # type: ignore[arg-type]  # as many axes as the pooling has
    mean = pool(torch.where(known, truth, 0.0), tuple(shape)) / share.clamp(min=1e-6)  # type: ignore[arg-type]
    if unit:
        length = mean.norm(dim=1, keepdim=True)
        mean = torch.where(length > 0.5, mean / length.clamp(min=1e-6), 0.0)  # vectors that cancel each other say nothing
    return mean, share >= 0.5
