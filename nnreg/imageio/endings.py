"""File endings: which there are, and which can hold what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError

ENDINGS: tuple[str, ...] = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npz", ".npy", ".zarr")
LOSSY = (".jpg", ".jpeg")
WHOLE_NUMBERS_ONLY = (".png", *LOSSY)


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
    name = Path(path).name.lower()
    for ending in ENDINGS:
        if name.endswith(ending):
            return ending
    found = "".join(Path(path).suffixes[-2:]) or "none"
    raise ImageError(f"{path}: the ending {found!r} is no image ending that nnReg knows. Convert the file to one of {', '.join(ENDINGS)}.")


def stem_of(path: Path | str) -> str:
    """The file name without its image ending.

    Examples
    --------
    >>> stem_of("images/case_0000.nii.gz")
    'case_0000'
    """
    return Path(path).name[: -len(ending_of(path))]


def is_image_file(path: Path) -> bool:
    """Whether there is such a file, or such a folder of a format (Zarr) whose images are folders."""
    return path.is_file() or (path.name.lower().endswith(".zarr") and path.is_dir())


def ending_for(ending: str, dtype: npt.DTypeLike) -> str:
    """The ending under which values of `dtype` can be written exactly, as near to `ending` as can be.

    JPEG changes values and PNG holds only bytes and 16-bit words, so computed images of such datasets are written as PNG or TIFF.

    Examples
    --------
    >>> ending_for(".jpg", "uint8"), ending_for(".png", "float32"), ending_for(".nii.gz", "float32")
    ('.png', '.tif', '.nii.gz')
    """
    if ending not in WHOLE_NUMBERS_ONLY:
        return ending
    if np.dtype(dtype) not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return ".tif"
    return ".png"
