"""NIfTI: voxels read here, grid by ITK.

ITK alone will not do: it reads the missing end of a truncated file as zeros, turns NaN and infinity into zeros, and takes a spacing of 0
as 1 mm, all without a word. So header and voxels are read here, and ITK's grid is held against what the header declares.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.deflate import DamagedError, gunzipped
from nnreg.errors import ImageError

# datatype codes of nifti1.h; colours have three or four bytes per voxel
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8", 128: "u1", 2304: "u1"}
COLOURS = {128: 3, 2304: 4}
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
    data = _bytes(path)
    header = _parse(data, path)
    count = int(np.prod(header.shape, dtype=np.int64)) * header.components
    needed = header.offset + count * header.dtype.itemsize
    if len(data) < needed:
        raise ImageError(f"{path}: is truncated: its header promises {needed} bytes, it holds {len(data)}. Copy or make the file again.")
    stored = np.frombuffer(data, dtype=header.dtype, count=count, offset=header.offset)
    voxels = _scaled(stored, header)
    if header.components > 1:
        return header, np.ascontiguousarray(voxels.reshape(-1, header.components).T).reshape(header.components, *header.shape[::-1])
    return header, voxels.reshape(1, *header.shape[::-1])


def without_scale(path: Path, header: NiftiHeader, voxels: npt.NDArray[Any]) -> bytes:
    """The file of `header` and `voxels` with its values in float32 and no scale: ITK dies of scaled vectors, or reads them wrongly.

    Nothing else of the header is touched, so that ITK makes of grid and intent what it makes of the file's own.
    """
    data = _bytes(path)
    layout, order = _layout_of(data, path)
    head = bytearray(data[: header.offset])
    struct.pack_into(order + "2h", head, layout.datatype[0], 16, 32)  # data type and bits per voxel lie side by side
    struct.pack_into(order + layout.slope[1], head, layout.slope[0], 1.0, 0.0)
    return bytes(head) + voxels.astype(np.dtype(order + "f4")).tobytes()


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":  # some programs write plain NIfTI under a .gz name
        return content
    try:
        return gunzipped(content)
    except DamagedError as error:
        raise ImageError(f"{path}: is truncated or damaged (gzip: {error}). Copy or make the file again.") from error


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
