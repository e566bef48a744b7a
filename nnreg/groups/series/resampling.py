"""Every frame of a series sampled once, by cubic splines: linear sampling blurs frames more, the further they lie between voxels."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from nnreg.arrays import Floats
from nnreg.geometry import Space, Transform, resample_image
from nnreg.kernels.positions_cpu import INSIDE

CUBIC, LINEAR = INTERPOLATIONS = ("cubic", "linear")


def resampled(frame: Floats, space: Space, transform: Transform, interpolation: str = CUBIC) -> Floats:
    """A frame (1, *space.shape) on its own grid under a transform; what lies beyond it gets its smallest value.

    Cubic splines do not leave the frame's range.
    """
    if interpolation == LINEAR:
        return resample_image(frame, moving=space, fixed=space, transform=transform)
    positions = transform.sampled_on(space).displacement.astype(np.float64)
    inside = np.ones(space.shape, bool)
    for axis, size in enumerate(space.shape):
        positions[axis] += np.arange(size).reshape([-1 if other == axis else 1 for other in range(space.ndim)])
        inside &= (positions[axis] > -INSIDE) & (positions[axis] < size - 1 + INSIDE)
    low, high = float(frame.min()), float(frame.max())
    values = np.clip(map_coordinates(frame[0], positions, order=3, mode="nearest", output=np.float32), low, high)
    return np.where(inside, values, np.float32(low))[None]
