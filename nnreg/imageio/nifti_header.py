"""What a NIfTI header promises, read without ITK: ITK reads a truncated file as zeros and mends a damaged geometry without a word."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnreg.errors import ImageError
from nnreg.geometry.space import FloatArray

BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The fields that matter.

    Attributes
    ----------
    shape : x first, as in the file, without trailing ones beyond the declared number of axes
    spacing : mm, x first, at most three
    matrices : index (x, y, z) to world (LPS) matrices that the file declares, sform first; empty if it declares none
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    matrices: tuple[FloatArray, ...]


def check_nifti(path: Path) -> NiftiHeader:
    """Read the header and prove that all the voxels it promises are there and undamaged.

    Raises
    ------
    ImageError
        If the file is no NIfTI, is truncated, or fails its checksum.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        if compressed:
            with gzip.open(path, "rb") as file:
                return _check(file, path)  # type: ignore[arg-type]
        with path.open("rb") as file:
            return _check(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"{path}: is truncated or damaged (gzip: {_short(error)}). Copy or make the file again.") from error


def _short(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _check(file: BinaryIO, path: Path) -> NiftiHeader:
    start = file.read(540)
    header, needed = _parse(start, path)
    size = len(start)
    # to the end, not just to the last voxel: only there gzip compares its checksum
    while block := file.read(BLOCK):
        size += len(block)
    if size < needed:
        raise ImageError(f"{path}: is truncated: its header promises {needed} bytes, it holds {size}. Copy or make the file again.")
    return header


@dataclass(frozen=True)
class _Layout:
    """Where the fields of a NIfTI version lie: (offset, struct format)."""

    size: int
    dims: tuple[int, str]
    bits: tuple[int, str]
    offset: tuple[int, str]
    spacing: tuple[int, str]
    codes: tuple[int, str]
    quaternion: tuple[int, str]
    rows: tuple[int, str]
    units: tuple[int, str]


# https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h
_LAYOUTS = (
    _Layout(348, (40, "8h"), (72, "h"), (108, "f"), (76, "8f"), (252, "2h"), (256, "6f"), (280, "12f"), (123, "B")),
    _Layout(540, (16, "8q"), (14, "h"), (168, "q"), (104, "8d"), (344, "2i"), (352, "6d"), (400, "12d"), (500, "i")),
)
_UNIT_MM = {1: 1e3, 2: 1.0, 3: 1e-3}  # metre, millimetre, micrometre; an unknown unit counts as mm, as in ITK


def _parse(data: bytes, path: Path) -> tuple[NiftiHeader, int]:
    layout, order = _layout_of(data, path)

    def get(field: tuple[int, str]) -> tuple[Any, ...]:
        return struct.unpack_from(order + field[1], data, field[0])

    dims = get(layout.dims)
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise ImageError(f"{path}: its NIfTI header declares the dimensions {dims}, which make no image. Convert it again from its source.")
    shape = tuple(dims[1 : dims[0] + 1])
    needed = int(max(get(layout.offset)[0], 0)) + int(np.prod(shape, dtype=np.int64)) * get(layout.bits)[0] // 8
    scale = _UNIT_MM.get(get(layout.units)[0] & 7, 1.0)
    spacing = get(layout.spacing)
    matrices = _matrices(spacing, get(layout.codes), get(layout.quaternion), get(layout.rows))
    millimetres = np.diag([scale, scale, scale, 1.0])
    return NiftiHeader(shape, tuple(scale * value for value in spacing[1:4]), tuple(millimetres @ matrix for matrix in matrices)), needed


def _layout_of(data: bytes, path: Path) -> tuple[_Layout, str]:
    for layout in _LAYOUTS:
        for order in "<>":
            if len(data) >= layout.size and struct.unpack_from(order + "i", data)[0] == layout.size:
                return layout, order
    raise ImageError(f"{path}: is not a NIfTI file (it does not start with a whole NIfTI header). Check what it really is, or make it again.")


def _matrices(pixdim: tuple[float, ...], codes: tuple[int, ...], quaternion: tuple[float, ...], rows: tuple[float, ...]) -> tuple[FloatArray, ...]:
    """The declared index to LPS matrices, in the file's unit."""
    qcode, scode = codes
    found = []
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world is right-anterior-superior
    if scode > 0:
        found.append(to_lps @ np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]))
    if qcode > 0:
        b, c, d, x, y, z = quaternion
        a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
                [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
                [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - b * b - c * c],
            ]
        )
        handedness = -1.0 if pixdim[0] < 0 else 1.0
        matrix = np.eye(4)
        matrix[:3, :3] = rotation * np.array([pixdim[1], pixdim[2], pixdim[3] * handedness])
        matrix[:3, 3] = x, y, z
        found.append(to_lps @ matrix)
    return tuple(found)
