"""Compiled loop of how near values are to the middle of [0, 1]. Arrays are flat."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats
from nnreg.kernels.compiled import compiled


@compiled
def middle(start: int, stop: int, result: Floats, values: Floats) -> None:
    """Values start to stop of ``(4 i (1 - i))^2``."""
    one, four = np.float32(1.0), np.float32(4.0)
    for x in range(np.uint64(start), np.uint64(stop)):
        root = four * values[x] * (one - values[x])
        result[x] = root * root
