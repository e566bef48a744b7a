"""Preprocess a case that does not fit into memory, box by box, into the same files as any other case."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Integers
from nnreg.dataset.continuous import Continuous
from nnreg.dataset.labels import OUTSIDE, Label
from nnreg.dataset.large import open_large, open_large_labels, open_large_masks
from nnreg.dataset.raw import RawDataset
from nnreg.files import write_json
from nnreg.imageio import LazyImage
from nnreg.imageio.lazy import Box, Volume
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.preprocessing.chunks import chunks_and_blocks
from nnreg.preprocessing.dense_prediction.case import NOWHERE, wanted_locations
from nnreg.preprocessing.dense_prediction.locations import MOST, SEED, write_locations
from nnreg.preprocessing.dense_prediction.reoriented import turned_lazily
from nnreg.preprocessing.dense_prediction.storage import LOCATIONS, MAPS
from nnreg.preprocessing.dense_prediction.streamed import StreamedCase
from nnreg.preprocessing.dense_prediction.streamed_normalization import Normaliser
from nnreg.preprocessing.registration.storage import ENDING, IMAGE, LABELS, MASK, create_array


def preprocess_large(raw: RawDataset, case: str, plans: DensePlans, folder: Path, configurations: Sequence[str]) -> None:
    """Write the arrays of a case for `configurations` that do not have it yet.

    Raises
    ------
    NnRegError
        If a chunk cannot be read, a value is not finite or not named, or the folder cannot be written; nothing half written is left.
    """

    def view(found: LazyImage) -> Volume:
        return turned_lazily(found, plans.orientation).volume(plans.transpose_forward)

    stored = open_large(raw, case)
    truth, masks = open_large_labels(raw, case, stored, view), open_large_masks(raw, case, stored, view)
    image = turned_lazily(stored, plans.orientation)
    known: tuple[Box, Normaliser] | None = None
    normalization = None
    for name in configurations:
        configuration = plans.configuration(name)
        target = folder / configuration.data_identifier
        if (target / f"{case}.json").is_file():
            continue
        if configuration.normalization != normalization:
            known, normalization = None, configuration.normalization
        streamed = StreamedCase.of(case, image, plans, configuration, truth=truth, masks=masks, measured=known)
        known = streamed.properties.box, streamed.normaliser
        _write(streamed, target, configuration.patch_size)


def _write(streamed: StreamedCase, folder: Path, patch: Sequence[int]) -> None:
    """The JSON comes last, so that a case with a JSON is whole."""
    case, outputs = streamed.properties.case, () if streamed.truth is None else streamed.truth.outputs
    drawn = [{entry: Drawn() for entry in wanted_locations(output, masked=streamed.masks is not None)} for output in outputs]
    unknown = np.zeros(len(outputs), bool)
    # what is 0 in the image is most of a sparse one, and takes no room
    nothing = streamed.normaliser(np.zeros((streamed.shape[0], 1, 1, 1), np.float32)).ravel()
    uniform = bool((nothing == nothing[0]).all())
    made: dict[str, tuple[int, npt.DTypeLike, Any]] = {IMAGE: (streamed.shape[0], np.float32, nothing[0]), LABELS: (len(outputs), np.int16, OUTSIDE)}
    if streamed.masks is not None:
        made[MASK] = len(outputs), np.int16, 0
    if streamed.values:
        made[MAPS] = len(streamed.values), np.float32, np.nan
    paths = {suffix: folder / f"{case}{suffix}{ENDING}" for suffix in (IMAGE, LABELS, MASK, MAPS)}
    chunks, _ = chunks_and_blocks(streamed.shape, patch, 4)
    with contextlib.ExitStack() as stack:
        arrays = {
            suffix: stack.enter_context(create_array(paths[suffix], (channels, *streamed.shape[1:]), dtype, patch, fill))
            for suffix, (channels, dtype, fill) in made.items()
        }
        for index, box in enumerate(streamed.boxes(chunks[1:])):
            parts = _parts(streamed, box, skip=uniform)
            for suffix, part in parts.items():
                arrays[suffix][(slice(None), *itertools.starmap(slice, box))] = part
            found = parts[LABELS] if LABELS in parts else np.full([len(outputs), *(high - low for low, high in box)], OUTSIDE, np.int16)
            unknown |= (found == 0).any(axis=(1, 2, 3))
            shown = np.where(parts[MASK] > 0, found, NOWHERE) if MASK in parts else found
            rng = np.random.default_rng([SEED, index])
            for entries, labels in zip(drawn, shown, strict=True):
                _draw(entries, labels, box, rng)
    for suffix in paths.keys() - made.keys():
        paths[suffix].unlink(missing_ok=True)
    for number, output in enumerate(outputs):
        if isinstance(output, Continuous) and streamed.masks is None and not unknown[number]:
            drawn[number] = {}  # every voxel may be learnt from
    write_locations(folder / f"{case}{LOCATIONS}", _joined(drawn, streamed.shape[1:]))
    write_json(folder / f"{case}.json", streamed.properties.to_dict())


def _parts(streamed: StreamedCase, box: Box, *, skip: bool) -> dict[str, npt.NDArray[Any]]:
    """What a box has, by suffix; neither image nor labels where both are empty and may be skipped."""
    found = {MASK: streamed.mask(box), MAPS: streamed.maps(box)}
    if not (skip and streamed.is_empty(box)):
        found |= {IMAGE: streamed.image(box), LABELS: streamed.labels(box)}
    return {suffix: part for suffix, part in found.items() if part is not None}


def _joined(drawn: Sequence[Mapping[Label, Drawn]], shape: Sequence[int]) -> dict[Label, Integers]:
    """Voxels of every label of any target."""
    result: dict[Label, Integers] = {}
    for entries in drawn:
        for label, found in entries.items():
            voxels = found.voxels(shape)
            result[label] = voxels if label not in result else np.concatenate([result[label], voxels])
    return result


class Drawn:
    """A uniform sample without replacement of voxels that come in parts.

    Every voxel has a random key and the smallest keys are kept. Keys above the largest one kept need not be drawn at all, only how many are below.

    Parameters
    ----------
    most
        How many are kept; all where there are fewer.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self._limit = most, 1.0
        self._keys, self._voxels = np.empty(0), np.empty((0, 3), np.int64)

    def add(self, positions: npt.NDArray[np.integer], box: Box, rng: np.random.Generator) -> None:
        """Take in the voxels at `positions` (flat) of a box."""
        count = int(rng.binomial(len(positions), self._limit)) if self._limit < 1 else len(positions)
        chosen = rng.choice(positions, count, replace=False, shuffle=False) if count < len(positions) else positions
        shape = [high - low for low, high in box]
        voxels = np.stack(np.unravel_index(chosen, shape), axis=1) + [low for low, _ in box]
        self._keys = np.concatenate([self._keys, rng.random(count) * self._limit])
        self._voxels = np.concatenate([self._voxels, voxels])
        if len(self._keys) > self.most:
            kept = np.argpartition(self._keys, self.most - 1)[: self.most]
            self._keys, self._voxels = self._keys[kept], self._voxels[kept]
            self._limit = float(self._keys.max())

    def voxels(self, shape: Sequence[int]) -> Integers:
        """(N, 3), in ascending order of their place."""
        small = max(shape) < 2**15
        found: Integers = self._voxels.astype(np.int16) if small else self._voxels.astype(np.int32)
        return found[np.lexsort(found.T[::-1])]


def _draw(drawn: dict[Label, Drawn], labels: npt.NDArray[np.int16], box: Box, rng: np.random.Generator) -> None:
    flat = labels.reshape(-1)
    for entry, found in drawn.items():
        positions = np.flatnonzero(np.isin(flat, entry))
        if len(positions):
            found.add(positions, box, rng)
