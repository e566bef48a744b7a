"""Headers of text (MetaImage, NRRD), held against what ITK does not look at.

Numbers that are none, more voxels than the file has, streams that are damaged, and data in files that lie elsewhere.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import SimpleITK as sitk

from nnreg.deflate import DamagedError, check_stream
from nnreg.errors import ImageError
from nnreg.imageio.promises import check_promise
from nnreg.quiet import caught

METAIMAGE = (".mha", ".mhd")
METAIMAGE_LINE = re.compile(r"^[ \t]*(\w+)[ \t]*[=:][ \t]*(.*)$", re.M)
# how many values a line has: the number of axes to that power
METAIMAGE_COUNTS = {
    **dict.fromkeys(("NDims", "ElementNumberOfChannels", "HeaderSize", "CompressedDataSize"), 0),
    **dict.fromkeys(("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
METAIMAGE_SIZES = ("NDims", "ElementNumberOfChannels", "DimSize", "CompressedDataSize")
NRRD_LINE = re.compile(r"^(\w[\w ]*): *(.*)$", re.M)
LONG_NUMBER = re.compile(r"\d{100}")
LONGEST_LINE = 16_000  # characters
HEADER_BYTES = 2**16  # longer headers of text are none
# lines that say where the grid lies, in MetaImage and in NRRD
PLACES = re.compile(
    r"^(Offset|Position|Origin|ElementSpacing|ElementSize|TransformMatrix|Rotation|Orientation|space origin|space directions)\s*[=:](.*)$", re.M
)
DATA_FILE = re.compile(r"^[ \t]*(?:ElementDataFile[ \t]*[=:]|data ?file[ \t]*:)(.*)$", re.M | re.I)
LISTED = re.compile(r"^LIST\b", re.I)
PACKED = re.compile(r"^(?:encoding: *(?:gz|gzip)|CompressedData *[=:] *[Tt1].*)\s*$", re.M | re.I)
# values as text, bzip2: what they take is not known beforehand
UNCOUNTED = re.compile(r"^(?:encoding: *(?!raw)|BinaryData *[=:] *[^Tt1\s])", re.M | re.I)
PACKED_SIZE = re.compile(r"^CompressedDataSize *= *(\d+)\s*$", re.M)
SKIPPED = re.compile(r"^(?:(?:line|byte) ?skip|HeaderSize)\b", re.M | re.I)


@dataclass(frozen=True)
class TextHeader:
    """The lines before the voxels, and the byte of the file after them."""

    text: str
    end: int
    is_nrrd: bool


def check_text_header(path: Path, *, promised: int | None = None) -> None:
    """Refuse a file of MetaImage or NRRD that ITK would misread without a word.

    Parameters
    ----------
    path
    promised
        Bytes of voxels; as the header says if absent.

    Raises
    ------
    ImageError
        If its grid is no finite numbers, its data lie outside its folder, cannot hold the voxels that it promises, or fail their checksum.
    """
    header = _text_header(path)
    if header.is_nrrd:
        _check_nrrd(path, header.text)
    elif header.text:
        _check_metaimage(path, header.text)
    _check_numbers(path, header.text)
    data, start = _data_file(path, header)
    if data is None:
        return
    promised = _promised(path) if promised is None else promised
    if promised is None:
        return
    packed = PACKED.search(header.text) is not None
    check_promise(path, promised, data.stat().st_size - start, compressed=packed or UNCOUNTED.search(header.text) is not None)
    if packed and not SKIPPED.search(header.text):
        _check_stream(path, data, start, promised, header)


def _check_stream(path: Path, data: Path, start: int, promised: int, header: TextHeader) -> None:
    """ITK keeps what it has when a stream breaks off or is damaged, and says nothing."""
    size = PACKED_SIZE.search(header.text)
    with data.open("rb") as file:
        file.seek(start)
        try:
            check_stream(file, promised, gzip=True if header.is_nrrd else None, most=int(size[1][:18]) if size else None)
        except DamagedError as error:
            raise ImageError(f"{path}: its voxels are truncated or damaged ({error}). Copy or make the file again.") from error


def _text_header(path: Path) -> TextHeader:
    """The lines before the voxels, as far as they can be read as text."""
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    is_nrrd = raw.startswith(b"NRRD")
    # NRRD ends its header by an empty line, MetaImage by the line that names the data
    if is_nrrd:
        ends = [(raw.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if mark in raw]
        end, size = min(ends, default=(len(raw), 0))
        return TextHeader(_lines(raw[:end]), end + size, is_nrrd)
    named = DATA_FILE.search(raw.decode("latin-1"))
    if named is None and path.suffix.lower() not in METAIMAGE:
        return TextHeader("", 0, is_nrrd)  # ITK says what it is not
    if named is None:
        raise ImageError(f"{path}: its header names no data (no ElementDataFile in its first {HEADER_BYTES} bytes). Make the file again.")
    return TextHeader(_lines(raw if LISTED.match(named[1].strip()) else raw[: named.end()]), named.end() + 1, is_nrrd)


def _lines(raw: bytes) -> str:
    return raw.decode("latin-1").replace("\r\n", "\n")


def _check_metaimage(path: Path, header: str) -> None:
    """Refuse counts that are none: ITK's reader of MetaImage believes them, and ends the process.

    Raises
    ------
    ImageError
        It names the line.
    """
    lines = [(found[1], found[2].split()) for found in METAIMAGE_LINE.finditer(header)]
    names = [name for name, _ in lines]
    twice = next((name for name in names if names.count(name) > 1 and name in METAIMAGE_COUNTS), None)
    if twice is not None or any(len(line) > LONGEST_LINE for line in header.splitlines()):
        raise ImageError(f"{path}: its header has {twice + ' twice' if twice else 'a line without end'}. Mend its header.")
    found = dict(lines)
    axes = int(found["NDims"][0]) if "NDims" in found and found["NDims"] and re.fullmatch(r"[1-9]", found["NDims"][0]) else 0
    if not axes:
        raise ImageError(f"{path}: its header has NDims = {' '.join(found.get('NDims', ['nothing']))[:40]}, expected 2 or 3. Mend its header.")
    for name, power in METAIMAGE_COUNTS.items():
        values = found.get(name)
        if values is not None and (
            len(values) != axes**power or (name in METAIMAGE_SIZES and not all(re.fullmatch(r"[1-9]\d{0,9}", value) for value in values))
        ):
            raise ImageError(f"{path}: its header has {name} = {' '.join(values)[:60]}, which does not go with NDims = {axes}. Mend its header.")


def _check_nrrd(path: Path, header: str) -> None:
    """Refuse sizes that are none: ITK's reader of NRRD ends the process on some.

    Raises
    ------
    ImageError
        It names the line.
    """
    found = {name.lower(): values.split() for name, values in NRRD_LINE.findall(header)}
    if any(len(line) > LONGEST_LINE for line in header.splitlines()) or LONG_NUMBER.search(header):
        raise ImageError(f"{path}: its header has a line or a number without end. Mend its header.")
    axes = found.get("dimension", ["nothing"])
    if len(axes) != 1 or not re.fullmatch(r"[1-9]", axes[0]):
        raise ImageError(f"{path}: its header has dimension: {' '.join(axes)[:40]}, expected 2 to 4. Mend its header.")
    sizes = found.get("sizes", [])
    if len(sizes) != int(axes[0]) or not all(re.fullmatch(r"[1-9]\d{0,9}", size) for size in sizes):
        raise ImageError(f"{path}: its header has sizes: {' '.join(sizes)[:60]}, which do not go with dimension: {axes[0]}. Mend its header.")


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


def _data_file(path: Path, header: TextHeader) -> tuple[Path | None, int]:
    """The file that holds the voxels, and where they begin in it; None where there are several, or none to be found.

    Raises
    ------
    ImageError
        If a name leads out of the folder of the header.
    """
    named = DATA_FILE.search(header.text)
    name = "LOCAL" if named is None else named[1].strip()
    if name.upper() == "LOCAL":
        return path, header.end
    for one in _names(name, header.text[named.end() :] if named else ""):
        if not one.isprintable():
            raise ImageError(f"{path}: the data file that its header names, {one[:80]!r}, is no name of a file. Mend its header.")
        if ".." in PurePosixPath(one.replace("\\", "/")).parts or PurePosixPath(one).is_absolute() or PureWindowsPath(one).drive:
            raise ImageError(f"{path}: its header names the data file {one[:80]!r}, expected one in its own folder. Do not use it, or put the data beside it.")
        real = (path.parent / one).resolve()
        # header and data may both be links into one folder; the data alone may not lead to another
        if not any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
            raise ImageError(f"{path}: the data file {one[:80]!r} that its header names is a link out of its folder. Do not use it, or put the data beside it.")
    found = path.parent / name
    if found.is_file():
        return found, 0
    if LISTED.match(name) or "%" in name:  # several
        return None, 0
    # ITK's reader of MetaImage is not sound here: a name that is none ended its process, after others
    raise ImageError(f"{path}: the data file {name[:80]!r} that its header names is not there: put it back.")


def _names(name: str, after: str) -> list[str]:
    """Of one file, of a pattern with its numbers, or of the list that follows."""
    return [line.strip() for line in after.splitlines() if line.strip()] if LISTED.match(name) else [name]


def _promised(path: Path) -> int | None:
    """Bytes of voxels that a header promises, as ITK reads it; None where it cannot, which it tells when it reads the file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with caught():
        try:
            reader.ReadImageInformation()
            one = sitk.Image([1] * len(reader.GetSize()), reader.GetPixelID())
        except RuntimeError:
            return None
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * one.GetSizeOfPixelComponent()


def check_size(path: Path, held: int, *, compressed: bool) -> None:
    """Hold what a header promises against the `held` bytes of its data; what ITK cannot read at all it tells when it reads it.

    Raises
    ------
    ImageError
        If that is more than they can hold.
    """
    promised = _promised(path)
    if promised is not None:
        check_promise(path, promised, held, compressed=compressed)
