"""Voxels of each label, so that training can cut patches around them without reading a volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Integers
from nnreg.dataset.labels import Label
from nnreg.errors import ImageError, PreprocessingError
from nnreg.files import atomic_path
from nnreg.imageio.promises import load_member, opened_archive

SEED = 1234
SLAB_VOXELS = 2**19  # looked at in one go
MOST, SHARE = 10_000, 0.01  # so many voxels of each, or that share of them if it is more


def sample_locations(labels: npt.NDArray[np.int16], wanted: Sequence[Label], *, seed: int = SEED) -> dict[Label, Integers]:
    """Random voxels of each label or region, all of them where there are few.

    Parameters
    ----------
    labels : array, shape (D, H, W)
    wanted
        Labels, and regions as tuples of labels.

    Returns
    -------
    dict
        Each of `wanted` to an array (N, 3); N is 0 where it does not occur.
    """
    rng = np.random.default_rng(seed)
    values = sorted({value for entry in wanted for value in _values(entry)})
    codes = np.full(2**16, len(values), np.uint16)
    codes[np.asarray(values, np.int16).view(np.uint16)] = np.arange(len(values))
    # a few slices at a time, so that nothing of a large volume's size is made
    rows = max(1, SLAB_VOXELS // max(1, labels[0].size))
    slabs = [labels[start : start + rows].reshape(-1).view(np.uint16) for start in range(0, len(labels), rows)]
    counts = np.stack([np.bincount(codes[slab], minlength=len(values) + 1) for slab in slabs])
    members = {entry: [values.index(value) for value in _values(entry)] for entry in wanted}
    ranks = {entry: _drawn(counts[:, own].sum(axis=1), rng) for entry, own in members.items()}
    found: dict[Label, list[npt.NDArray[np.int64]]] = {entry: [] for entry in wanted}
    for index, slab in enumerate(slabs):
        if not any(len(chosen[index]) for chosen in ranks.values()):
            continue
        groups = _groups(codes[slab], counts[index, :-1])
        for entry, chosen in ranks.items():
            pool = [groups[member] for member in members[entry]]
            found[entry].append(np.concatenate(pool)[chosen[index]] + index * rows * labels[0].size)
    return {entry: _coordinates(np.concatenate([*parts, np.empty(0, np.int64)]), labels.shape) for entry, parts in found.items()}


def _drawn(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """How many there are in each slab to which of them are taken, without replacement and all alike."""
    ends = np.cumsum(counts)
    total = int(ends[-1])
    count = max(min(MOST, total), int(np.ceil(total * SHARE)))
    chosen = np.sort(rng.choice(total, count, replace=False, shuffle=False)) if count < total else np.arange(total)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends, counts, strict=True)]


def _groups(codes: npt.NDArray[np.uint16], counts: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Positions of each code, of which there are `counts`; larger codes are left out."""
    positions = np.flatnonzero(codes < len(counts))
    # a stable sort of 16-bit integers takes time linear in their number
    return np.split(positions[np.argsort(codes[positions], kind="stable")], np.cumsum(counts)[:-1])


def _coordinates(positions: npt.NDArray[np.integer], shape: tuple[int, ...]) -> Integers:
    dtype = np.int16 if max(shape) < 2**15 else np.int32
    return np.stack([axis.astype(dtype) for axis in np.unravel_index(positions, shape)], axis=1)


def _values(entry: Label) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def write_locations(path: Path, locations: Mapping[Label, Integers]) -> None:
    """Write them; the names in the file are labels as JSON: ``3``, ``[1, 2]``."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **{json.dumps(label): voxels for label, voxels in locations.items()})  # type: ignore[arg-type]


def read_locations(path: Path) -> dict[Label, Integers]:
    """The inverse of :func:`write_locations`.

    Raises
    ------
    PreprocessingError
        If the file is missing or damaged.
    """
    if not path.is_file():
        raise PreprocessingError(f"{path}: does not exist. Preprocess the dataset again.")
    try:
        with opened_archive(path) as file:
            return {_label(name): load_member(file, name, path) for name in file.files}
    except (ValueError, ImageError) as error:
        raise PreprocessingError(f"{path}: is damaged ({error}). Remove it and preprocess the dataset again with --clean.") from error


def _label(name: str) -> Label:
    value = json.loads(name)
    return tuple(value) if isinstance(value, list) else int(value)
