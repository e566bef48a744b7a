"""A checksum at the end of our own files, for formats that have none of the whole file: HDF5 and blosc2 read what lies before it and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

from isal import isal_zlib

from nnreg.deflate import BLOCK, DamagedError

MAGIC = b"nnReg-crc32:"
LAYOUT = struct.Struct("<12sQI")  # magic, bytes before the seal, their CRC-32

_known: dict[Path, tuple[int, int, int]] = {}  # files that were whole when this process read them


def seal(path: Path) -> None:
    """Append the length and checksum of a file that is finished."""
    length, checksum = _measured(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(LAYOUT.pack(MAGIC, length, checksum))


def is_sealed(path: Path) -> bool:
    """Whether a file has a seal; it is read once for each process and each change of the file.

    Raises
    ------
    DamagedError
        If it has one and its bytes are others than those that were written.
    OSError
        If it cannot be read.
    """
    state = path.stat()
    size = state.st_size - LAYOUT.size
    if size < 0:
        return False
    now = (state.st_mtime_ns, state.st_size, state.st_ino)
    if _known.get(path) == now:
        return True
    with path.open("rb") as file:
        file.seek(size)
        magic, length, checksum = LAYOUT.unpack(file.read(LAYOUT.size))
    if magic != MAGIC:
        return False
    if (length, checksum) != _measured(path, size):
        raise DamagedError("its checksum is wrong: bytes of it have changed since it was written")
    _known[path] = now
    return True


def _measured(path: Path, size: int) -> tuple[int, int]:
    checksum, left = 0, size
    with path.open("rb") as file:
        while left > 0 and (data := file.read(min(BLOCK, left))):
            checksum = isal_zlib.crc32(data, checksum)
            left -= len(data)
    return size - left, checksum


__all__ = ["is_sealed", "seal"]
