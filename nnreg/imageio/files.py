"""Read, open and write by ending, each by the registered format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError, ImageWriteError, NnRegError, WriteError
from nnreg.geometry import Space
from nnreg.imageio.arrays import NPY, NPZ, read_npz
from nnreg.imageio.contrast import contrast_named
from nnreg.imageio.endings import ending_of, is_image_file
from nnreg.imageio.formats import Format, Reader, Writer, format_of, formats, image_of, register_format
from nnreg.imageio.image import Image, check_same_space
from nnreg.imageio.itk_files import ITK, JPEG, NIFTI, PNG
from nnreg.imageio.lazy import LazyImage, largest_whole, size_on_disk
from nnreg.imageio.tiff import TIFF
from nnreg.imageio.zarr_files import ZARR
from nnreg.parallel import is_out_of_memory

T = TypeVar("T")

for _format in (NIFTI, ITK, TIFF, PNG, JPEG, NPZ, NPY, ZARR):
    register_format(_format)


class _By(Mapping[str, T], Generic[T]):
    """One part of every format, by ending; always as the registry is now."""

    def __init__(self, part: Callable[[Format], T]) -> None:
        self._part = part

    def __getitem__(self, ending: str) -> T:
        return self._part(formats()[ending])

    def __iter__(self) -> Iterator[str]:
        return iter(formats())

    def __len__(self) -> int:
        return len(formats())


READERS: Mapping[str, Reader] = _By(lambda found: found.read)
WRITERS: Mapping[str, Writer] = _By(lambda found: found.write)


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
    try:
        found = _read(Path(path), npz_key)
    except (MemoryError, RuntimeError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(f"{path}: does not fit into memory ({error}). Cut or resample it, or free memory.") from error
    array = found.array.astype(_computable(found.array.dtype), copy=False)
    return Image(array, found.space, found.notes, found.repetition, contrast_named(Path(path).name))


def _computable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of this machine's byte order, and of 64 bits at most."""
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


def _read(path: Path, npz_key: str | None) -> Image:
    if is_image_file(image_of(path)) and image_of(path).is_dir():
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
    contrasts = {image.contrast for image in images}
    contrast = contrasts.pop() if len(contrasts) == 1 else None
    return Image(array, images[0].space, tuple(note for image in images for note in image.notes), contrast=contrast)


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
    except WriteError as error:
        raise ImageWriteError(str(error)) from error
    except NnRegError as error:
        raise ImageError(str(error)) from error


def open_image(paths: Path | str | Sequence[Path | str]) -> LazyImage:
    """Open the channel files of an image (Zarr, TIFF, or another format that allows it) without reading their voxels.

    Raises
    ------
    ImageError
        If a file is missing, damaged, cannot be read by parts, or lies on another grid than the first.
    """
    several = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    opened = [_opened(path) for path in several]
    for other in opened[1:]:
        check_same_space(other.space, other.path, opened[0].space, opened[0].path)
    return LazyImage(tuple(file for image in opened for file in image.files), opened[0].space)


def _opened(path: Path) -> LazyImage:
    if not path.exists():
        raise ImageError(f"{path}: does not exist. Check its folder, name and ending.")
    ending = ending_of(path)
    opener = formats()[ending].open
    if opener is None:
        raise ImageError(f"{path}: {ending} files are read whole only. Convert an image that does not fit into memory to .zarr.")
    return opener(path)


def is_large(paths: Sequence[Path]) -> bool:
    """Whether an image has to be read by parts: its format allows it, and it has more values than :func:`largest_whole`."""
    known = [format_of(path) for path in paths]
    if not all(path.exists() and found is not None and found.open is not None for path, found in zip(paths, known, strict=True)):
        return False
    if sum(size_on_disk(path) for path in paths) == 0:
        return False  # empty: said by whoever reads it
    return math.prod(open_image(paths).shape) > largest_whole()
