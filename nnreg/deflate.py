"""Deflate streams (zlib, gzip) by ISA-L: every program reads them, and they are written in a fifth of zlib's time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isal import igzip, isal_zlib

LEVEL = 2  # of 0 to 3: fields of displacements take as long as at 1 and a little less room
BLOCK = 2**20  # bytes handed on at once
PART = 2**23  # bytes inflated at once
GZIP = b"\x1f\x8b"


class DamagedError(Exception):
    """A stream that is cut off, is none, or fails its checksum."""


def zlib_stream(data: bytes) -> bytes:
    """The bytes as one zlib stream."""
    return isal_zlib.compress(data, LEVEL)


@contextlib.contextmanager
def packing(path: Path) -> Iterator[Path]:
    """Yield where to write a file plain: under a name that ends in ``.gz`` it is compressed from there afterwards, under others it is there already."""
    if path.suffix != ".gz":
        yield path
        return
    plain = path.with_suffix("")
    try:
        yield plain
        # neither name nor time in the header: the same content is the same file
        with plain.open("rb") as source, path.open("wb") as packed, igzip.IGzipFile("", "wb", LEVEL, packed, mtime=0) as target:
            shutil.copyfileobj(source, target, BLOCK)
    finally:
        plain.unlink(missing_ok=True)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """A file opened for reading, inflated on the way if it is gzip whatever its name says: never more than is asked for.

    Raises
    ------
    DamagedError
        If its gzip members are cut off, are none, or fail their checksum, as far as they were read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == GZIP
            yield igzip.IGzipFile(fileobj=raw, mode="rb") if packed else raw  # type: ignore[misc]  # reads bytes as a file does
    except (EOFError, isal_zlib.error, igzip.BadGzipFile) as error:  # type: ignore[misc]  # the stubs call the first a value
        raise DamagedError(str(error).rstrip(".") or type(error).__name__) from error


def check_stream(file: BinaryIO, promised: int, *, gzip: bool | None = None, most: int | None = None) -> None:
    """Inflate what is left of a file to its end, keep nothing, and compare length and checksum.

    Parameters
    ----------
    file
        Open where the stream begins.
    promised
        Bytes that it must have.
    gzip
        Whether it is gzip, else zlib; None: as its first bytes say.
    most
        Compressed bytes that belong to it; all if absent.

    Raises
    ------
    DamagedError
        If it is cut off, fails its checksum, or holds another number of bytes.
    """
    count, left, data = 0, most, _some(file, most)
    if gzip is None:
        gzip = data[:2] == GZIP
    stream = _Inflating(gzip)
    while data:
        left = None if left is None else left - len(data)
        count += stream.count(data, promised - count)
        data = _some(file, left) if not stream.ended else b""
    if not stream.ended:
        raise DamagedError("the stream is cut off")
    if count != promised:
        raise DamagedError(f"the stream holds {count} bytes, {promised} were promised")


def _some(file: BinaryIO, most: int | None) -> bytes:
    return file.read(BLOCK if most is None else min(BLOCK, most))


class _Inflating:
    """A stream that is inflated to count its bytes."""

    def __init__(self, gzip: bool) -> None:
        self._stream = isal_zlib.decompressobj(wbits=31 if gzip else 15)

    @property
    def ended(self) -> bool:
        """Whether its checksum was reached, and was right."""
        return self._stream.eof

    def count(self, data: bytes, most: int) -> int:
        """Bytes that `data` inflates to.

        Raises
        ------
        DamagedError
            If they are more than `most`, or the checksum is wrong.
        """
        found = 0
        try:
            while True:
                found += len(self._stream.decompress(data, PART))
                data = self._stream.unconsumed_tail
                if found > most:
                    raise DamagedError("the stream holds more bytes than were promised")
                if self.ended or not data:
                    return found
        except isal_zlib.error as error:  # type: ignore[misc]  # the stubs call it a value
            raise DamagedError(str(error).rstrip(".")) from error
