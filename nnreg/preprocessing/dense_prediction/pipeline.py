"""From a dataset's name to fingerprint, plans and arrays of dense prediction on disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from nnreg.dataset import RawDataset
from nnreg.dataset.target_spec import targets_of
from nnreg.errors import PlansError
from nnreg.files import writable_folder
from nnreg.parallel import default_processes
from nnreg.planning.dense_prediction.fingerprint import FILE_NAME, DenseFingerprint
from nnreg.planning.dense_prediction.measure import is_current, measure_dense
from nnreg.planning.dense_prediction.planner import plan_dense
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.dense_prediction.presets import DEFAULT
from nnreg.preprocessing.dense_prediction.run import preprocess
from nnreg.preprocessing.plan_files import Note, Progress, keep_dataset_files, known_configurations, read_plans, refuse_another_task, silent, unheard
from nnreg.task import DENSE_PREDICTION
from nnreg.workspace import Workspace


def fingerprint_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    processes: int | None = None,
    verify: bool = False,
    clean: bool = False,
    progress: Progress = silent,
) -> DenseFingerprint:
    """Measure a raw dataset and keep the fingerprint; an earlier one is used again while the dataset has not changed.

    Raises
    ------
    NnRegError
        If the dataset is missing, contradicts its dataset.json or cannot be measured.
    """
    raw, folder = _open(workspace, dataset)
    processes = processes or default_processes()
    if verify:
        from nnreg.dataset import verify_dataset

        verify_dataset(raw, processes=processes, on_progress=progress("verifying")).require_sound()
    path = folder / FILE_NAME
    if path.is_file() and not clean:
        found = DenseFingerprint.read(path)
        if is_current(found, raw):
            return found
    fingerprint = measure_dense(raw, processes=processes, on_progress=progress("fingerprint"))
    fingerprint.write(path)
    return fingerprint


def plan_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    planner: str = DEFAULT.name,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    plans_name: str | None = None,
    on_note: Note = unheard,
) -> DensePlans:
    """Plan a measured dataset and keep plans, dataset.json and splits. `on_note` hears in a sentence what is unusual.

    Raises
    ------
    PlansError
        If the dataset was not measured, or has changed since, or cannot be planned for, or the file holds plans of another task.
    """
    raw, folder = _open(workspace, dataset)
    fingerprint = _read_fingerprint(raw, folder)
    plans = plan_dense(
        fingerprint,
        planner=planner,
        plans_name=plans_name,
        gpu_memory_target=gpu_memory_target,
        overwrite_target_spacing=overwrite_target_spacing,
        patch_size=patch_size,
    )
    path = folder / f"{plans.plans_name}.json"
    refuse_another_task(path, DENSE_PREDICTION)
    plans.write(path)
    keep_dataset_files(raw, folder, on_note)
    return plans


def plan_and_preprocess(
    workspace: Workspace,
    dataset: int | str,
    *,
    configurations: Sequence[str] = (),
    processes: int | None = None,
    verify: bool = False,
    clean: bool = False,
    preprocess_too: bool = True,
    planner: str = DEFAULT.name,
    gpu_memory_target: float | None = None,
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str | None = None,
    progress: Progress = silent,
    on_note: Note = unheard,
) -> DensePlans:
    """Measure, plan and preprocess a dataset."""
    fingerprint_dataset(workspace, dataset, processes=processes, verify=verify, clean=clean, progress=progress)
    plans = plan_dataset(
        workspace,
        dataset,
        planner=planner,
        gpu_memory_target=gpu_memory_target,
        overwrite_target_spacing=overwrite_target_spacing,
        plans_name=plans_name,
        on_note=on_note,
    )
    if preprocess_too:
        known = known_configurations(plans, configurations)
        preprocess_dataset(workspace, dataset, plans_name=plans.plans_name, configurations=known, processes=processes, clean=clean, progress=progress)
    return plans


def preprocess_dataset(
    workspace: Workspace,
    dataset: int | str,
    *,
    plans_name: str = DEFAULT.plans_name,
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
    plans = read_plans(folder, plans_name, raw.name)
    if not isinstance(plans, DensePlans):
        raise PlansError(
            f"{folder / plans_name}.json: plans of the task {plans.task}, expected {DENSE_PREDICTION}. Plan the dataset with --task {DENSE_PREDICTION}."
        )
    fingerprint = _read_fingerprint(raw, folder)
    names = tuple(configurations) or tuple(plans.configurations)
    if clean:
        for name in names:
            shutil.rmtree(folder / plans.configuration(name).data_identifier, ignore_errors=True)
    keep_dataset_files(raw, folder, unheard)
    return preprocess(raw, fingerprint, plans, folder, configurations=names, processes=processes or default_processes(), on_progress=progress("preprocessing"))


def keep_files(workspace: Workspace, dataset: int | str, on_note: Note = unheard) -> None:
    """Keep dataset.json and splits beside plans that were not made from this dataset."""
    raw, folder = _open(workspace, dataset)
    keep_dataset_files(raw, folder, on_note)


def _read_fingerprint(raw: RawDataset, folder: Path) -> DenseFingerprint:
    path, remedy = folder / FILE_NAME, f"Run nnreg_extract_fingerprint -d {raw.name[7:10]} --task {DENSE_PREDICTION} first."
    if not path.is_file():
        raise PlansError(f"{path}: does not exist. {remedy}")
    fingerprint = DenseFingerprint.read(path)
    if not is_current(fingerprint, raw):
        raise PlansError(f"{path}: cases, files or labels of {raw.name} have changed since it was made. {remedy}")
    return fingerprint


def _open(workspace: Workspace, dataset: int | str) -> tuple[RawDataset, Path]:
    """The dataset as one of this task, whatever its dataset.json says of itself; values are named where it names none."""
    name = workspace.dataset_name(dataset)
    raw = RawDataset.open(workspace.raw / name)
    labels = raw.spec.labels
    if not labels and not all(target.labels or target.is_continuous for target in targets_of(raw.spec).values()):
        labels = {"background": 0, **{str(value): value for value in raw.label_values}}
    raw = RawDataset(raw.folder, dataclasses.replace(raw.spec, task=DENSE_PREDICTION, labels=labels), raw.cases, raw.test_cases)
    return raw, writable_folder(workspace.preprocessed / name)
