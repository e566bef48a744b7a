"""Deflate streams (zlib, gzip) by ISA-L: every program reads them, and they are written in a fifth of zlib's time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from isal import igzip, isal_zlib

LEVEL = 2  # of 0 to 3: fields of displacements take as long as at 1 and a little less room
BLOCK = 2**20  # bytes handed on at once


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


def gunzipped(content: bytes) -> bytes:
    """What gzip members hold.

    Raises
    ------
    DamagedError
        If they are cut off, are none, or fail their checksum.
    """
    try:
        return igzip.decompress(content)
    except (EOFError, isal_zlib.error, igzip.BadGzipFile) as error:  # type: ignore[misc]  # the stubs call the first a value
        raise DamagedError(str(error).rstrip(".") or type(error).__name__) from error
