"""What the pipelines of all tasks share: reading plans and refusing to overwrite those of another task, the files kept beside them, progress and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.errors import NnRegError, PlansError
from nnreg.files import read_json
from nnreg.planning.plans import Plans

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset

Progress = Callable[[str], Callable[[int, int, str], None]]
"""Called with the name of a step; returns what is called with (done, total, what) during it."""


Note = Callable[[str], None]


def unheard(note: str) -> None:
    """Nobody listens."""


def silent(step: str) -> Callable[[int, int, str], None]:
    """Progress that nobody watches."""
    return lambda done, total, what: None


def refuse_another_task(path: Path, task: str) -> None:
    """Plans of one task must not take the place of another's, nor their arrays: both lie in folders of the plans' name.

    Raises
    ------
    PlansError
        If the file holds plans of another task.
    """
    try:
        content = read_json(path) if path.is_file() else {}
    except NnRegError:
        # damaged: that is why plans are made anew
        return
    found = content.get("task", task) if isinstance(content, dict) else task
    if found != task:
        raise PlansError(f"{path}: holds plans of the task {found}. Name those of {task} with -overwrite_plans_name, or remove the file.")


def known_configurations(plans: Plans, asked: Sequence[str]) -> list[str]:
    """Those of `asked` that the plans have: ``-c 2d 3d_fullres`` serves datasets of either kind, as in nnU-Net.

    Raises
    ------
    PlansError
        If they have none of them.
    """
    known = [name for name in asked if name in plans.configurations]
    if asked and not known:
        plans.configuration(asked[0])
    return known


def read_plans(folder: Path, plans_name: str, dataset_name: str) -> Plans:
    """The plans of a dataset.

    Raises
    ------
    PlansError
        If they are missing, damaged, or were made for another dataset.
    """
    path = folder / f"{plans_name}.json"
    if not path.is_file():
        raise PlansError(f"{path}: does not exist. Run nnreg_plan_experiment -d {dataset_name[7:10]} first.")
    plans = Plans.read(path)
    if plans.dataset_name != dataset_name:
        raise PlansError(f"{path}: was made for {plans.dataset_name}, not for {dataset_name}. Plan this dataset: nnreg_plan_experiment -d {dataset_name[7:10]}")
    return plans


def keep_dataset_files(raw: RawDataset, folder: Path, on_note: Note) -> None:
    """Keep dataset.json and the splits beside the plans: training reads nothing else of the raw dataset."""
    from nnreg.dataset.splits import load_or_make_splits

    raw.spec.write(folder / "dataset.json")
    load_or_make_splits(folder / "splits_final.json", raw, on_note=on_note)
