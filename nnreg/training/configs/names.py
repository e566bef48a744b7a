"""What results folders are called for what ``-tr`` says."""

from __future__ import annotations

from pathlib import Path

from nnreg.registry import entry_point_names
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS

DEFAULT_TRAINER = "nnRegTrainer"
ENTRY_POINTS = "nnreg.trainers"


def results_name(name: str) -> str:
    """What the results folder of ``-tr NAME`` is called: no two different trainers share one.

    A module stands before its class, ``.yaml`` is kept where a file is called as something that nnReg has.

    Examples
    --------
    >>> results_name("kiunet+50epochs"), results_name("mymodule:kiunet"), results_name("recipes/mine.yaml"), results_name("kiunet.yaml")
    ('kiunet+50epochs', 'mymodule.kiunet', 'mine', 'kiunet.yaml')
    """
    return "+".join(_results_name(part) for part in parts_of(name))


def former_results_name(name: str) -> str:
    """What the results folder was called until modules stood before their classes."""
    return "+".join(Path(part).stem if is_file(part) else part.rpartition(":")[2] for part in parts_of(name))


def _results_name(part: str) -> str:
    if not is_file(part):
        return part.replace(":", ".")
    stem = Path(part).stem
    return Path(part).name if _is_known(stem) else stem


def parts_of(name: str) -> list[str]:
    """What is joined by ``+``."""
    return name.split("+")


def is_file(part: str) -> bool:
    """Whether a part is a YAML file."""
    return part.endswith((".yaml", ".yml"))


def _is_known(name: str) -> bool:
    from nnreg.training.configs.options import epochs_config

    return name in known_names() or epochs_config(name) is not None


def known_names() -> set[str]:
    """Recipes, trainers and networks of nnReg and of installed packages."""
    from nnreg.architecture import network_names

    return {DEFAULT_TRAINER, *TRAINER_CONFIGS, *entry_point_names(ENTRY_POINTS), *network_names()}
