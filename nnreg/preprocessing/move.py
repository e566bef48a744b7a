"""Plans of one dataset for another: so that both are preprocessed alike and one's network can start from the other's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nnreg.errors import PlansError
from nnreg.planning.plans import Plans
from nnreg.planning.registration.fingerprint import FILE_NAME, Fingerprint
from nnreg.planning.registration.rules import alignment
from nnreg.preprocessing.plan_files import read_plans
from nnreg.workspace import Workspace


def move_plans(
    workspace: Workspace, source: int | str, target: int | str, *, source_plans: str = "nnRegPlans", target_plans: str | None = None, overwrite: bool = False
) -> tuple[Plans, Path]:
    """Copy the plans of `source` to `target`.

    Everything is kept but what belongs to the target's own images: its name, the folders of its arrays, and the frame its cases are aligned to.

    Parameters
    ----------
    source, target
        Datasets, by id or name; the target must have been measured.
    source_plans, target_plans
        Names of the plans files; the target's is the source's if absent.
    overwrite
        Replace plans of that name.

    Raises
    ------
    PlansError
        If either is missing, images have other axes or channels, or plans of that name exist.
    """
    plans = read_plans(workspace.preprocessed_folder(source), source_plans, workspace.dataset_name(source))
    name = target_plans or source_plans
    folder, dataset = workspace.preprocessed_folder(target), workspace.dataset_name(target)
    path = folder / f"{name}.json"
    if not (folder / FILE_NAME).is_file():
        raise PlansError(f"{folder / FILE_NAME}: does not exist. Run nnreg_extract_fingerprint -d {dataset[7:10]} first.")
    if path.exists() and not overwrite:
        raise PlansError(f"{path}: exists. Name other plans with -tp, or replace them with --overwrite.")
    fingerprint = Fingerprint.read(folder / FILE_NAME)
    if not plans.registers_pairs:
        raise PlansError(f"{source_plans} of {plans.dataset_name}: are for {plans.task}, only plans of registration can be moved. Plan {dataset} by itself.")
    _check(plans, fingerprint)
    frame, reference = alignment.alignment_target(fingerprint), alignment.reference_case(fingerprint)
    moved = plans.replace(
        dataset_name=dataset,
        plans_name=name,
        alignment_target=frame.value,
        reference_case=reference.value,
        configurations={
            key: dataclasses.replace(configuration, data_identifier=_renamed(configuration.data_identifier, plans.plans_name, name))
            for key, configuration in plans.configurations.items()
        },
        because=plans.because | {"alignment_target": frame.because, "reference_case": reference.because, "moved": f"from {plans.dataset_name}"},
    )
    moved.write(path)
    return moved, path


def _check(plans: Plans, fingerprint: Fingerprint) -> None:
    axes = next(iter(plans.configurations.values())).ndim
    if axes != fingerprint.ndim:
        raise PlansError(
            f"{fingerprint.dataset_name}: its images have {fingerprint.ndim} axes, the plans of {plans.dataset_name} are for {axes}. Plan it by itself."
        )
    wanted, found = plans.channel_names, fingerprint.channel_names
    if len(wanted) != len(found):
        raise PlansError(
            f"{fingerprint.dataset_name}: has {len(found)} channels, the plans of {plans.dataset_name} are for {len(wanted)} ({', '.join(wanted)}). "
            "Plan it by itself."
        )


def _renamed(identifier: str, before: str, after: str) -> str:
    return after + identifier.removeprefix(before) if identifier.startswith(before) else identifier
