"""What metrics accept: numpy arrays or tensors, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnreg.errors import GeometryError

ArrayOrTensor = npt.NDArray[np.generic] | Tensor


def as_numpy(values: ArrayOrTensor) -> npt.NDArray[np.generic]:
    """The values as a numpy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def as_fields(field: ArrayOrTensor) -> Tensor:
    """A field (ndim, *spatial) or (B, ndim, *spatial) as a float32 batch on its own device.

    Raises
    ------
    GeometryError
        If it is neither.
    """
    tensor = field.detach() if isinstance(field, Tensor) else torch.from_numpy(np.ascontiguousarray(field))
    if tensor.ndim in (3, 4) and tensor.shape[0] == tensor.ndim - 1:
        tensor = tensor[None]
    if tensor.ndim not in (4, 5) or tensor.shape[1] != tensor.ndim - 2:
        raise GeometryError(f"a displacement field is (ndim, *spatial) or (B, ndim, *spatial), found shape {tuple(tensor.shape)}.")
    return tensor.float()


def as_mask(mask: ArrayOrTensor | None, field: Tensor) -> Tensor:
    """Voxels that count, boolean (B, *spatial); all of them without a mask. A mask may have leading axes of length 1.

    Raises
    ------
    GeometryError
        If the mask lies on another grid than the field.
    """
    spatial = tuple(field.shape[2:])
    if mask is None:
        return torch.ones((field.shape[0], *spatial), dtype=torch.bool, device=field.device)
    tensor = torch.as_tensor(as_numpy(mask) != 0, device=field.device)
    if tuple(tensor.shape[-len(spatial) :]) != spatial or math.prod(tensor.shape[: -len(spatial)]) not in (1, field.shape[0]):
        raise GeometryError(f"a mask of shape {tuple(tensor.shape)} does not lie on the field's grid {spatial}.")
    return tensor.reshape(-1, *spatial).expand(field.shape[0], *spatial)


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


def spacing_column(spacing: Sequence[float], field: Tensor) -> Tensor:
    """Spacing (mm, array axis order) as (1, ndim, 1, ...), to turn components into mm."""
    ndim = field.shape[1]
    if len(spacing) != ndim:
        raise GeometryError(f"a field with {ndim} components needs {ndim} spacings, found {len(spacing)}.")
    return torch.tensor(tuple(spacing), dtype=torch.float32, device=field.device).reshape(1, ndim, *(1,) * ndim)
