"""One code for numpy arrays and for torch's tensors: what an array is decides what computes. Imports no torch; where there is a tensor, torch is there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from nnreg.arrays import AnyArray
from nnreg.errors import RegistrationError

Function = TypeVar("Function", bound=Callable[..., Any])


def by_array(compiled: Function) -> Function:
    """`compiled` where the first argument is a numpy array, else the function of its name in :mod:`nnreg.kernels.volumes_torch`."""

    @functools.wraps(compiled)
    def chosen(first: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(first, np.ndarray):
            return compiled(first, *arguments, **named)
        other = getattr(importlib.import_module("nnreg.kernels.volumes_torch"), compiled.__name__)
        return other(first, *arguments, **named)

    return chosen  # type: ignore[return-value]


def library(array: Any) -> Any:
    """Numpy or torch, whichever `array` is of: many of their functions share names and arguments."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Zeros where `like`, an image or field, is."""
    return np.zeros(shape, np.float32) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def indices(count: int, like: Any) -> Any:
    """0, 1, ... where `like`, an image or field, is: nothing is sent to a device."""
    return np.arange(count, dtype=np.float32) if isinstance(like, np.ndarray) else sys.modules["torch"].arange(count, dtype=like.dtype, device=like.device)


def copied(array: Any) -> Any:
    """The same numbers in memory of their own."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def on(array: AnyArray, device: Any) -> Any:
    """A numpy array as a tensor on a device; on None itself."""
    if device is None or not isinstance(array, np.ndarray):
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def placed(array: AnyArray, like: Any) -> Any:
    """A numpy array where `like` is."""
    return on(array, None if isinstance(like, np.ndarray) else like.device)


def as_array(array: Any) -> Any:
    """An array of either kind as one of numpy."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def as_number(value: Any) -> Any:
    """A sum in double precision: Python's number, or a tensor, which nobody waits for."""
    return float(value) if isinstance(value, np.generic) else value.double()


def read(*values: Any) -> list[float]:
    """Numbers as Python's. Those on a device come together: this is the one place of a level's iterations that waits for it."""
    tensors = [value for value in values if hasattr(value, "double")]
    found = iter(sys.modules["torch"].stack([tensor.double() for tensor in tensors]).tolist() if tensors else ())
    return [next(found) if hasattr(value, "double") else float(value) for value in values]


@contextlib.contextmanager
def computing_on(device: Any) -> Iterator[None]:
    """Products on a device in float32, whatever a training has set: TensorFloat-32 would move a voxel at index 200 by a tenth. None: all as it is.

    Raises
    ------
    RegistrationError
        If the device has too little memory.
    """
    if device is None:
        yield
        return
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RegistrationError(f"-device {device}: the pair does not fit into its memory. Use -device cpu.") from error
    finally:
        torch.set_float32_matmul_precision(before)
