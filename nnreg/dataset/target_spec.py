"""Entries of ``targets`` in ``dataset.json``: what each output of a dense prediction is, its labels and its losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nnreg.dataset.continuous import Continuous
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import DatasetError
from nnreg.typed import from_mapping

WHOLE = ""  # the target of a dataset that names none: its labels
Output = LabelManager | Continuous
"""What the outputs of a target mean."""
OLD_NAMES = {"weight": "loss_weight", "channels": "out_channels"}  # what files made elsewhere call a key


@dataclass(frozen=True)
class LossEntry:
    """A registered loss of a target; it begins with `start_epoch`, counted from 0."""

    name: str
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)
    start_epoch: int = 0


@dataclass(frozen=True)
class Target:
    """An entry of ``targets``. What it does not say is as the dataset has it.

    Attributes
    ----------
    kind
        ``labels``, or ``regression``: continuous values.
    labels, regions_class_order, ignore_label
        As the keys of the dataset.
    activation
        ``softmax``: labels exclude each other; ``sigmoid``: each is told by itself, as regions are; None: as the labels are; ``none``: as kind ``regression``.
    out_channels
        Number of network outputs: of a regression (1 unless it says more), and in files made elsewhere of a target without labels of its own.
    losses
        In place of the planned ones.
    loss_weight
        Of all its losses beside those of other targets.
    loss_on_label_only
        As the training option of that name, for this target.
    """

    kind: Literal["labels", "regression"] = "labels"
    labels: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] | None = None
    ignore_label: int | None = None
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    out_channels: int | None = None
    losses: tuple[LossEntry, ...] = ()
    loss_weight: float = 1.0
    loss_on_label_only: bool = False

    @property
    def says_what_labels_are(self) -> bool:
        """Whether its outputs may be of another kind than the dataset's."""
        return bool(self.labels or self.activation or self.out_channels or self.is_continuous)

    @property
    def is_continuous(self) -> bool:
        """Whether its values are numbers, not labels."""
        return self.kind == "regression"


def targets_of(spec: DatasetSpec, where: str = FILE_NAME) -> dict[str, Target]:
    """The targets of a dataset by name, in the order of the file; `WHOLE` where none is named.

    Raises
    ------
    DatasetError
        Unknown key, a value of the wrong type or out of range, a name that cannot be part of a file's and a network's.
    """
    found = {}
    for name, content in spec.targets.items():
        here = f"{where}: targets.{name}"
        if not name.isidentifier():
            raise DatasetError(f"{here}: the name becomes a part of file names and of a network. Use letters, digits and underscores.")
        if isinstance(content, Mapping):
            content = {OLD_NAMES[key] if key in OLD_NAMES and OLD_NAMES[key] not in content else key: value for key, value in content.items()}
        target = from_mapping(Target, content, where=here, error=DatasetError)
        nested = next((other for other in spec.targets if other != name and name.endswith(f"_{other}")), None)
        if nested is not None:
            raise DatasetError(f"{here}: ends with '_{nested}', so CASE_{name} could be of the target {nested!r} too. Rename one of them.")
        if target.activation == "none" or target.is_continuous:
            target = _continuous(target, here)
        if target.loss_weight < 0 or any(entry.weight < 0 or entry.start_epoch < 0 for entry in target.losses):
            raise DatasetError(f"{here}: loss_weight, and weight and start_epoch of losses, must be 0 or more.")
        found[name] = target
    return found or {WHOLE: Target()}


def outputs_of(spec: DatasetSpec, where: str = FILE_NAME) -> dict[str, Output]:
    """What the network's outputs of every target mean, by its name.

    Raises
    ------
    DatasetError
        If a target is wrong (:func:`targets_of`) or its labels are (:meth:`LabelManager.of`), or it asks for another number of outputs than its labels need.
    """
    return {
        name: Continuous(target.out_channels or 1) if target.is_continuous else _manager(spec, target, f"{where}: targets.{name}" if name else where)
        for name, target in targets_of(spec, where).items()
    }


def label_managers(spec: DatasetSpec, where: str = FILE_NAME) -> dict[str, LabelManager]:
    """:func:`outputs_of` those targets that have labels."""
    return {name: output for name, output in outputs_of(spec, where).items() if isinstance(output, LabelManager)}


def previous_channels(spec: DatasetSpec) -> tuple[tuple[int, ...], ...]:
    """In a cascade: by target that has labels, the values that become channels of the second stage's input."""
    return tuple(labels.values[1:] for labels in label_managers(spec).values())


def label_targets(spec: DatasetSpec) -> tuple[str, ...]:
    """Names of the targets that have labels."""
    return tuple(name for name, target in targets_of(spec).items() if not target.is_continuous)


def names_of_labels(spec: DatasetSpec, target: str) -> dict[str, int | tuple[int, ...]]:
    """Name to value, or values, of the labels of a target: its own, else those of the dataset; none of a continuous one."""
    found = targets_of(spec).get(target, Target())
    return {} if found.is_continuous else found.labels or spec.labels


def target_of(stem: str, targets: Collection[str]) -> str | None:
    """Of which target a file is whose name, without its ending, is `stem`: of the only one whatever it is called, of several as ``CASE_TARGET`` says, or none.

    Examples
    --------
    >>> target_of("a_ink", ["ink", "damage"]), target_of("a_b", ["ink"]), target_of("a_b", ["ink", "damage"])
    ('ink', 'ink', None)
    """
    if len(targets) == 1:
        return next(iter(targets))
    return next((target for target in targets if stem.endswith(f"_{target}")), None)


def case_of(stem: str, spec: DatasetSpec) -> str:
    """The case of a file whose name, without its ending, is `stem`: the inverse of :func:`stem_of_target`."""
    target = target_of(stem, spec.targets) if len(spec.targets) > 1 else None
    return stem if target is None else stem.removesuffix(f"_{target}")


def stem_of_target(case: str, target: str, several: bool) -> str:
    """File name, without its ending, of a target of a case: ``CASE`` of the only one, else ``CASE_TARGET``."""
    return f"{case}_{target}" if several else case


def _continuous(target: Target, where: str) -> Target:
    """The target as a regression; refused if it speaks of labels."""
    given = {"labels": target.labels, "regions_class_order": target.regions_class_order, "ignore_label": target.ignore_label}
    told = [key for key, value in given.items() if value not in ({}, None)]
    if target.activation in ("softmax", "sigmoid"):
        told.append("activation")
    if told:
        raise DatasetError(f"{where}: is a regression (continuous values), but {told[0]} speaks of labels. Leave {told[0]} out, or kind.")
    if target.out_channels is not None and target.out_channels < 1:
        raise DatasetError(f"{where}.out_channels is {target.out_channels}. Use 1 or more.")
    return dataclasses.replace(target, kind="regression", activation="none")


def _manager(spec: DatasetSpec, target: Target, where: str) -> LabelManager:
    labels, order, ignore = spec.labels, spec.regions_class_order, spec.ignore_label
    if target.labels:
        labels, order = target.labels, target.regions_class_order
    ignore = target.ignore_label if target.ignore_label is not None else ignore
    found = _activated(LabelManager.of(dataclasses.replace(spec, labels=labels, regions_class_order=order, ignore_label=ignore), where), target, where)
    if target.out_channels is None or target.out_channels == found.heads:
        return found
    if target.labels:
        raise DatasetError(f"{where}: out_channels is {target.out_channels}, its labels need {found.heads}. Leave out_channels out, or mend labels.")
    foreground = target.out_channels if target.activation == "sigmoid" else target.out_channels - 1
    if foreground < 1:
        raise DatasetError(f"{where}: out_channels is {target.out_channels}, softmax needs 2 or more. Use more, or activation 'sigmoid'.")
    return _activated(LabelManager(tuple(range(foreground + 1)), ignore=found.ignore), target, where)


def _activated(labels: LabelManager, target: Target, where: str) -> LabelManager:
    """With sigmoid, labels that exclude each other are regions of one value each."""
    if target.activation == "softmax" and labels.has_regions:
        raise DatasetError(f"{where}: activation is 'softmax', but labels holds regions, which may overlap. Use 'sigmoid', or leave activation out.")
    if target.activation != "sigmoid" or labels.has_regions:
        return labels
    values = labels.values[1:]
    return dataclasses.replace(labels, regions=values, region_values=values)
