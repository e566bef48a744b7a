"""How every compiled loop of the package is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

# additions may be reordered so that loops vectorise; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function: Function) -> Function:
    """Compile on first use and keep the result on disk. Runs without the interpreter's lock; a division by zero is infinite, as in numpy.

    Python's rule (raise) would put a branch into every loop that divides, and no such loop would use vectors.
    """
    return njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)(function)  # type: ignore[return-value]
