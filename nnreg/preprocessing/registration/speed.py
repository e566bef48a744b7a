"""How fast this machine trains: measured once by a short training in a process of its own, so that planning itself needs no torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nnreg.errors import PlansError
from nnreg.files import read_json, read_object, write_json
from nnreg.planning.hardware import machine_name
from nnreg.planning.registration.duration import Speed
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.task import TASKS
from nnreg.typed import from_mapping, to_mapping

FILE_NAME = "machine_speed.json"  # in the folder of preprocessed datasets: machine and kind of training to their speed


def machine_speed(folder: Path, plans: RegistrationPlans) -> Speed:
    """The speed of this machine for trainings like the planned one: with as many axes, the same similarity, regularisation and settings of the engine.

    Parameters
    ----------
    folder
        Where ``machine_speed.json`` lies or is written. Remove the file to measure again.
    plans
        Without a time budget: what would be trained if time did not matter.

    Raises
    ------
    PlansError
        If the file is damaged, or the training that measures fails.
    """
    path, key = folder / FILE_NAME, measured_as(plans)
    known = known_speeds(folder)
    if key not in known:
        known[key] = to_mapping(_measured(plans, key))
        write_json(path, known)
    return from_mapping(Speed, known[key], where=f"{path}: {key}", error=PlansError)


def known_speeds(folder: Path) -> dict[str, Any]:
    """What was measured before, by what it was measured for."""
    path = folder / FILE_NAME
    content: dict[str, Any] = read_object(path, PlansError) if path.is_file() else {}
    return content


def measured_as(plans: RegistrationPlans) -> str:
    """What a speed is kept under: the machine, the number of axes, the terms of the loss and how the engine registers."""
    configuration = plans.configuration(plans.to_train)
    terms = "+".join(term.name for term in (*configuration.training.similarity, *configuration.training.regularisation))
    return f"{machine_name()}; {configuration.ndim}d, {terms}, {plans.optimisation.preset} {plans.optimisation.similarity}"


def _measured(plans: RegistrationPlans, key: str) -> Speed:
    with tempfile.TemporaryDirectory(prefix="nnreg_speed_") as temporary:
        folder = Path(temporary)
        plans.write(folder / "plans.json")
        measure = str(TASKS[plans.task].speed_measure)
        finished = subprocess.run([sys.executable, "-m", measure, temporary, key, str(time.monotonic())], capture_output=True, text=True, check=False)
        if finished.returncode != 0 or not (folder / "speed.json").is_file():
            last = (finished.stderr.strip() or "no message").splitlines()[-1]
            raise PlansError(f"--time_budget: the speed of this machine could not be measured, {last}. Plan without a budget, or mend that.")
        return from_mapping(Speed, read_json(folder / "speed.json", PlansError), where="speed.json", error=PlansError)
