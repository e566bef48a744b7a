"""Names for the kinds of numpy arrays that signatures speak of. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]  # images, fields
Doubles = npt.NDArray[np.float64]  # matrices, points
Reals = npt.NDArray[np.floating]  # of either width
Integers = npt.NDArray[np.integer]  # label maps and voxel indices, of any width
StoredLabels = npt.NDArray[np.int16]  # label maps as preprocessing stores them
ShortIntegers = npt.NDArray[np.int32]
LongIntegers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
