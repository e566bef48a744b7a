"""Learn2Reg's displacement files: voxels of the fixed grid, (X, Y, Z, 3), components along those axes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnreg.errors import GeometryError
from nnreg.geometry.space import Space
from nnreg.geometry.transform import AffineMap, FieldMap, Transform


def to_learn2reg(transform: Transform, *, fixed: Space, moving: Space) -> npt.NDArray[np.float32]:
    """Displacement (X, Y, Z, 3) float32 in voxels: the moving index of fixed index i is ``i + u(i)``.

    With moving images on the fixed grid, as in the challenge, both are voxels of one grid; otherwise the result counts in
    voxels of the moving grid, which is what Learn2Reg's evaluation does with it.
    """
    to_moving_index = AffineMap(fixed.matrix @ moving.inverse_matrix)
    field = transform.then(Transform((to_moving_index,), transform.ndim)).sampled_on(fixed)
    axes_reversed = field.displacement[::-1].transpose(*range(fixed.ndim, -1, -1))
    return np.ascontiguousarray(axes_reversed, dtype=np.float32)


def from_learn2reg(displacement: npt.NDArray[np.floating], *, fixed: Space, moving: Space) -> Transform:
    """The inverse of :func:`to_learn2reg`.

    Raises
    ------
    GeometryError
        If the array does not lie on the fixed grid.
    """
    expected = (*fixed.shape[::-1], fixed.ndim)
    if tuple(displacement.shape) != expected:
        raise GeometryError(f"a Learn2Reg field for this fixed image has shape {expected}, found {tuple(displacement.shape)}.")
    voxels = np.asarray(displacement, dtype=np.float32).transpose(*range(fixed.ndim, -1, -1))[::-1]
    field = FieldMap(np.ascontiguousarray(voxels), fixed)
    return Transform((field, AffineMap(moving.matrix @ fixed.inverse_matrix)), fixed.ndim)
