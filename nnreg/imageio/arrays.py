"""NPY and NPZ: plain arrays, with spacing, origin and direction where they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.files import atomic_path
from nnreg.geometry import Space
from nnreg.imageio.formats import Format
from nnreg.imageio.image import Image
from nnreg.imageio.promises import load_member, load_npy, opened_archive
from nnreg.imageio.sidecar import KEYS, read_space, space_from, write_space

DATA_KEY = "data"


def read_npy(path: Path) -> Image:
    """Read (*spatial), 2D or 3D, or (C, D, H, W); geometry from a JSON file beside it, else plain."""
    try:
        array = load_npy(path)
    except (ValueError, OSError) as error:
        raise ImageError(f"{path}: is not a whole .npy array ({_reason(error)}). Write it again with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{path}: is an archive, not an .npy array. Rename it to .npz.")
    array = _numeric(array, path)
    if array.ndim in (2, 3):
        array = array[None]
    elif array.ndim != 4:
        raise ImageError(
            f"{path}: has shape {array.shape}; expected (H, W), (D, H, W) or (C, D, H, W). 2D images with channels: use .npz with a 'spacing' of two values."
        )
    return Image(array, read_space(path, array.shape[1:]))


def read_npz(path: Path, key: str | None = None) -> Image:
    """Read one array of an archive; ``spacing`` (array order), ``origin`` and ``direction`` (world order) beside it are used if there.

    The number of spacings says how many axes are spatial: an array with one axis more has its channels first.
    """
    try:
        with opened_archive(path) as archive:
            names = [name for name in archive.files if name not in KEYS]
            chosen = _choose(path, key, names)
            array = _numeric(load_member(archive, chosen, path), path)
            geometry = {name: load_member(archive, name, path) for name in KEYS if name in archive.files}
    except ValueError as error:
        raise ImageError(f"{path}: is not a whole .npz archive ({_reason(error)}). Write it again with numpy.savez.") from error
    spatial = int(np.size(geometry["spacing"])) if "spacing" in geometry else min(array.ndim, 3)
    if array.ndim == spatial:
        array = array[None]
    if spatial not in (2, 3) or array.ndim != spatial + 1:
        raise ImageError(
            f"{path}: {chosen!r} has shape {array.shape} with {spatial} spatial axes; expected (H, W), (D, H, W), or channels before them with a 'spacing'."
        )
    return Image(array, space_from(geometry, array.shape[1:], f"{path}"))


def _choose(path: Path, key: str | None, names: list[str]) -> str:
    if key is None and DATA_KEY in names:
        return DATA_KEY
    if key is None and len(names) == 1:
        return names[0]
    if key is not None and key in names:
        return key
    what = "holds several arrays or none" if key is None else f"has no array {key!r}"
    raise ImageError(f"{path}: {what} (found: {', '.join(names) or 'none'}). Name one of them as npz_key, or call it {DATA_KEY!r}.")


def _numeric(array: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.generic]:
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise ImageError(f"{path}: has shape {array.shape} and type {array.dtype}; expected numbers, at least one.")
    return array


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_npy(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write an array; geometry that is not plain goes into a JSON file beside it."""
    if array.shape[0] > 1 and space.ndim == 2:
        raise ImageError(f"{path}: .npy cannot tell channels of a 2D image from slices. Use .npz.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array[0] if array.shape[0] == 1 else array, allow_pickle=False)
    write_space(path, space)


def write_npz(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write (C, *spatial) under ``data``, with spacing, origin and direction."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, data=array, spacing=space.spacing, origin=space.origin, direction=space.direction)


NPY = Format((".npy",), read_npy, write_npy)
NPZ = Format((".npz",), read_npz, write_npz)
