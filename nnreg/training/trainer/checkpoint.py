"""Checkpoints: tensors and plain values only, written whole, read with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import glob
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnreg.errors import NnRegError, TrainingError
from nnreg.files import atomic_path, link
from nnreg.planning.training_options import Checkpoints

WEIGHTS = "network_weights"
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where other programs put a network's weights
PARALLEL = "module."  # before every name, where a network was saved inside of DataParallel
NAMED = 3  # of the layers that do not fit, how many a message names
LATEST, BEST, FINAL = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth"
PREVIOUS = "checkpoint_previous.pth"  # while a training runs


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(dict(content), temporary)


def load_checkpoint(path: Path, device: torch.device | str = "cpu", *, weights_only: bool = False) -> dict[str, Any]:
    """Read a checkpoint.

    Parameters
    ----------
    path
        The file.
    device
        Where its tensors go.
    weights_only
        Whether the weights are all that is wanted: then the file may also be a plain state dict, by itself or under one of `WRAPPERS`.

    Returns
    -------
    dict
        The content; with `weights_only` just ``network_weights``.

    Raises
    ------
    TrainingError
        If it is missing, damaged, holds anything but tensors and plain values, or lacks what is wanted.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: does not exist. Train this fold first, or name another checkpoint (-chk, -pretrained_weights).")
    content = read_tensors(path, device)
    if weights_only:
        return {WEIGHTS: _state_dict(content, path)}
    if not isinstance(content, dict) or not {WEIGHTS, "init"} <= content.keys():
        raise TrainingError(f"{path}: is no checkpoint of nnReg, which has network_weights and init. Weights alone are a start: -pretrained_weights {path}")
    if not _is_state_dict(content[WEIGHTS]) or not isinstance(content["init"], dict):
        raise TrainingError(f"{path}: its network_weights or init are not what nnReg writes. Use another checkpoint of the fold.")
    return content


def read_tensors(path: Path, device: torch.device | str = "cpu", error: type[NnRegError] = TrainingError) -> Any:
    """What a file of torch holds: tensors, plain values and what `safe_globals` allows. Nothing in it is run, and its checksums are compared.

    Raises
    ------
    NnRegError
        Of the given class, if it is damaged or holds anything else.
    """
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # how a damaged file differs from torch's own is no advice to a user
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as problem:  # a damaged file fails anywhere in torch's reader
        raise error(f"{path}: {_why_unreadable(problem)} Use another checkpoint of the fold.") from problem


def _check_archive(path: Path) -> None:
    """Compare the checksums, which torch does not, and refuse an archive that inflates to more than it is.

    Raises
    ------
    zipfile.BadZipFile
        If one is wrong.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are compressed, or more than the file")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _why_unreadable(problem: Exception) -> str:
    """In words of ours: torch advises to switch the check off."""
    found = re.search(r"GLOBAL +([\w.]+)", str(problem))
    if isinstance(problem, pickle.UnpicklingError) and found is not None:
        return f"holds the object {found[1]}, and code with it: nnReg reads tensors and plain values alone. Do not use it."
    if isinstance(problem, pickle.UnpicklingError):
        return "is damaged, or holds more than tensors and plain values."
    reason = " ".join(str(problem).split(". ")[0].split())[:160].rstrip(".") or type(problem).__name__
    return f"is damaged or not a checkpoint ({reason})."


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(name, str) and isinstance(part, Tensor) for name, part in value.items())


def _state_dict(content: Any, path: Path) -> dict[str, Any]:
    """The weights of a checkpoint of nnReg or nnU-Net, of another program's, or the file itself."""
    for name in (WEIGHTS, *WRAPPERS):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not _is_state_dict(content):
        wanted = f"network_weights, {', '.join(WRAPPERS)}, or tensors by name"
        raise TrainingError(f"{path}: holds no weights that nnReg knows. Expected {wanted}; save the network's state_dict().")
    prefixed = all(name.startswith(PARALLEL) for name in content)
    return {name.removeprefix(PARALLEL): value for name, value in content.items()} if prefixed else content


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
        found = _difference(network.state_dict(), weights) or " ".join(str(error).split())
        raise TrainingError(
            f"{where}: its weights do not fit the planned network ({found}). It was trained with other plans or another -tr: name those, or take its plans "
            "over with nnreg_move_plans_between_datasets."
        ) from error


def _difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """How the names and shapes of weights differ, in a few words."""
    missing, unknown = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    parts = [
        f"{len(names)} of {len(all_of)} {what}, the first is {names[0]!r}"
        for names, all_of, what in ((missing, wanted, "are missing"), (unknown, given, "are unknown to it"))
        if names
    ]
    shapes = {name: (_size(given[name]), _size(value)) for name, value in wanted.items() if name in given}
    other = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    if other:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in other)  # in the order of the network
        named = ", ".join("{!r} is {}, here {}".format(name, *pair) for name, pair in list(other.items())[:NAMED])
        parts.append(f"{len(layers)} layers have another shape: {named}" + (", ..." if len(other) > NAMED else ""))
    return "; ".join(parts)


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


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


def resumable(folder: Path, numbered: str = "") -> list[Path]:
    """The checkpoints that ``-c`` can go on from, the one to take first: the latest, where none is kept the final, then those before it.

    `numbered` is the pattern of numbered files. A fresh folder has none.
    """
    others = sorted(folder.glob(numbered), key=lambda path: path.stat().st_mtime, reverse=True) if numbered else []
    return [path for path in (*(folder / name for name in (LATEST, FINAL, PREVIOUS)), *others, folder / BEST) if path.is_file()]


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
            self._keep_previous()
            self.save(self.folder / LATEST)
        if self.options.every and finished % self.options.every == 0:
            self.save(self.folder / self.options.numbered(finished))
            self._prune()

    def after_training(self) -> None:
        """The final checkpoint."""
        self.save(self.folder / FINAL)
        if self.options.delete_latest:
            (self.folder / LATEST).unlink(missing_ok=True)
        (self.folder / PREVIOUS).unlink(missing_ok=True)

    def _keep_previous(self) -> None:
        """A second name for the file that is about to be replaced: what goes on if the new one is damaged."""
        latest = self.folder / LATEST
        if latest.is_file():
            with contextlib.suppress(OSError, NnRegError):  # file systems without links keep one checkpoint
                link(latest, self.folder / PREVIOUS)

    def _prune(self) -> None:
        if not self.options.keep_last:
            return
        before, after = self.options.numbered(None).split("*")
        numbers = {path: path.name[len(before) : -len(after)] for path in self.folder.glob(f"{glob.escape(before)}*{after}")}
        by_epoch = sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))
        for path in by_epoch[: -self.options.keep_last]:
            path.unlink()
