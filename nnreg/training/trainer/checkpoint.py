"""Checkpoints: tensors and plain values only, written whole, read with ``weights_only=True``."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnreg.errors import TrainingError
from nnreg.files import atomic_path

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
