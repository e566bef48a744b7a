"""The map of a displacement field between voxel centres, taken as linear on simplices: finite-difference Jacobian determinants.

Liu et al., On finite difference Jacobian computation in deformable image registration, IJCV 2024.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from nnreg.geometry.fields import identity_grid


def simplex_determinants(fields: Tensor) -> Iterator[Tensor]:
    """The four (2D) or ten (3D) finite-difference determinants (B, *inner) of every voxel that has all its neighbours.

    A cube of eight centres splits into five tetrahedra in two ways, and with both splits ten determinants belong to each voxel (two splits of a square into
    two triangles and four determinants in 2D); each is six (two) times the volume of its simplex.
    """
    ndim = fields.shape[1]
    position = fields + identity_grid(fields.shape[2:], fields.device)

    def at(*offset: int) -> Tensor:
        shape = fields.shape[2:]
        return position[(slice(None), slice(None), *(slice(1 + o, size - 1 + o) for o, size in zip(offset, shape, strict=True)))]

    centre = at(*(0,) * ndim)
    units = [tuple(int(axis == other) for other in range(ndim)) for axis in range(ndim)]
    one_sided = [(at(*unit) - centre, centre - at(*(-step for step in unit))) for unit in units]
    for columns in itertools.product(*one_sided):
        yield _determinant(columns)
    if ndim == 3:
        # the tetrahedron left in the middle of each split; its corners lie across the faces of the cube
        faces = ((1, 1, 0), (0, 1, 1), (1, 0, 1))
        yield _determinant(tuple(at(*face) - centre for face in faces))
        yield _determinant(tuple(centre - at(*(-step for step in face)) for face in faces))


def _determinant(columns: Sequence[Tensor]) -> Tensor:
    """Determinant of the matrices with these columns (B, ndim, *spatial)."""
    if len(columns) == 2:
        (a, b), (c, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = (column.unbind(1) for column in columns)
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)
