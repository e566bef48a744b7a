"""What the header of a file promises, held against its length before anything of that size is allocated."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError, NnRegError

DEFLATE = 1032  # bytes that a byte of gzip, zlib, PNG or ZIP becomes at most: https://zlib.net/zlib_tech.html


def check_promise(path: Path, promised: int, held: int, *, compressed: bool) -> None:
    """Refuse a header that promises more bytes of voxels than the file can hold.

    Raises
    ------
    ImageError
        It names the file and both numbers.
    """
    most = held * DEFLATE if compressed else held
    if promised > most:
        raise ImageError(
            f"{path}: is truncated or damaged: its header promises {promised} bytes of voxels, its {held} bytes hold {most} at most. "
            "Copy or make the file again."
        )


@contextlib.contextmanager
def damage_told() -> Iterator[None]:
    """Around libraries that read files of strangers: whatever they raise at damaged content is a ValueError with the first line of it.

    Raises
    ------
    ValueError
    """
    try:
        yield
    except (NnRegError, MemoryError):
        raise
    except Exception as error:
        raise ValueError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def load_npy(path: Path) -> npt.NDArray[Any] | np.lib.npyio.NpzFile:
    """The array of a ``.npy`` file, or the archive that it is instead. Mapped first: numpy then compares shape and length before it takes memory.

    Raises
    ------
    ValueError
        If it is neither, is truncated, or holds Python objects.
    """
    try:
        with damage_told():
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "mmap length" not in str(error):
            raise
        raise ValueError(f"its header promises more than its {path.stat().st_size} bytes") from error
    return np.array(mapped) if isinstance(mapped, np.ndarray) else mapped


@contextlib.contextmanager
def opened_archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An ``.npz`` archive, in which every array has the name that it was written under: it is held twice, and no checksum covers the list that is read.

    Raises
    ------
    ValueError
        If it is none, is damaged, or what the block raises is no error of ours.
    """
    with damage_told(), np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile) or archive.zip is None:
            raise ValueError("is an array, not an archive")
        for entry in archive.zip.infolist():
            archive.zip.open(entry).close()
        yield archive


def load_member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> npt.NDArray[Any]:
    """The array `name` of an ``.npz`` archive, the file `path`.

    Raises
    ------
    ImageError
        If its header promises more than the archive holds of it.
    ValueError
        If it is damaged.
    """
    member = archive.zip
    assert member is not None  # as long as the archive is open
    with damage_told():
        entry = member.getinfo(name if name in member.namelist() else f"{name}.npy")
        with member.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(file)
        check_member(path, shape, dtype, entry)
        return np.asarray(archive[name])


def check_member(path: Path, shape: Sequence[int], dtype: np.dtype[Any], entry: zipfile.ZipInfo) -> None:
    """Refuse an array in the archive `path` whose header promises more than its entry holds.

    Raises
    ------
    ImageError
        It names both numbers.
    """
    promised = math.prod(shape) * dtype.itemsize
    check_promise(path, promised, entry.file_size, compressed=False)
    check_promise(path, promised, entry.compress_size, compressed=entry.compress_type != zipfile.ZIP_STORED)
