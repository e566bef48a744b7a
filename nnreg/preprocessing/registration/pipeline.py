"""What the planning and preprocessing commands call: from a dataset's name to plans and arrays on disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.errors import PlansError
from nnreg.files import writable_folder
from nnreg.imageio.lazy import size_on_disk
from nnreg.parallel import default_processes
from nnreg.planning.hardware import accelerator_wanted, ram_gb
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.duration import Budget
from nnreg.planning.registration.extract import channel_names, extract_fingerprint
from nnreg.planning.registration.fingerprint import FILE_NAME, Fingerprint
from nnreg.planning.registration.planner import DEFAULT_MEMORY_GB, DEFAULT_PLANS_NAME, plan
from nnreg.planning.registration.plans import RegistrationPlans, registration_plans
from nnreg.planning.registration.rules.budget import PROPOSED
from nnreg.planning.registration.tuning import still_tuned
from nnreg.preprocessing.plan_files import Note, Progress, keep_dataset_files, known_configurations, read_plans, refuse_another_task, silent, unheard
from nnreg.preprocessing.registration.pairs import BUDGET_SECONDS, measure_pairs, pairs_digest, pairs_still_true
from nnreg.preprocessing.registration.run import preprocess
from nnreg.preprocessing.registration.speed import known_speeds, machine_speed, measured_as
from nnreg.workspace import Workspace

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset

RAM_SHARE = 0.75  # of the machine's memory, for a training step on its processor


def fingerprint_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    processes: int | None = None,
    verify: bool = False,
    clean: bool = False,
    pair_budget: float = BUDGET_SECONDS,
    progress: Progress = silent,
) -> Fingerprint:
    """Measure the images and some pairs of a raw dataset and keep the fingerprint; what has not changed is not measured again.

    Parameters
    ----------
    dataset
        Id or folder name.
    verify
        Check the integrity of the dataset first.
    clean
        Measure again in any case.
    pair_budget
        Seconds that registering a sample of the pairs may take; two are registered in any case, none with 0.

    Raises
    ------
    NnRegError
        If the dataset is missing, contradicts its dataset.json or cannot be measured.
    """
    raw, folder = _open(workspace, dataset)
    if verify:
        from nnreg.dataset import verify_dataset

        verify_dataset(raw, processes=processes or default_processes(), on_progress=progress("verifying")).require_sound()
    path = folder / FILE_NAME
    found = Fingerprint.read(path) if path.is_file() and not clean else None
    if found is not None and not _still_true(found, raw):
        found = None
    if found is not None and (pair_budget <= 0 or pairs_still_true(found, raw)):
        return found
    fingerprint = found or extract_fingerprint(raw, processes=processes or default_processes(), on_progress=progress("fingerprint"))
    if pair_budget > 0:
        measured = measure_pairs(raw, fingerprint, folder, seconds=pair_budget, clean=clean, on_progress=progress("pairs"))
        fingerprint = dataclasses.replace(fingerprint, pairs=measured)
    fingerprint.write(path)
    return fingerprint


def plan_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str = DEFAULT_PLANS_NAME,
    device: str = "auto",
    time_budget: float | None = None,
    on_note: Note = unheard,
) -> RegistrationPlans:
    """Plan a measured dataset and keep plans, dataset.json and splits. `on_note` hears in a sentence what is unusual (fewer folds than five).

    `time_budget` is the seconds that a training on this machine's processor may take, with its validation; the first time its speed is
    measured, for some seconds. `gpu_memory_target` is 8 GB if None; with a time budget at most three quarters of the machine's memory.
    `device` is where training would run: ``auto`` looks for a GPU on this machine. Without one, and without a budget, a training of an hour is planned where
    labels or keypoints teach, and `on_note` hears that the machine is measured for it.

    Raises
    ------
    PlansError
        If the dataset was not measured, or cannot be planned for, or the file holds plans of another task.
    """
    raw, folder = _open(workspace, dataset)
    fingerprint = read_fingerprint(raw, folder)
    planned = partial(plan, fingerprint, plans_name=plans_name, overwrite_target_spacing=overwrite_target_spacing)
    usual, on_processor = DEFAULT_MEMORY_GB, min(DEFAULT_MEMORY_GB, RAM_SHARE * ram_gb())
    usually = partial(planned, gpu_memory_target=usual if gpu_memory_target is None else gpu_memory_target)
    in_time = partial(planned, gpu_memory_target=on_processor if gpu_memory_target is None else gpu_memory_target)
    if time_budget is None:
        plans = usually(accelerator=accelerator_wanted(device))
        if not accelerator_wanted(device) and _worth_proposing(plans, usually):
            plans = _proposed(plans, in_time, workspace.preprocessed, on_note)
    else:
        # whether there is a GPU no longer matters: what is planned was measured to be feasible without
        speed = machine_speed(workspace.preprocessed, in_time())
        plans = in_time(time_budget=Budget(time_budget, speed))
    path = folder / f"{plans_name}.json"
    refuse_another_task(path, plans.task)
    plans = _still_tuned(plans, path, raw)
    plans.write(path)
    keep_dataset_files(raw, folder, on_note)
    return plans


def _worth_proposing(plans: RegistrationPlans, planned: Callable[..., RegistrationPlans]) -> bool:
    """Whether the processor's time is all that speaks against training: something teaches, and with a GPU it would be recommended."""
    return bool(plans.configuration(plans.to_train).training.supervision) and planned().recommended != OPTIMISE


def _proposed(plans: RegistrationPlans, planned: Callable[..., RegistrationPlans], folder: Path, on_note: Note) -> RegistrationPlans:
    """Plans for a training of an hour on this machine's processor; `plans`, with the reason, where none fits."""
    if measured_as(plans) not in known_speeds(folder):
        on_note("labels or keypoints can teach: measuring once how fast this machine's processor trains (a minute or two)")
    try:
        return planned(accelerator=False, time_budget=Budget(PROPOSED, machine_speed(folder, plans)))
    except PlansError as error:
        return plans.replace(because=plans.because | {"recommended": f"{plans.because['recommended']}: {error}"})


def _still_tuned(plans: RegistrationPlans, path: Path, raw: RawDataset) -> RegistrationPlans:
    """Plans made anew keep what ``nnreg_tune`` found for the ones they replace, as far as it still holds."""
    try:
        earlier = RegistrationPlans.read(path).tuning if path.is_file() else None
    except PlansError:
        # damaged, or of another version: that is why they are made anew
        return plans
    return plans if earlier is None else still_tuned(plans, earlier, pairs_digest(raw, earlier.pairs))


def preprocess_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    plans_name: str = DEFAULT_PLANS_NAME,
    configurations: Sequence[str] = (),
    processes: int | None = None,
    clean: bool = False,
    progress: Progress = silent,
) -> dict[str, Path]:
    """Preprocess a planned dataset.

    Returns
    -------
    dict
        Configuration to the folder of its arrays.

    Raises
    ------
    NnRegError
        If plans or fingerprint are missing or were made for another dataset, a configuration is unknown, or a case cannot be preprocessed.
    """
    raw, folder = _open(workspace, dataset)
    plans = registration_plans(read_plans(folder, plans_name, raw.name))
    fingerprint = read_fingerprint(raw, folder)
    names = tuple(configurations) or tuple(plans.configurations)
    if clean:
        for stale in (f"{plans_name}_alignment", *(plans.configuration(name).data_identifier for name in names)):
            shutil.rmtree(folder / stale, ignore_errors=True)
    keep_dataset_files(raw, folder, unheard)
    return preprocess(raw, fingerprint, plans, folder, configurations=names, processes=processes or default_processes(), on_progress=progress("preprocessing"))


def plan_and_preprocess(
    workspace: Workspace,
    dataset: int | str,
    *,
    configurations: Sequence[str] = (),
    processes: int | None = None,
    verify: bool = False,
    clean: bool = False,
    preprocess_too: bool = True,
    pair_budget: float = BUDGET_SECONDS,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str = DEFAULT_PLANS_NAME,
    device: str = "auto",
    time_budget: float | None = None,
    progress: Progress = silent,
    on_note: Note = unheard,
) -> RegistrationPlans:
    """Measure, plan and preprocess a dataset.

    Examples
    --------
    >>> plans = plan_and_preprocess(Workspace.resolve("brains"), 1)  # doctest: +SKIP
    >>> plans.recommended  # doctest: +SKIP
    '3d_fullres'
    """
    fingerprint_dataset(workspace, dataset, processes=processes, verify=verify, clean=clean, pair_budget=pair_budget, progress=progress)
    plans = plan_dataset(
        workspace,
        dataset,
        gpu_memory_target=gpu_memory_target,
        overwrite_target_spacing=overwrite_target_spacing,
        plans_name=plans_name,
        device=device,
        time_budget=time_budget,
        on_note=on_note,
    )
    if preprocess_too:
        known = known_configurations(plans, configurations)
        preprocess_dataset(workspace, dataset, plans_name=plans_name, configurations=known, processes=processes, clean=clean, progress=progress)
    return plans


def keep_files(workspace: Workspace, dataset: int | str, on_note: Note = unheard) -> None:
    """Keep dataset.json and splits beside plans that were not made from this dataset."""
    raw, folder = _open(workspace, dataset)
    keep_dataset_files(raw, folder, on_note)


def _open(workspace: Workspace, dataset: int | str) -> tuple[RawDataset, Path]:
    from nnreg.dataset import RawDataset

    name = workspace.dataset_name(dataset)
    raw = RawDataset.open(workspace.raw / name)
    return raw, writable_folder(workspace.preprocessed / name)


def read_fingerprint(raw: RawDataset, folder: Path) -> Fingerprint:
    """The fingerprint in `folder`.

    Raises
    ------
    PlansError
        If it is missing, damaged, or not of the dataset as it is now.
    """
    path, remedy = folder / FILE_NAME, f"Run nnreg_extract_fingerprint -d {raw.name[7:10]} first."
    if not path.is_file():
        raise PlansError(f"{path}: does not exist. {remedy}")
    fingerprint = Fingerprint.read(path)
    if fingerprint.dataset_name != raw.name:
        raise PlansError(f"{path}: was made for {fingerprint.dataset_name}, not for {raw.name}. {remedy}")
    if not _still_true(fingerprint, raw):
        raise PlansError(f"{path}: cases, files or pairs of {raw.name} have changed since it was made. {remedy}")
    return fingerprint


def _still_true(fingerprint: Fingerprint, raw: RawDataset) -> bool:
    """Whether the fingerprint is of the dataset as it is now: same cases, files of the same content, same pairs."""
    if tuple(fingerprint.images) != tuple(raw.cases) or fingerprint.pairing != raw.spec.pairing or fingerprint.atlas != raw.spec.atlas:
        return False
    if fingerprint.channel_names != channel_names(raw) or fingerprint.pair_count != len(raw.pairs()):
        return False
    same_size = all(fingerprint.images[case].file_bytes == _file_bytes(raw, case) for case in raw.cases)
    return same_size and all(fingerprint.images[case].digest in ("", raw.digest(case)) for case in raw.cases)


def _file_bytes(raw: RawDataset, case: str) -> int:
    """Size of the image files of a case; one that was removed since counts nothing, and so as a change."""
    return sum(size_on_disk(path) for path in raw.image_paths(case))
