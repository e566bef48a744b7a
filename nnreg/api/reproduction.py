"""Whether two runs of one command made the same: of what was read, what computed, and what was written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnreg.errors import NnRegError
from nnreg.files import content_digest, read_json
from nnreg.run_record import made_with

# of every run its own
VOLATILE = {"seconds", "command", "folder", "made_with", "images_folder", "guides_folder", "epoch_seconds", "elapsed_seconds", "output"}
NOT_COMPARED = {".png", ".html", ".txt", ".log"}


def other_versions(record: Mapping[str, Any]) -> Iterator[str]:
    """What the record was made with that is another here, a line each."""
    now = made_with()
    for name, version in record.get("made_with", {}).items():
        if name != "threads" and now.get(name) != version:
            yield f"made with {name} {version}, here it is {now.get(name, 'not installed')}"


def check_inputs(record: Mapping[str, Any]) -> None:
    """Refuse to repeat a run whose files are no longer those it read.

    Raises
    ------
    NnRegError
        It names the first file that is missing or has changed.
    """
    for name, digest in record.get("read", {}).items():
        path = Path(name)
        if not path.exists():
            raise NnRegError(f"{path}: was read by the run and is no longer there. Bring it back to repeat the run.")
        if content_digest([path]) != digest:
            raise NnRegError(f"{path}: has changed since the run read it. Bring the old file back to repeat the run.")


def compared(one: Path, other: Path, *, without: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Files that are the same in two results folders, and a line for each that is not; those `without` are of another command."""
    names = sorted({str(path.relative_to(folder)) for folder in (one, other) for path in folder.rglob("*") if _counts(path)} - set(without))
    same: list[str] = []
    different: list[str] = []
    for name in names:
        missing = [folder for folder in (one, other) if not (folder / name).is_file()]
        if missing:
            different.append(f"{name}: {'was not written this time' if missing == [other] else 'was not there before'}")
        elif _content(one / name) != _content(other / name):
            different.append(f"{name}: differs")
        else:
            same.append(name)
    return same, different


def _counts(path: Path) -> bool:
    return path.is_file() and path.suffix not in NOT_COMPARED and not path.name.startswith((".", "events.out"))


def _content(path: Path) -> Any:
    """What must be the same: all of a file, what of a JSON is not of the run itself, the weights of a checkpoint."""
    if path.suffix == ".json":
        return _lasting(read_json(path))
    return _weights(path) if path.suffix == ".pth" else content_digest([path])


def _lasting(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _lasting(value) for key, value in content.items() if key not in VOLATILE}
    return [_lasting(value) for value in content] if isinstance(content, list) else content


def _weights(path: Path) -> dict[str, bytes]:
    import torch

    from nnreg.training.trainer.checkpoint import read_tensors, weights_in

    weights = weights_in(read_tensors(path), path)
    return {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes() for name, tensor in weights.items()}
