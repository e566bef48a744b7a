"""Checkpoints: tensors and plain values only, written whole, read with ``weights_only=True``."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnreg.errors import TrainingError
from nnreg.files import atomic_path
from nnreg.planning.training_options import Checkpoints

LATEST, BEST, FINAL = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(dict(content), temporary)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    TrainingError
        If it is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: does not exist. Train this fold first, or name another checkpoint with -chk.")
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: is damaged or not a checkpoint ({str(error).strip().splitlines()[0]}). Use another checkpoint of the fold.") from error
    return content


def load_weights(network: torch.nn.Module, weights: Mapping[str, Any], where: Path | str) -> None:
    """Load a state dict.

    Raises
    ------
    TrainingError
        If keys or shapes differ: the checkpoint was made by another network.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise TrainingError(f"{where}: its weights do not fit the planned network ({first}). It was trained with other plans or another -tr.") from error


def weights_in(content: Mapping[str, Any], where: Path | str) -> Mapping[str, Any]:
    """The weights that a checkpoint predicts with.

    Raises
    ------
    TrainingError
        If it has none: a file of another program.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise TrainingError(f"{where}: has no network_weights, so it is no checkpoint of nnReg. Import it with nnreg_import, or name another file.")
    found: Mapping[str, Any] = content["network_weights"]
    return found


def resumable(folder: Path) -> Path | None:
    """The checkpoint that ``-c`` goes on from: the latest, where none is kept the final, else the best; None in a fresh folder."""
    return next((folder / name for name in (LATEST, FINAL, BEST) if (folder / name).is_file()), None)


class CheckpointKeeper:
    """Writes the checkpoints that the options ask for, and removes those that are to go.

    Parameters
    ----------
    folder
        Of the fold.
    options
        Which.
    save
        Writes one checkpoint.
    """

    def __init__(self, folder: Path, options: Checkpoints, save: Callable[[Path], None]) -> None:
        self.folder, self.options, self.save = folder, options, save

    def after_epoch(self, finished: int, *, last: bool, improved: bool) -> None:
        """After `finished` epochs, of which this was the `last` or the best so far."""
        if improved:
            self.save(self.folder / BEST)
        if self.options.best_only:
            return
        if last or finished % self.options.latest_every == 0:
            self.save(self.folder / LATEST)
        if self.options.every and finished % self.options.every == 0:
            self.save(self.folder / f"checkpoint_epoch_{finished:04d}.pth")
            self._prune()

    def after_training(self) -> None:
        """The final checkpoint."""
        self.save(self.folder / FINAL)
        if self.options.delete_latest:
            (self.folder / LATEST).unlink(missing_ok=True)

    def _prune(self) -> None:
        if self.options.keep_last:
            for path in sorted(self.folder.glob("checkpoint_epoch_*.pth"))[: -self.options.keep_last]:
                path.unlink()
