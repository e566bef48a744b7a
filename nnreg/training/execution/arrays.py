"""Arrays that a training finds missing are made before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnreg.files import write_text
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

UNFINISHED = "unfinished"


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
    with _unfinished(marker):
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
def _unfinished(marker: Path) -> Iterator[None]:
    """What an error or a kill interrupts is known to be unfinished. Two that begin together are told of each other by the preprocessing."""
    write_text(marker, UNFINISHED)
    yield
    marker.unlink(missing_ok=True)
