"""Voxels of each label, so that training can cut patches around them without reading a volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import Label
from nnreg.errors import PreprocessingError
from nnreg.files import atomic_path

Voxels = npt.NDArray[np.integer]
SEED = 1234
MOST, SHARE = 10_000, 0.01  # so many voxels of each, or that share of them if it is more


def sample_locations(labels: npt.NDArray[np.int16], wanted: Sequence[Label], *, seed: int = SEED) -> dict[Label, Voxels]:
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
    index = np.int32 if labels.size < 2**31 else np.int64
    flat = labels.reshape(-1)
    values = sorted({value for entry in wanted if not isinstance(entry, tuple) or entry[0] >= 0 for value in _values(entry)})
    places: Mapping[int, npt.NDArray[np.integer]] = _places(flat, values, index)
    result: dict[Label, Voxels] = {}
    for entry in wanted:
        if isinstance(entry, tuple) and entry[0] < 0:
            # nearly the whole volume: a list of its voxels is made for the moment only
            pool = [np.flatnonzero(np.isin(flat, entry)).astype(index)]
        else:
            pool = [places[value] for value in _values(entry)]
        result[entry] = _coordinates(_drawn(pool, rng), labels.shape)
    return result


def _places(flat: npt.NDArray[np.int16], values: Sequence[int], index: type[np.integer]) -> dict[int, npt.NDArray[np.integer]]:
    """Ascending positions of each value."""
    wanted = np.zeros(2**16, bool)
    wanted[np.asarray(values, np.int16).view(np.uint16)] = True
    positions = np.flatnonzero(wanted[flat.view(np.uint16)]).astype(index)
    found = flat[positions]
    # a stable sort of 16-bit integers takes time linear in their number
    order = np.argsort(found, kind="stable")
    positions, found = positions[order], found[order]
    edges = np.searchsorted(found, values, side="left"), np.searchsorted(found, values, side="right")
    return {value: positions[first:last] for value, first, last in zip(values, *edges, strict=True)}


def _drawn(pool: list[npt.NDArray[np.integer]], rng: np.random.Generator) -> npt.NDArray[np.integer]:
    """Without replacement from all of `pool` alike."""
    ends = np.cumsum([len(part) for part in pool])
    total = int(ends[-1])
    count = max(min(MOST, total), int(np.ceil(total * SHARE)))
    chosen = np.sort(rng.choice(total, count, replace=False, shuffle=False)) if count < total else np.arange(total)
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    begins = [0, *ends[:-1]]
    return np.concatenate([part[inside - begin] for part, inside, begin in zip(pool, parts, begins, strict=True)])


def _coordinates(positions: npt.NDArray[np.integer], shape: tuple[int, ...]) -> Voxels:
    dtype = np.int16 if max(shape) < 2**15 else np.int32
    return np.stack([axis.astype(dtype) for axis in np.unravel_index(positions, shape)], axis=1)


def _values(entry: Label) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def write_locations(path: Path, locations: Mapping[Label, Voxels]) -> None:
    """Write them; the names in the file are labels as JSON: ``3``, ``[1, 2]``."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **{json.dumps(label): voxels for label, voxels in locations.items()})  # type: ignore[arg-type]


def read_locations(path: Path) -> dict[Label, Voxels]:
    """The inverse of :func:`write_locations`.

    Raises
    ------
    PreprocessingError
        If the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {_label(name): file[name] for name in file.files}
    except FileNotFoundError as missing:
        raise PreprocessingError(f"{path}: does not exist. Preprocess the dataset again.") from missing
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise PreprocessingError(f"{path}: is damaged ({error}). Remove it and preprocess the dataset again with --clean.") from error


def _label(name: str) -> Label:
    value = json.loads(name)
    return tuple(value) if isinstance(value, list) else int(value)
