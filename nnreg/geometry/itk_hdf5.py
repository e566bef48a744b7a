"""ITK's composite transforms in HDF5 files (``.h5``), with compressed fields in single precision.

SimpleITK writes double precision without compression: 280 MB for the two transforms of a pair of brains. HDF5 converts what it reads, so every program built on
ITK takes single precision as well, and inflates by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import SimpleITK as sitk

from nnreg.arrays import Floats
from nnreg.deflate import zlib_stream
from nnreg.geometry.space import Space

FIELD_CHUNK = 2**17  # voxels: large enough to compress, small enough to stay in a cache
FIELD = "DisplacementFieldTransform"


class _Forgiving:
    """A file for HDF5 that takes everything: the library ends the process if what it wrote before does not fit on the disk when it closes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or keep the first failure and forget the data."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while self.failure is None and left:
                left = left[self.file.write(left) :]
        except OSError as error:
            self.failure = error
        return size

    def read(self, size: int = -1) -> bytes:
        """As of a file; zeros stand for what could not be written."""
        found = self.file.read(size)
        return found + bytes(max(0, size - len(found)))

    def readinto(self, buffer: Any) -> int:
        """As :meth:`read`."""
        buffer[:] = self.read(len(buffer))
        return len(buffer)

    def truncate(self, size: int) -> int:
        """The length in the end."""
        if self.failure is None:
            try:
                self.file.truncate(size)
            except OSError as error:
                self.failure = error
        return size

    def seek(self, place: int, whence: int = 0) -> int:
        """As of a file."""
        return self.file.seek(place, whence)

    def tell(self) -> int:
        """As of a file."""
        return self.file.tell()

    def flush(self) -> None:
        """Nothing is kept back."""


@contextlib.contextmanager
def written_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, open for writing in the block.

    Raises
    ------
    OSError
        If it cannot be written, or not all of it.
    """
    with path.open("w+b", buffering=0) as raw:
        forgiving = _Forgiving(raw)
        with h5py.File(forgiving, "w") as file:
            yield file
        if forgiving.failure is not None:
            raise forgiving.failure


def write_composite(path: Path, stages: Sequence[sitk.Transform | tuple[Iterable[Floats], Space]], ndim: int) -> None:
    """Write a composite transform as ITK's own writer lays it out.

    Parameters
    ----------
    path
        ``.h5`` or ``.hdf5``.
    stages
        In ITK's order, the one applied last first: a linear transform, or the displacement in mm, components x first, in parts of FIELD_CHUNK voxels
        (voxels, ndim), with its grid.
    ndim
        2 or 3.
    """
    with written_hdf5(path) as file:
        for name, text in (("ITKVersion", sitk.Version.ITKVersionString()), ("HDFVersion", h5py.version.hdf5_version), ("OSName", ""), ("OSVersion", "")):
            _write_text(file, name, text)
        group = file.create_group("TransformGroup")
        _write_text(group.create_group("0"), "TransformType", f"CompositeTransform_double_{ndim}_{ndim}")
        for index, stage in enumerate(stages, start=1):
            part = group.create_group(str(index))
            kind = FIELD if isinstance(stage, tuple) else stage.GetName()
            _write_text(part, "TransformType", f"{kind}_double_{ndim}_{ndim}")
            if isinstance(stage, tuple):
                _write_field(part, *stage)
            else:
                part["TransformFixedParameters"] = np.asarray(stage.GetFixedParameters(), dtype=np.float64)
                part["TransformParameters"] = np.asarray(stage.GetParameters(), dtype=np.float64)


def _write_text(group: Any, name: str, text: str) -> None:
    group.create_dataset(name, shape=(1,), dtype=h5py.string_dtype("ascii"), data=[text])


def _write_field(group: Any, parts: Iterable[Floats], space: Space) -> None:
    group["TransformFixedParameters"] = np.asarray([*space.shape[::-1], *space.origin, *space.spacing[::-1], *space.direction], dtype=np.float64)
    count, chunk = space.voxels * space.ndim, FIELD_CHUNK * space.ndim
    chunk = min(chunk, count)
    # shuffle: bytes of one significance stand together, of which the last ones are zero in rounded numbers
    values = group.create_dataset("TransformParameters", (count,), "<f4", chunks=(chunk,), shuffle=True, compression="gzip", compression_opts=1)
    for number, part in enumerate(parts):
        # filtered here: HDF5's own deflate takes five times as long
        whole = part.reshape(-1) if part.size == chunk else np.concatenate([part.reshape(-1), np.zeros(chunk - part.size, np.float32)])
        values.id.write_direct_chunk((number * chunk,), zlib_stream(_shuffled(whole)))


def _shuffled(values: Floats) -> bytes:
    """The first bytes of all numbers (N,), then their second ones, and so on, from the least significant."""
    words, result = values.view(np.uint32), np.empty((4, values.size), np.uint8)
    for place, plane in enumerate(result):
        np.right_shift(words, np.uint32(8 * place), out=plane, casting="unsafe")
    return result.tobytes()
