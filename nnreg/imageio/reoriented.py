"""Images on disk that are seen along other axes than they are stored; nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.geometry.axis_permutation import AxisPermutation
from nnreg.imageio.lazy import LazyImage
from nnreg.imageio.zarr_files import ZarrWriter


@dataclass(frozen=True, eq=False)
class TurnedImage(LazyImage):
    """An image whose boxes are those of the stored one, turned; `space` is that of what is seen.

    Attributes
    ----------
    turn : AxisPermutation
    """

    turn: AxisPermutation

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels per axis, as it is seen, that are stored as one piece."""
        stored = super().chunks
        return tuple(stored[axis] for axis in self.turn.order)

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        """Voxels (C, *box), the box of what is seen."""
        return self.turn.seen(super().read(self.turn.stored_box(box, self.space.shape)))


@dataclass(frozen=True, eq=False)
class TurnedWriter:
    """Takes boxes of an image as it is seen, of `shape`, and stores them turned back.

    Attributes
    ----------
    writer : ZarrWriter
    turn : AxisPermutation
    shape : voxels per axis as it is seen
    """

    writer: ZarrWriter
    turn: AxisPermutation
    shape: tuple[int, ...]

    def write(self, box: Sequence[tuple[int, int]], values: npt.NDArray[Any]) -> None:
        """Put (C, *box) values in place."""
        self.writer.write(self.turn.stored_box(box, self.shape), np.ascontiguousarray(self.turn.stored(values)))
