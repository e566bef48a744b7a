"""What metrics accept: numpy arrays or tensors, on any device."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from nnreg.errors import GeometryError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

ArrayOrTensor: TypeAlias = "npt.NDArray[np.generic] | Tensor"


def is_tensor(values: object) -> TypeIs[Tensor]:
    """Whether it is a tensor of torch, which is not loaded to find out: without it nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def as_numpy(values: ArrayOrTensor) -> npt.NDArray[np.generic]:
    """The values as a numpy array."""
    return values.detach().cpu().numpy() if is_tensor(values) else np.asarray(values)


def as_label_map(labels: ArrayOrTensor, ndim: int) -> npt.NDArray[np.generic]:
    """A label map (*spatial) or (1, *spatial) as (*spatial).

    Raises
    ------
    GeometryError
        If it has other axes.
    """
    array = as_numpy(labels)
    if array.ndim == ndim + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != ndim:
        raise GeometryError(f"a label map with {ndim} spacings is (*spatial) or (1, *spatial), found shape {array.shape}.")
    return array


def same_shape(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> None:
    """Refuse to compare what lies on different grids.

    Raises
    ------
    GeometryError
        If shapes differ.
    """
    if first.shape != second.shape:
        raise GeometryError(f"shapes {first.shape} and {second.shape} cannot be compared: bring both onto the fixed grid first.")
