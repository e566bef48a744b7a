"""Headers of text (MetaImage, NRRD), held against what ITK does not look at: numbers that are none, and more voxels than the file has."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnreg.errors import ImageError
from nnreg.imageio.promises import check_promise
from nnreg.quiet import caught

HEADER_BYTES = 2**16  # longer headers of text are none
# lines that say where the grid lies, in MetaImage and in NRRD
PLACES = re.compile(
    r"^(Offset|Position|Origin|ElementSpacing|ElementSize|TransformMatrix|Rotation|Orientation|space origin|space directions)\s*[=:](.*)$", re.M
)
DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file:)(.*)$", re.M | re.I)
RAW = re.compile(r"^(?:encoding: *raw|CompressedData *= *False)\s*$", re.M | re.I)


def check_text_header(path: Path) -> None:
    """Refuse a header of MetaImage or NRRD that ITK would misread without a word.

    Raises
    ------
    ImageError
        If its grid is no finite numbers, or its data cannot hold the voxels that it promises.
    """
    header = _text_header(path)
    _check_numbers(path, header)
    data = _data_file(path, header)
    if data is not None:
        check_size(path, data.stat().st_size, compressed=not RAW.search(header))


def _text_header(path: Path) -> str:
    """The lines before the voxels, as far as they can be read as text."""
    with path.open("rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1").replace("\r\n", "\n")
    # NRRD ends its header by an empty line, MetaImage by the line that names the data
    named = DATA_FILE.search(text)
    return text.partition("\n\n")[0] if text.startswith("NRRD") or named is None else text[: named.end()]


def _check_numbers(path: Path, header: str) -> None:
    """Refuse a grid that is no numbers: ITK reads them as zeros, without a word.

    Raises
    ------
    ImageError
        It names the line.
    """
    for line in PLACES.finditer(header):
        words = re.split(r"[\s,()]+", line[2])
        if any(word and not _is_finite(word) for word in words):
            raise ImageError(f"{path}: its header has {line[0].strip()[:80]!r}, expected finite numbers. Mend its header.")


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return word == "none"  # NRRD's direction of an axis that lies nowhere in space


def _data_file(path: Path, header: str) -> Path | None:
    """The file that holds the voxels; None where there are several, or none to be found."""
    named = DATA_FILE.search(header)
    name = "LOCAL" if named is None else named[1].strip()
    found = path if name.upper() == "LOCAL" else path.parent / name
    return found if found.is_file() else None


def check_size(path: Path, held: int, *, compressed: bool) -> None:
    """Hold what a header promises against the `held` bytes of its data; what ITK cannot read at all it tells when it reads it.

    Raises
    ------
    ImageError
        If that is more than they can hold.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with caught(), contextlib.suppress(RuntimeError):
        reader.ReadImageInformation()
        values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        check_promise(path, values * sitk.Image([1] * len(reader.GetSize()), reader.GetPixelID()).GetSizeOfPixelComponent(), held, compressed=compressed)
