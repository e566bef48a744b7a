"""Label files: whole numbers of one channel, in memory or block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import unique
from nnreg.errors import DatasetError
from nnreg.geometry import Space
from nnreg.imageio import Image, check_finite, open_image, read_image
from nnreg.imageio.files import is_large


def whole_numbers(image: Image, path: Path) -> Image:
    """Labels as int16 or int32, refused if they are none."""
    if image.channels != 1:
        raise DatasetError(f"{path}: has {image.channels} channels, labels and masks have one. Save it as one channel (grey, not a colour palette).")
    array = rounded_labels(image, path)
    low, high = int(array.min()), int(array.max())
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        raise DatasetError(f"{path}: holds the value {high if high > limits.max else low}; labels fit in 32 bits. Renumber them.")
    dtype = np.int16 if np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max else np.int32
    return Image(array.astype(dtype), image.space, image.notes)


def rounded_labels(image: Image, path: Path | str) -> npt.NDArray[Any]:
    """Label maps (C, *spatial) in the type that they are stored in, refused if they are no whole numbers.

    Raises
    ------
    NnRegError
        Names the file and the first value that is none.
    """
    array = image.array
    if array.dtype.kind != "f":
        return array
    check_finite(image, path)
    rounded = np.rint(array)
    # a scale slope may leave a hair's breadth
    off = np.abs(array - rounded)
    if float(off.max()) > 1e-3:
        value = float(array.ravel()[off.argmax()])
        raise DatasetError(f"{path}: holds {value:.4g}, labels are whole numbers, masks too. Make them again; resample them with nearest neighbour only.")
    return np.asarray(rounded)


def read_label_map(path: Path) -> Image:
    """A label map or mask (1, *spatial) of integers, in the type that it is stored in.

    Raises
    ------
    NnRegError
        If the file is unreadable, has several channels, or values that are no whole numbers of 32 bits.
    """
    image = read_image(path)
    whole = whole_numbers(image, path)
    return image if image.array.dtype.kind in "iu" else whole


def whole_numbers_of_block(values: npt.NDArray[Any], path: Path) -> npt.NDArray[np.integer]:
    """Labels (1, *box) of a block of the file `path`, refused if they are none; small integers as they are stored."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        return values
    return whole_numbers(Image(values, Space.plain(values.shape[1:])), path).array


def values_in(path: Path) -> set[int]:
    """Values of a label file, read by parts where it is large.

    Raises
    ------
    NnRegError
        If it cannot be read or holds values that are not whole.
    """
    if not is_large([path]):
        return set(unique(whole_numbers(read_image(path), path).array))
    volume = open_image(path).volume()
    return {value for box in volume.boxes() for value in unique(whole_numbers_of_block(volume.read(box), path))}


def folder_beside(images: Path, kind: str) -> Path | None:
    """``labelsTs`` (or another `kind`) beside ``imagesTs``, if it is there."""
    if not images.name.startswith("images"):
        return None
    folder = images.with_name(kind + images.name.removeprefix("images"))
    return folder if folder.is_dir() else None
