"""NIfTI: voxels read here, grid by ITK.

ITK alone will not do: it reads the missing end of a truncated file as zeros, turns NaN and infinity into zeros, and takes a spacing of 0
as 1 mm, all without a word. So header and voxels are read here, and ITK's grid is held against what the header declares.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.deflate import GZIP, DamagedError, unpacked
from nnreg.errors import ImageError
from nnreg.imageio.promises import check_promise

# datatype codes of nifti1.h; colours have three or four bytes per voxel
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8", 128: "u1", 2304: "u1"}
COLOURS = {128: 3, 2304: 4}
LONGEST_HEADER = 544  # bytes of NIfTI-2 and its mark of extensions
LARGEST_OFFSET = 2**26  # bytes of header and extensions
MOST_BEYOND = 2**20  # bytes after the last voxel that other programs may have put there
_UNIT_MM = {1: 1e3, 2: 1.0, 3: 1e-3}  # metre, millimetre, micrometre; an unknown unit counts as mm, as in ITK


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The fields that matter.

    Attributes
    ----------
    shape : x first, as in the file
    spacing : mm, x first, at most three
    matrices : index (x, y, z) to world (LPS) matrices that the file declares, sform first; empty if it declares none
    dtype : of a voxel's components as stored, with byte order
    components : per voxel: 1, or 3 and 4 for colours
    intent : what the values are (1006 and 1007: vectors)
    step : along the fourth axis, as stored; 0 where the file says nothing
    offset : bytes before the first voxel
    slope, intercept : value = slope * stored + intercept
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    matrices: tuple[Doubles, ...]
    dtype: np.dtype[Any]
    components: int
    offset: int
    slope: float
    intercept: float
    intent: int = 0
    step: float = 0.0

    @property
    def rescales(self) -> bool:
        """Whether stored values are not yet the image's (a slope of 0 or NaN means there is none)."""
        return self.slope != 0 and bool(np.isfinite([self.slope, self.intercept]).all()) and (self.slope, self.intercept) != (1.0, 0.0)


def read_nifti_voxels(path: Path) -> tuple[NiftiHeader, npt.NDArray[Any]]:
    """Header and voxels.

    Returns
    -------
    header : NiftiHeader
    voxels : array, shape (components, *shape reversed), writable
        float32 if scaled integers, as ITK has it; otherwise as stored.

    Raises
    ------
    ImageError
        If the file is no NIfTI, is truncated, fails its checksum, or holds no real numbers.
    """
    header, data = _header_and_data(path)
    stored = data.view(header.dtype)
    voxels = _scaled(stored, header)
    if header.components > 1:
        return header, np.ascontiguousarray(voxels.reshape(-1, header.components).T).reshape(header.components, *header.shape[::-1])
    return header, voxels.reshape(1, *header.shape[::-1])


def read_nifti_header(path: Path) -> NiftiHeader:
    """The header alone.

    Raises
    ------
    ImageError
        If it is none.
    """
    with _told(path), unpacked(path) as file:
        return _parse(file.read(LONGEST_HEADER), path)


def _header_and_data(path: Path) -> tuple[NiftiHeader, npt.NDArray[np.uint8]]:
    """Header and the bytes of the voxels; what is inflated is what the header promises, and the little that may follow."""
    with _told(path), unpacked(path) as file:
        head = file.read(LONGEST_HEADER)
        header = _parse(head, path)
        size = math.prod(header.shape) * header.components * header.dtype.itemsize
        check_promise(path, header.offset + size, path.stat().st_size, compressed=is_gzip(path))
        if header.offset > LARGEST_OFFSET:
            raise ImageError(f"{path}: its header puts the voxels at byte {header.offset}, expected {LARGEST_OFFSET} at most. Mend its header.")
        _skip(file, header.offset - len(head))
        data = np.empty(size, np.uint8)
        early = np.frombuffer(head[header.offset :][:size], np.uint8)
        data[: early.size] = early
        filled = early.size + _fill(file, data.data[early.size :])
        if filled < size:
            raise ImageError(
                f"{path}: is truncated: its header promises {header.offset + size} bytes, it holds {header.offset + filled}. Copy or make the file again."
            )
        rest = len(file.read(MOST_BEYOND + 1))  # read to the end, where the checksum is
        if rest > MOST_BEYOND and is_gzip(path):
            raise ImageError(f"{path}: holds far more bytes than the {header.offset + size} its header promises. Check where it comes from, or make it again.")
    return header, data


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip: some programs write plain NIfTI under a .gz name."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise ImageError(f"{path}: is truncated or damaged (gzip: {error}). Copy or make the file again.") from error
    except (ValueError, OverflowError, struct.error) as error:
        raise ImageError(f"{path}: its NIfTI header holds what is no number of the right size ({error}). Copy or make the file again.") from error


def _skip(file: BinaryIO, count: int) -> None:
    if count > 0:
        file.read(count)


def _fill(file: BinaryIO, target: memoryview) -> int:
    """Read until `target` is full or the file ends; bytes read."""
    filled = 0
    while filled < len(target):
        count = file.readinto(target[filled:])  # type: ignore[attr-defined]  # of every file that is buffered
        if not count:
            break
        filled += count
    return filled


def without_scale(path: Path, header: NiftiHeader, voxels: npt.NDArray[Any]) -> bytes:
    """The file of `header` and `voxels` with its values in float32 and no scale: ITK dies of scaled vectors, or reads them wrongly.

    Nothing else of the header is touched, so that ITK makes of grid and intent what it makes of the file's own.
    """
    with _told(path), unpacked(path) as file:
        head = bytearray(file.read(header.offset))
    layout, order = _layout_of(bytes(head), path)
    struct.pack_into(order + "2h", head, layout.datatype[0], 16, 32)  # data type and bits per voxel lie side by side
    struct.pack_into(order + layout.slope[1], head, layout.slope[0], 1.0, 0.0)
    return bytes(head) + voxels.astype(np.dtype(order + "f4")).tobytes()


def _scaled(stored: npt.NDArray[Any], header: NiftiHeader) -> npt.NDArray[Any]:
    native = header.dtype.newbyteorder("=")
    if not header.rescales:
        return stored.astype(native)
    target = np.float64 if native == np.float64 else np.float32
    # computed in double, as ITK does, and rounded once
    return (stored.astype(np.float64) * header.slope + header.intercept).astype(target)


@dataclass(frozen=True)
class _Layout:
    """Where the fields of a NIfTI version lie: (offset, struct format)."""

    size: int
    dims: tuple[int, str]
    datatype: tuple[int, str]
    offset: tuple[int, str]
    slope: tuple[int, str]
    spacing: tuple[int, str]
    codes: tuple[int, str]
    quaternion: tuple[int, str]
    rows: tuple[int, str]
    units: tuple[int, str]
    intent: tuple[int, str]


# https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h
_LAYOUTS = (
    _Layout(348, (40, "8h"), (70, "h"), (108, "f"), (112, "2f"), (76, "8f"), (252, "2h"), (256, "6f"), (280, "12f"), (123, "B"), (68, "h")),
    _Layout(540, (16, "8q"), (12, "h"), (168, "q"), (176, "2d"), (104, "8d"), (344, "2i"), (352, "6d"), (400, "12d"), (500, "i"), (504, "i")),
)


def _parse(data: bytes, path: Path) -> NiftiHeader:
    layout, order = _layout_of(data, path)

    def get(field: tuple[int, str]) -> tuple[Any, ...]:
        return struct.unpack_from(order + field[1], data, field[0])

    dims = get(layout.dims)
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise ImageError(f"{path}: its NIfTI header declares the dimensions {dims}, which make no image. Convert it again from its source.")
    datatype = get(layout.datatype)[0]
    if datatype not in DTYPES:
        raise ImageError(f"{path}: its NIfTI data type has the code {datatype}, which is no real number of up to 64 bits. Convert it to float32.")
    scale = _UNIT_MM.get(get(layout.units)[0] & 7, 1.0)
    spacing, millimetres = get(layout.spacing), np.diag([scale, scale, scale, 1.0])
    matrices = _matrices(spacing, get(layout.codes), get(layout.quaternion), get(layout.rows))
    slope, intercept = get(layout.slope)
    return NiftiHeader(
        shape=tuple(dims[1 : dims[0] + 1]),
        spacing=tuple(scale * value for value in spacing[1:4]),
        matrices=tuple(millimetres @ matrix for matrix in matrices),
        dtype=np.dtype(order + DTYPES[datatype]),
        components=COLOURS.get(datatype, 1),
        offset=max(int(get(layout.offset)[0]), layout.size),
        slope=slope,
        intercept=intercept,
        intent=get(layout.intent)[0],
        step=spacing[4],
    )


def _layout_of(data: bytes, path: Path) -> tuple[_Layout, str]:
    for layout in _LAYOUTS:
        for order in "<>":
            if len(data) >= layout.size and struct.unpack_from(order + "i", data)[0] == layout.size:
                return layout, order
    raise ImageError(f"{path}: is not a NIfTI file (it does not start with a whole NIfTI header). Check what it really is, or make it again.")


def _matrices(pixdim: tuple[float, ...], codes: tuple[int, ...], quaternion: tuple[float, ...], rows: tuple[float, ...]) -> tuple[Doubles, ...]:
    """The declared index to LPS matrices, in the file's unit."""
    qcode, scode = codes
    found = []
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world is right-anterior-superior
    if scode > 0 and np.isfinite(rows).all():
        found.append(to_lps @ np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]]))
    # a quaternion says nothing without voxel sizes
    if qcode > 0 and np.isfinite([*quaternion, *pixdim[1:4]]).all() and min(pixdim[1:4]) > 0:
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
