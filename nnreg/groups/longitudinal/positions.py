"""Displacements of all pairs of visits brought to agree: where each visit lies, seen from the middle of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.arrays import Floats
from nnreg.geometry import FieldMap, Space
from nnreg.groups.halfway import Between
from nnreg.groups.members import Member


@dataclass(frozen=True, eq=False)
class Positions:
    """Where a point of the middle space is found in each image, each list with a FieldMap for each of them, which sum to zero.

    Attributes
    ----------
    whole : by all data
    one, other : by either half of the data. That they differ is error.
    """

    whole: list[FieldMap]
    one: list[FieldMap]
    other: list[FieldMap]


def positions(between: Between, members: Sequence[Member], space: Space) -> Positions:
    """Displacements of images from their middle.

    With ``w_ij`` from image i to image j, seen from halfway and antisymmetric, the least squares solution of ``u_j - u_i = w_ij`` for all pairs whose sum is
    zero is the mean ``u_j = sum_i w_ij / count``. It is exact for two images, and to first order for more, whose displacements have to be small: those of one
    subject are.
    """
    shape = (3, space.ndim, *(space.shape if space.ndim == 3 else (1, *space.shape)))
    sums = [np.zeros(shape, np.float32) for _ in members]
    for j, later in enumerate(members):
        for i, earlier in enumerate(members[:j]):
            found = between.fields(earlier, later) / np.float32(len(members))
            sums[j] += found
            sums[i] -= found
    return Positions(*([_as_map(way[kind], space) for way in sums] for kind in range(3)))


def _as_map(field: Floats, space: Space) -> FieldMap:
    return FieldMap(np.ascontiguousarray(field if space.ndim == 3 else field[:, 0]), space)
