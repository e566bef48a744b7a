"""Arrays that a training finds missing are made before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnreg.errors import TrainingError
from nnreg.files import write_text
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

RUNNING, UNFINISHED = "running", "unfinished"


def preprocess_missing(workspace: Workspace, trainer: nnRegTrainer) -> None:
    """Preprocess the configuration of a trainer if it was not, or if a training that did so was interrupted.

    Raises
    ------
    NnRegError
        If another training is at it, or a case cannot be preprocessed.
    """
    from nnreg.preprocessing.datasets import preprocess_dataset

    arrays = trainer.folders.preprocessed / trainer.configuration.data_identifier
    marker = arrays.with_name(f".{arrays.name}.preprocessing")
    if arrays.is_dir() and not marker.exists():
        return
    with _alone(marker, arrays):
        if trainer.listeners.line is not None:
            trainer.listeners.line(f"{arrays}: is not preprocessed yet, that comes first")
        preprocess_dataset(
            workspace,
            trainer.plans.dataset_name,
            plans_name=trainer.plans.plans_name,
            configurations=[trainer.configuration_name],
            progress=lambda step: trainer.listeners.step,
        )


@contextmanager
def _alone(marker: Path, arrays: Path) -> Iterator[None]:
    """Two trainings that begin together must not both empty and fill one folder; what an error interrupts is known to be unfinished."""
    if marker.is_file() and marker.read_text(encoding="utf-8") == UNFINISHED:
        marker.unlink()
    try:
        with marker.open("x", encoding="utf-8") as file:
            file.write(RUNNING)
    except FileExistsError as error:
        raise TrainingError(f"{arrays}: another training is preprocessing it. Begin again when that is done; if none is running, remove {marker}.") from error
    try:
        yield
    except BaseException:
        write_text(marker, UNFINISHED)
        raise
    marker.unlink()
