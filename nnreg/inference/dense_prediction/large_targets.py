"""What the outputs for a target mean where an image is predicted by parts: labels or values, in any box of the image's own grid."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnreg.arrays import AnyArray
from nnreg.dataset.labels import LabelManager
from nnreg.geometry import Space
from nnreg.imageio import as_stored
from nnreg.imageio.lazy import Box, boxes
from nnreg.imageio.reoriented import TurnedWriter
from nnreg.imageio.zarr_files import CHUNK, ZarrWriter, create_zarr
from nnreg.kernels.resize_cpu import strongest
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.preprocessing.dense_prediction.maps import restore_values
from nnreg.preprocessing.dense_prediction.reoriented import turn_for
from nnreg.preprocessing.dense_prediction.storage import DenseProperties
from nnreg.preprocessing.dense_prediction.streamed_resample import Grids

Limits = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class Meaning(Protocol):
    """What outputs mean."""

    @property
    def kept(self) -> Any:
        """Type in which they wait to be interpolated."""
        ...

    @property
    def outside(self) -> AnyArray:
        """What is written where nothing is predicted, one value per channel of the file, in its type."""
        ...

    def told(self, outputs: Tensor) -> AnyArray:
        """(C, *box) of outputs (K, *box)."""
        ...

    def interpolated(self, stored: Any, grids: Grids, box: Box, limits: Limits) -> AnyArray:
        """(C, *box) of the new grid from outputs `stored` on the old one, which are nowhere beyond `limits`."""
        ...


@dataclass(frozen=True)
class Labelled:
    """Outputs are logits of labels."""

    labels: LabelManager
    kept: Any = np.float16

    @property
    def outside(self) -> AnyArray:
        """Background."""
        return np.zeros(1, self.labels.dtype)

    def told(self, outputs: Tensor) -> AnyArray:
        """A label map (1, *box)."""
        return np.asarray(self.labels.to_labels(outputs, logits=True).numpy(), self.labels.dtype)[None]

    def interpolated(self, stored: Any, grids: Grids, box: Box, limits: Limits) -> AnyArray:
        """A label map (1, *box): logits are interpolated, then compared."""
        source, taps, weights, edges = grids.taps(box)
        winner = np.empty([high - low for low, high in box], np.int16)
        strongest(0, winner.shape[0], winner, read_single(stored, source), taps, weights, edges, self.labels.has_regions)
        # -1, no region, is the last entry of the table
        return np.take(np.asarray((*self.labels.head_values, 0), self.labels.dtype), winner, mode="wrap")[None]


@dataclass(frozen=True)
class Valued:
    """Outputs are values, in deviations of the training set; `dtype` is that of the file."""

    values: Sequence[MapValues]
    dtype: str
    kept: Any = np.float32

    @property
    def outside(self) -> AnyArray:
        """What the training maps are there on average."""
        return as_stored(np.asarray([known.outside for known in self.values], np.float32), self.dtype)

    def told(self, outputs: Tensor) -> AnyArray:
        """Values (C, *box) in the units of the training files."""
        return as_stored(restore_values(outputs.numpy(), self.values), self.dtype)

    def interpolated(self, stored: Any, grids: Grids, box: Box, limits: Limits) -> AnyArray:
        """Values (C, *box), interpolated as images are."""
        return as_stored(restore_values(grids.image(lambda source: read_single(stored, source), box, limits), self.values), self.dtype)


def read_single(stored: Any, box: Box) -> npt.NDArray[np.float32]:
    """(K, *box) of an array on disk, contiguous."""
    return np.ascontiguousarray(stored[(slice(None), *slices(box))], dtype=np.float32)


def slices(box: Box) -> tuple[slice, ...]:
    """A box as numpy takes it."""
    return tuple(itertools.starmap(slice, box))


@dataclass(frozen=True, eq=False)
class Native:
    """A file on the image's own grid that takes boxes of the cropped image, in the plans' order of axes.

    Attributes
    ----------
    writer
    properties : DenseProperties
    order
        Of the plans' axes.
    outside : array, shape (C, 1, 1, 1)
        What the file holds already.
    """

    writer: ZarrWriter | TurnedWriter
    properties: DenseProperties
    order: tuple[int, ...]
    outside: AnyArray

    def write(self, box: Box, values: AnyArray) -> None:
        """Values (C, *box)."""
        if (values == self.outside).all():
            return
        placed = [(low + first, high + first) for (low, high), (first, _) in zip(box, self.properties.box, strict=True)]
        back = [self.order.index(axis) for axis in range(3)]
        native, moved = [placed[axis] for axis in back], values.transpose(0, *(axis + 1 for axis in back))
        flat = self.properties.native.ndim == 2
        self.writer.write(native[1:] if flat else native, moved[:, 0] if flat else moved)


@contextlib.contextmanager
def native_file(path: Path, meaning: Meaning, properties: DenseProperties, native: Space, order: tuple[int, ...], orientation: str) -> Iterator[Native]:
    """A new Zarr on the grid `native` of an image that was turned to `orientation`, if that is one; it is at `path` when the block ends without an error."""
    outside = meaning.outside
    with create_zarr(path, len(outside), outside.dtype, native, fill=outside[0]) as writer:
        everything = math.prod(high - low for low, high in properties.box) == math.prod(properties.shape_before_crop)
        if (outside != outside[0]).any() and not everything:
            for box in boxes(native.shape, (CHUNK,) * native.ndim):
                sides = [high - low for low, high in box]
                writer.write(box, np.broadcast_to(outside.reshape(-1, *[1] * native.ndim), (len(outside), *sides)))
        turn = turn_for(native, orientation)
        yield Native(writer if turn is None else TurnedWriter(writer, turn, properties.native.shape), properties, order, outside.reshape(-1, 1, 1, 1))
