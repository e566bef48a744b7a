"""The same voxels with their axes in another order, some of them the other way round: of arrays and of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AxisPermutation:
    """From how an image is stored to how it is seen.

    Attributes
    ----------
    order
        Of each axis that is seen, which of the stored ones it is.
    backwards
        Axes that are seen the other way round than they are stored.
    """

    order: tuple[int, ...]
    backwards: tuple[int, ...]

    def seen(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of stored values (C, *spatial) as they are seen."""
        return np.flip(values.transpose(0, *(axis + 1 for axis in self.order)), tuple(axis + 1 for axis in self.backwards))

    def stored(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of :meth:`seen`."""
        back = np.argsort(self.order)
        return np.flip(values, tuple(axis + 1 for axis in self.backwards)).transpose(0, *(int(axis) + 1 for axis in back))

    def stored_box(self, box: Sequence[tuple[int, int]], shape: Sequence[int]) -> list[tuple[int, int]]:
        """Where a box (first and one past the last index per axis) of an image seen with `shape` is stored.

        Examples
        --------
        >>> AxisPermutation((1, 0), (0,)).stored_box([(1, 3), (0, 2)], (7, 5))
        [(0, 2), (4, 6)]
        """
        found = [(0, 0)] * len(self.order)
        for axis, (old, (low, high), size) in enumerate(zip(self.order, box, shape, strict=True)):
            found[old] = (size - high, size - low) if axis in self.backwards else (low, high)
        return found
