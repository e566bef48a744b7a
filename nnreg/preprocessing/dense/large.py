"""Preprocess a case that does not fit into memory, box by box, into the same files as any other case."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import Label, LabelManager
from nnreg.dataset.large import open_large, open_large_labels
from nnreg.dataset.raw import RawDataset
from nnreg.files import write_json
from nnreg.imageio.lazy import Box
from nnreg.planning.dense.plans import DensePlans
from nnreg.preprocessing.chunks import chunks_and_blocks
from nnreg.preprocessing.dense.locations import MOST, SEED, Voxels, write_locations
from nnreg.preprocessing.dense.storage import LOCATIONS
from nnreg.preprocessing.dense.streamed import StreamedCase
from nnreg.preprocessing.dense.streamed_normalise import Normaliser
from nnreg.preprocessing.storage import ENDING, IMAGE, LABELS, create_array


def preprocess_large(raw: RawDataset, case: str, plans: DensePlans, folder: Path, configurations: Sequence[str], manager: LabelManager) -> None:
    """Write the arrays of a case for `configurations` that do not have it yet.

    Raises
    ------
    NnRegError
        If a chunk cannot be read, a value is not finite or not named, or the folder cannot be written; nothing half written is left.
    """
    image = open_large(raw, case)
    truth = open_large_labels(raw, case, image, plans.transpose_forward)
    known: tuple[Box, Normaliser] | None = None
    normalization = None
    for name in configurations:
        configuration = plans.configuration(name)
        target = folder / configuration.data_identifier
        if (target / f"{case}.json").is_file():
            continue
        if configuration.normalization != normalization:
            known, normalization = None, configuration.normalization
        streamed = StreamedCase.of(case, image, plans, configuration, truth=truth, manager=manager, measured=known)
        known = streamed.properties.box, streamed.normaliser
        _write(streamed, target, configuration.patch_size, manager)


def _write(streamed: StreamedCase, folder: Path, patch: Sequence[int], manager: LabelManager) -> None:
    """The JSON comes last, so that a case with a JSON is whole."""
    case = streamed.properties.case
    drawn = {entry: Drawn() for entry in manager.sampled}
    targets = 1 if streamed.truth is None else streamed.truth.volume.shape[0]
    # what is 0 in the image is most of a sparse one, and takes no room
    nothing = streamed.normaliser(np.zeros((streamed.shape[0], 1, 1, 1), np.float32)).ravel()
    uniform = bool((nothing == nothing[0]).all())
    chunks, _ = chunks_and_blocks(streamed.shape, patch, 4)
    images = create_array(folder / f"{case}{IMAGE}{ENDING}", streamed.shape, np.float32, patch, nothing[0])
    labels = create_array(folder / f"{case}{LABELS}{ENDING}", (targets, *streamed.shape[1:]), np.int16, patch, -1)
    with images as image_file, labels as label_file:
        for index, box in enumerate(streamed.boxes(chunks[1:])):
            rng = np.random.default_rng([SEED, index])
            if uniform and streamed.is_empty(box):
                if manager.annotated is not None:
                    drawn[manager.annotated].add(np.arange(math.prod(high - low for low, high in box)), box, rng)
                continue
            inside = (slice(None), *itertools.starmap(slice, box))
            image_file[inside] = streamed.image(box)
            found = streamed.labels(box)
            label_file[inside] = found
            # of several targets, the largest value: a voxel that any of them labels is worth a patch
            _draw(drawn, found.max(axis=0), box, rng)
    write_locations(folder / f"{case}{LOCATIONS}", {entry: found.voxels(streamed.shape[1:]) for entry, found in drawn.items()})
    write_json(folder / f"{case}.json", streamed.properties.to_dict())


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

    def voxels(self, shape: Sequence[int]) -> Voxels:
        """(N, 3), in ascending order of their place."""
        small = max(shape) < 2**15
        found: Voxels = self._voxels.astype(np.int16) if small else self._voxels.astype(np.int32)
        return found[np.lexsort(found.T[::-1])]


def _draw(drawn: dict[Label, Drawn], labels: npt.NDArray[np.int16], box: Box, rng: np.random.Generator) -> None:
    flat = labels.reshape(-1)
    for entry, found in drawn.items():
        positions = np.flatnonzero(np.isin(flat, entry))
        if len(positions):
            found.add(positions, box, rng)
