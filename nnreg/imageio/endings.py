"""File endings: which there are, and which can hold what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio.formats import format_of, formats, image_of

WITHOUT_UNIT = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz")  # of formats whose files mostly say nothing of geometry


class _Endings(Sequence[str]):
    """Endings of all formats, in the order in which they were registered; always as the registry is now."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return tuple(formats())[index]

    def __len__(self) -> int:
        return len(formats())

    def __contains__(self, ending: object) -> bool:
        return ending in formats()

    def __iter__(self) -> Iterator[str]:
        return iter(formats())

    def __repr__(self) -> str:
        return repr(tuple(self))


ENDINGS: Sequence[str] = _Endings()


def ending_of(path: Path | str) -> str:
    """The image ending of a file name; ``.nii.gz`` is one ending.

    Raises
    ------
    ImageError
        If no reader knows it.

    Examples
    --------
    >>> ending_of("scan.v2.nii.gz")
    '.nii.gz'
    """
    name = image_of(path).name.lower()
    fitting = [ending for ending in formats() if name.endswith(ending)]
    if fitting:
        return max(fitting, key=len)
    found = "".join(Path(path).suffixes[-2:]) or "none"
    raise ImageError(f"{path}: the ending {found!r} is no image ending that nnReg knows. Convert the file to one of {', '.join(ENDINGS)}.")


def stem_of(path: Path | str) -> str:
    """The file name without its image ending.

    Examples
    --------
    >>> stem_of("images/case_0000.nii.gz")
    'case_0000'
    """
    return image_of(path).name[: -len(ending_of(path))]


def unit_of(paths: Sequence[Path | str], space: Space) -> str:
    """The unit in which lengths of an image are told: "px" where its files say nothing of its geometry (PNG, JPEG, plain TIFF, npy), else "mm"."""
    return "px" if all(str(path).lower().endswith(WITHOUT_UNIT) for path in paths) and space == Space.plain(space.shape) else "mm"


def is_image_file(path: Path) -> bool:
    """Whether there is such a file, or such a folder of a format (Zarr) whose images are folders."""
    if path.is_file():
        return True
    found = format_of(path)
    return found is not None and found.folders and path.is_dir()


def is_lossy(ending: str) -> bool:
    """Whether the format changes whatever it stores, as JPEG does."""
    return formats()[ending].exact_types == ()


def ending_for(ending: str, dtype: npt.DTypeLike) -> str:
    """The ending under which values of `dtype` can be written exactly, as near to `ending` as can be.

    JPEG changes values and PNG holds only bytes and 16-bit words, so computed images of such datasets are written as PNG or TIFF.

    Examples
    --------
    >>> ending_for(".jpg", "uint8"), ending_for(".png", "float32"), ending_for(".nii.gz", "float32")
    ('.png', '.tif', '.nii.gz')
    """
    known = formats()
    nearest = (ending, *((".png",) if ending in (".jpg", ".jpeg") else ()), ".tif")
    return next(near for near in nearest if known[near].holds(dtype))
