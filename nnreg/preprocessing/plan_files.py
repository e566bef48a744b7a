"""What a command may do with plans that are there: not overwrite those of another task, and use the configurations they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnreg.errors import NnRegError, PlansError
from nnreg.files import read_json
from nnreg.planning.plans import Plans


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
