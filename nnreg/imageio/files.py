"""Read and write by ending: the one registry of readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.imageio.endings import ending_of, is_image_file
from nnreg.imageio.image import Image
from nnreg.registry import Registry

Reader = Callable[[Path], Image]
Writer = Callable[[Path, npt.NDArray[np.generic], Space], None]

READERS: Registry[Reader] = Registry("image ending")
WRITERS: Registry[Writer] = Registry("image ending")


def _register() -> None:
    from nnreg.imageio import arrays, itk_files, tiff, zarr_files

    for ending in (".nii.gz", ".nii"):
        READERS[ending], WRITERS[ending] = itk_files.read_nifti, itk_files.write_nifti
    for ending in (".mha", ".mhd", ".nrrd", ".nhdr"):
        READERS[ending], WRITERS[ending] = itk_files.read_itk_image, itk_files.write_itk_image
    for ending in (".png", ".jpg", ".jpeg"):
        READERS[ending], WRITERS[ending] = itk_files.read_picture, itk_files.write_picture
    for ending in (".tif", ".tiff"):
        READERS[ending], WRITERS[ending] = tiff.read_tiff, tiff.write_tiff
    READERS[".zarr"], WRITERS[".zarr"] = zarr_files.read_zarr, zarr_files.write_zarr
    READERS[".npy"], WRITERS[".npy"] = arrays.read_npy, arrays.write_npy
    READERS[".npz"], WRITERS[".npz"] = arrays.read_npz, arrays.write_npz


_register()


def read_image(path: Path | str, *, npz_key: str | None = None) -> Image:
    """Read an image file.

    Parameters
    ----------
    path
        A file with one of :data:`nnreg.imageio.ENDINGS`.
    npz_key
        Which array of an ``.npz`` archive; needed only where it holds several.

    Returns
    -------
    Image
        Array (C, *spatial), dtype as stored. What the file calls 2D is 2D; 3D with a single slice stays 3D.

    Raises
    ------
    ImageError
        Missing, empty, truncated, damaged, of an unknown ending, or with a geometry that cannot be represented.
    """
    path = Path(path)
    if path.is_dir() and is_image_file(path):
        return READERS[ending_of(path)](path)
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, an image file was expected. Name one file (DICOM series: convert to .nii.gz first).")
    ending = ending_of(path)
    if not path.exists():
        raise ImageError(f"{path}: does not exist. Check its folder, name and ending.")
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: is empty (0 bytes). Copy or make the file again.")
        with path.open("rb"):
            pass
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    if ending == ".npz" and npz_key is not None:
        from nnreg.imageio.arrays import read_npz

        return read_npz(path, npz_key)
    return READERS[ending](path)


def read_channels(paths: Sequence[Path | str]) -> Image:
    """Read the channel files of a case as one image; a file with several channels (RGB) gives all of them.

    Raises
    ------
    ImageError
        If a file cannot be read, or two files do not lie on the same grid (the message names both).
    """
    if not paths:
        raise ImageError("no channel file was named. Give at least one.")
    images = [read_image(path) for path in paths]
    for path, image in zip(paths[1:], images[1:]):
        check_same_space(image.space, path, images[0].space, paths[0])
    # one type for all: the smallest that holds every channel exactly
    dtype = np.result_type(*(image.array.dtype for image in images))
    array = np.concatenate([image.array.astype(dtype, copy=False) for image in images])
    return Image(array, images[0].space, tuple(note for image in images for note in image.notes))


def check_same_space(space: Space, path: Path | str, other: Space, other_path: Path | str) -> None:
    """Raise an ImageError that names both files and what differs, unless the grids are the same."""
    if space.shape != other.shape:
        raise ImageError(f"{path}: has shape {space.shape}, but {other_path} has {other.shape}. Resample one onto the other's grid.")
    if not space.same_as(other):
        what = next(
            name for name in ("spacing", "origin", "direction", "corners") if name == "corners" or not np.allclose(getattr(space, name), getattr(other, name))
        )
        found = "" if what == "corners" else f" ({_short(getattr(space, what))} and {_short(getattr(other, what))})"
        raise ImageError(f"{path}: lies elsewhere in the world than {other_path}: their {what} differ{found}. Resample one onto the other's grid.")


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def write_image(path: Path | str, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write an image, whole or not at all; the ending chooses the format.

    Parameters
    ----------
    path
        NIfTI, MHA/MHD and NRRD keep the geometry in the file; TIFF, NPZ and Zarr in their metadata; PNG and NPY in a JSON file beside
        them, if it is not the plain one. NIfTI stores geometry in single precision (relative error 1e-7), the others in double.
    array : array, shape (C, *space.shape)
        The dtype is kept; a format that cannot hold it is an error.
    space : Space

    Raises
    ------
    ImageError
        If the format cannot hold the array exactly, or the folder cannot be written.
    """
    path = Path(path)
    array = np.asarray(array)
    if tuple(array.shape[1:]) != space.shape or array.shape[0] < 1:
        raise ImageError(f"{path}: an array of shape {tuple(array.shape)} does not lie on a grid of shape {space.shape}: expected (C, *grid).")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    writer = WRITERS[ending_of(path)]
    try:
        writer(path, array, space)
    except ImageError:
        raise
    except NnRegError as error:
        raise ImageError(str(error)) from error
