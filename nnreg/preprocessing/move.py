"""Plans of one dataset for another: so that both are preprocessed alike and one's network can start from the other's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nnreg.errors import PlansError
from nnreg.planning.dense_prediction import settings
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.planning.plans import Plans
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.plans import RegistrationConfiguration, registration_plans
from nnreg.planning.registration.rules import alignment
from nnreg.preprocessing.plan_files import Note, Progress, read_plans, silent, unheard
from nnreg.task import TASKS, imported
from nnreg.workspace import Workspace


def move_plans(
    workspace: Workspace,
    source: int | str,
    target: int | str,
    *,
    source_plans: str = "nnRegPlans",
    target_plans: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    on_note: Note = unheard,
) -> tuple[Plans, Path]:
    """Copy the plans of `source` to `target`.

    Everything is kept but what belongs to the target's own images: its name, the folders of its arrays, the frame its cases are aligned to, and in dense
    prediction what its labels need: losses of labels or of regions, values of continuous targets; in registration no term of labels or keypoints that no case
    of the target has.

    Parameters
    ----------
    source, target
        Datasets, by id or name; a target that was not measured for the task of the plans is measured.
    source_plans, target_plans
        Names of the plans files; the target's is the source's if absent.
    overwrite
        Replace plans of that name.
    progress, on_note
        Of measuring; hears in a sentence what is unusual of the target's splits.

    Raises
    ------
    PlansError
        If the plans are missing, images have other axes or channels, or plans of that name exist.
    """
    plans = read_plans(workspace.preprocessed_folder(source), source_plans, workspace.dataset_name(source))
    name = target_plans or source_plans
    dataset = workspace.dataset_name(target)
    path = workspace.preprocessed_folder(target) / f"{name}.json"
    if path.exists() and not overwrite:
        raise PlansError(f"{path}: exists. Name other plans with -tp, or replace them with --overwrite.")
    fingerprint = _fingerprint(workspace, target, plans, progress)
    if isinstance(fingerprint, Fingerprint):
        moved = _registration(plans, fingerprint)
    elif isinstance(fingerprint, DenseFingerprint) and isinstance(plans, DensePlans):
        moved = _dense(plans, fingerprint)
    else:
        raise PlansError(f"{source_plans} of {plans.dataset_name}: plans of the task {plans.task} cannot be moved. Plan {dataset} by itself.")
    moved = moved.replace(
        dataset_name=dataset,
        plans_name=name,
        configurations={
            key: dataclasses.replace(configuration, data_identifier=_renamed(configuration.data_identifier, plans, name))
            for key, configuration in moved.configurations.items()
        },
        because=moved.because | {"moved": f"from {plans.dataset_name}"},
    )
    moved.write(path)
    imported(TASKS[plans.task].pipeline).keep_files(workspace, target, on_note)
    return moved, path


def _fingerprint(workspace: Workspace, dataset: int | str, plans: Plans, progress: Progress) -> Any:
    """What was measured of a dataset for the task of the plans; measured now if it was not."""
    entry = TASKS[plans.task]
    path = workspace.preprocessed_folder(dataset) / imported(entry.fingerprint_file)
    if path.is_file():
        return imported(entry.fingerprint).read(path)
    return imported(entry.pipeline).fingerprint_dataset(workspace, dataset, progress=progress)


def _registration(plans: Plans, fingerprint: Fingerprint) -> Plans:
    """The target's own frame, what its cases are aligned to, and supervision by what it has."""
    _check_axes(plans, fingerprint.dataset_name, fingerprint.ndim, fingerprint.channel_names)
    frame, reference = alignment.alignment_target(fingerprint), alignment.reference_case(fingerprint)
    because = plans.because | {"alignment_target": frame.because, "reference_case": reference.because}
    planned = registration_plans(plans)
    configurations = {name: _supervised(configuration, fingerprint) for name, configuration in planned.configurations.items()}
    own = {"frame_offset": None, "grid_within_image": False} if frame.value != planned.alignment_target else {}
    return planned.replace(alignment_target=frame.value, reference_case=reference.value, because=because, configurations=configurations, **own)


def _supervised(configuration: RegistrationConfiguration, fingerprint: Fingerprint) -> RegistrationConfiguration:
    """Without the planned terms of labels or keypoints that no case has; labels of some cases are enough for the others."""
    images = fingerprint.images.values()
    absent = {"soft_dice": not any(image.labels for image in images), "keypoints": not any(image.keypoints for image in images)}
    kept = tuple(term for term in configuration.training.supervision if not absent.get(term.name, False))
    if kept == configuration.training.supervision:
        return configuration
    told = f"without {' and '.join(name for name, gone in absent.items() if gone)}: no case of {fingerprint.dataset_name} has what the term compares"
    training = dataclasses.replace(configuration.training, supervision=kept)
    return dataclasses.replace(configuration, training=training, because=configuration.because | {"training.supervision": told})


def _dense(plans: DensePlans, fingerprint: DenseFingerprint) -> DensePlans:
    """Losses for the kind of labels the target has, and values of continuous targets that the source does not know."""
    slices = all(image.shape_after_crop[0] == 1 for image in fingerprint.images.values())
    axes = max(configuration.ndim for configuration in plans.configurations.values())
    _check_axes(plans, fingerprint.dataset_name, min(axes, 2) if slices else axes, fingerprint.channel_names)
    configurations = {name: _with_losses(configuration, fingerprint) for name, configuration in plans.configurations.items()}
    return plans.replace(configurations=configurations, targets={name: plans.targets.get(name, values) for name, values in fingerprint.maps.items()})


def _with_losses(configuration: DenseConfiguration, fingerprint: DenseFingerprint) -> DenseConfiguration:
    """Terms that the planner chose for another kind of labels give way to those for the target's; terms that someone wrote stay."""
    kinds = (dataclasses.replace(fingerprint, regions=regions, heads=heads) for regions in (False, True) for heads in (0, fingerprint.heads + 1))
    planned = settings.loss(fingerprint, configuration.batch_dice)
    if configuration.training.supervision not in [settings.loss(kind, configuration.batch_dice).value for kind in kinds]:
        return configuration
    monitor = settings.monitor(fingerprint)
    training = dataclasses.replace(configuration.training, supervision=planned.value, monitor=monitor.value)
    because = configuration.because | {"training.supervision": planned.because, "training.monitor": monitor.because}
    return dataclasses.replace(configuration, training=training, because=because)


def _check_axes(plans: Plans, dataset: str, axes: int, channels: tuple[str, ...]) -> None:
    planned = max(configuration.ndim for configuration in plans.configurations.values())
    if axes != planned:
        raise PlansError(f"{dataset}: its images have {axes} axes, the plans of {plans.dataset_name} are for {planned}. Plan it by itself.")
    wanted = plans.channel_names
    if len(wanted) != len(channels):
        raise PlansError(
            f"{dataset}: has {len(channels)} channels, the plans of {plans.dataset_name} are for {len(wanted)} ({', '.join(wanted)}). Plan it by itself."
        )


def _renamed(identifier: str, plans: Plans, name: str) -> str:
    """Folder of arrays in the target: of these plans alone, even where the source's plans share the arrays of others."""
    endings = [key for key in plans.configurations if identifier.endswith(f"_{key}")]
    return f"{name}_{max(endings, key=len)}" if endings else f"{name}_{identifier}"
