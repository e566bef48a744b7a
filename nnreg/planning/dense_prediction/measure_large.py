"""The fingerprint of a case that does not fit into memory: exact box, intensities of a bounded, seeded sample of its labelled voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg.padding import tight_box
from nnreg.planning.dense_prediction.fingerprint import DenseImage, MapValues
from nnreg.planning.dense_prediction.foreground import Box, Foreground, nonzero_box, volume_spacing
from nnreg.planning.dense_prediction.measure_maps import ValueSums

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.dataset.large import LargeLabels
    from nnreg.imageio.lazy import Volume

SEED = 1234
SAMPLED = 2**22  # labelled voxels of a case that are looked at
PER_BLOCK = SAMPLED // 16  # no block gives more of them, so that there are several


def measure_large(raw: RawDataset, case: str, *, file_bytes: int = 0) -> tuple[DenseImage, list[Foreground | None], list[MapValues]]:
    """Measurements of a case, per channel its foreground (None where nothing is labelled), and the values of its continuous targets.

    Raises
    ------
    NnRegError
        For unreadable chunks, NaN and infinity, labels on another grid.
    """
    from nnreg.dataset.large import open_large, open_large_labels

    image = open_large(raw, case)
    labels = open_large_labels(raw, case, image)
    volume = image.volume()
    box = streamed_box(volume)
    depth, height, width = (high - low for low, high in box)
    relative = depth * height * width / float(np.prod(volume.shape[1:], dtype=np.float64))
    measured = DenseImage(volume_spacing(image.space.spacing), (depth, height, width), relative, file_bytes)
    return measured, _foreground(volume, labels, box), _map_values(labels, box)


def _map_values(labels: LargeLabels, box: Box) -> list[MapValues]:
    """Of every channel of the continuous targets: exact, in one pass."""
    from nnreg.dataset.continuous import check_any_known

    result = []
    for index, volume in enumerate(labels.volumes):
        if not labels.is_continuous(index):
            continue
        found = [ValueSums() for _ in range(volume.shape[0])]
        for part in volume.boxes():
            inside = tuple(slice(max(low, first) - low, max(0, min(high, last) - low)) for (low, high), (first, last) in zip(part, box, strict=True))
            for sums, channel in zip(found, labels.values(index, part), strict=True):
                sums.add(channel, inside)
        check_any_known(any(sums.count for sums in found), labels.paths[index])
        result += [sums.values(volume.dtype.name) for sums in found]
    return result


def streamed_box(volume: Volume) -> Box:
    """First and one past the last index, per axis, of what is not 0 in any channel; everything if all is 0.

    Blocks inside what is known to be needed are not read, unless they could hold NaN or infinity.

    Raises
    ------
    ImageError
        For an unreadable chunk, NaN or infinite values.
    """
    from nnreg.dataset.large import refuse_unfinite

    floats = volume.dtype.kind == "f"
    low, high = np.asarray(volume.shape[1:]), np.zeros(3, int)
    for box in volume.boxes():
        first, last = np.transpose(box)
        known = bool((first >= low).all() and (last <= high).all())
        if known and not floats:
            continue
        block = volume.read(box)
        if floats:
            refuse_unfinite(block, volume.image.path)
        if known or not block.any():
            continue
        found_first, found_last = np.transpose(nonzero_box(block))
        low, high = np.minimum(low, first + found_first), np.maximum(high, first + found_last)
    if not high.any():
        return tuple((0, size) for size in volume.shape[1:])
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _foreground(volume: Volume, labels: LargeLabels, box: Box) -> list[Foreground | None]:
    """Of labelled voxels from blocks in random order, until there are enough; without labels, of those whose values are known and that are not 0."""
    rng = np.random.default_rng(SEED)
    blocks = list(volume.boxes(box if labels.labelled else tight_box(volume.read, box)))
    found: list[npt.NDArray[Any]] = []
    count = 0
    for index in rng.permutation(len(blocks)):
        shown = (labels.read(blocks[index], labels.labelled or None) > 0).any(axis=0)
        if not labels.labelled:
            shown &= (volume.read(blocks[index]) != 0).any(axis=0)
        where = np.flatnonzero(shown)
        if not len(where):
            continue
        if len(where) > PER_BLOCK:
            where = rng.choice(where, PER_BLOCK, replace=False, shuffle=False)
        found.append(volume.read(blocks[index]).reshape(volume.shape[0], -1)[:, where])
        count += len(where)
        if count >= SAMPLED:
            break
    if not found:
        return [None] * volume.shape[0]
    return [Foreground.of(channel) for channel in np.concatenate(found, axis=1)]
