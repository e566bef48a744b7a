"""An image in memory: its array and where it lies in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.geometry import Space

LARGEST_SINGLE = float(np.finfo(np.float32).max)
COARSEST_STEP = 1e-3  # between neighbouring numbers of single precision, as a share of an image's range


@dataclass(frozen=True, eq=False)
class Image:
    """What a file holds.

    Attributes
    ----------
    array : array, shape (C, *space.shape)
        dtype as stored: integers stay integers (a NIfTI with a scale slope is float32, as ITK reads it).
    space : Space
    notes : tuple of str
        What the reader had to mend, one sentence each; empty for nearly every file.
    repetition : float, optional
        Of a series of volumes (NIfTI with four axes): step of the fourth axis in the header's unit, seconds mostly. The volumes are the channels.
        0 where the header has none.
    contrast : str, optional
        That the file is named after, as :func:`nnreg.imageio.contrast.contrast_named` says it.
    """

    array: npt.NDArray[Any]
    space: Space
    notes: tuple[str, ...] = ()
    repetition: float | None = None
    contrast: str | None = None

    def __post_init__(self) -> None:
        if tuple(self.array.shape[1:]) != self.space.shape:
            raise ImageError(f"an array of shape {tuple(self.array.shape)} does not lie on a grid of shape {self.space.shape}: expected (C, *grid).")

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """``np.asarray(image)``: the values (C, *grid)."""
        return np.array(self.array, dtype=dtype, copy=bool(copy) or None)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.space.ndim

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])


def check_finite(image: Image, path: Path | str) -> None:
    """Refuse NaN and infinity, and what :func:`check_precision` refuses.

    Raises
    ------
    ImageError
        Names `path` and how many voxels of which kind.
    """
    check_precision(image, path)
    if not np.issubdtype(image.array.dtype, np.inexact):
        return
    if np.isfinite(image.array).all():
        return
    nan, infinite = int(np.isnan(image.array).sum()), int(np.isinf(image.array).sum())
    found = " and ".join(f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count)
    raise ImageError(f"{path}: has {found} of {image.array.size} voxel values. Replace them (by the background value, for instance) or leave the case out.")


def check_precision(image: Image, path: Path | str) -> None:
    """Refuse values that are not told apart in single precision, in which everything is computed: large numbers, or small differences of large numbers.

    Raises
    ------
    ImageError
        Names `path`, the values and the steps between them.
    """
    array = image.array
    if array.dtype == np.float32 or array.dtype.itemsize < 4 or not array.size:
        return
    values = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    largest = max(abs(low), abs(high))
    step = float(np.spacing(np.float32(largest))) if largest <= LARGEST_SINGLE else np.inf
    if high > low and step > COARSEST_STEP * (high - low):
        raise ImageError(
            f"{path}: has values from {low:.9g} to {high:.9g}, between which single precision has steps of {step:.3g}. "
            "Subtract a constant or divide them, and save them as float32."
        )


def without_opaque_alpha(image: Image, name: Path | str) -> Image:
    """A picture (2D, whole numbers of 8 or 16 bits) without its fourth channel, if that is at its largest value everywhere.

    Such an alpha channel carries nothing. Of one that is transparent anywhere all channels stay; readers leave it, so that all cases of a dataset have as many
    channels. A note of the result says what was left out.
    """
    values = image.array
    if image.ndim != 2 or image.channels != 4 or values.dtype not in (np.uint8, np.uint16) or (values[3] != np.iinfo(values.dtype).max).any():
        return image
    note = f"{name}: its fourth channel is opaque everywhere (alpha) and was left out."
    return replace(image, array=values[:3], notes=(*image.notes, note))


def check_same_space(space: Space, path: Path | str, other: Space, other_path: Path | str) -> None:
    """Raise an ImageError that names both files and what differs, unless the grids are the same."""
    if space.shape != other.shape:
        raise ImageError(f"{path}: has shape {space.shape}, but {other_path} has {other.shape}. Resample one onto the other's grid.")
    if not space.same_as(other):
        finest = min(space.spacing)
        near = {"spacing": 1e-4 * finest, "origin": 0.01 * finest, "direction": 1e-4, "corners": np.inf}
        what = next(name for name, most in near.items() if name == "corners" or not np.allclose(getattr(space, name), getattr(other, name), rtol=0, atol=most))
        found = "" if what == "corners" else f" ({_short(getattr(space, what))} and {_short(getattr(other, what))})"
        raise ImageError(f"{path}: lies elsewhere in the world than {other_path}: their {what} differ{found}. Resample one onto the other's grid.")


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def as_stored(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Computed values in the type of a file: rounded and clipped for integers, as they are otherwise.

    Examples
    --------
    >>> as_stored(np.array([-3.0, 1.6, 300.0]), np.uint8)
    array([  0,   2, 255], dtype=uint8)
    """
    kind = np.dtype(dtype)
    if not np.issubdtype(kind, np.integer) or np.issubdtype(array.dtype, np.integer):
        return array.astype(kind, copy=False)
    limits = np.iinfo(kind)
    return np.clip(np.rint(array), limits.min, limits.max).astype(kind)
