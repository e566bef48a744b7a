"""Seeded damage of files: bytes, lengths, numbers of headers and documents, and what lies inside gzip and zip."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from typing import Any

import numpy as np

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
ODD_NUMBERS = (
    *(b"0", b"-1", b"1000000000000", b"99999999999999999999", b"nan", b"inf", b"1e400", b"2147483648"),
    *(b"-9223372036854775808", b"", b"0.5", b"1" * 5000),
)
ODD_VALUES: tuple[Any, ...] = (None, -1, 0, 10**12, 10**400, 1e308, "", "x", "../../x", [], {}, [[]], True, "é\u0000", [1, 2, 3, 4, 5], {"a": {}})
HEADER = 400  # bytes in which most formats say what they hold


def mutated(name: str, content: bytes, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Damaged content, and whether bytes of the file itself were changed: a checksum must tell that."""
    if name.endswith((".json", ".yaml")) and rng.random() < 0.6:
        return _document(name, content, rng), False
    if name.endswith(".gz") and rng.random() < 0.4:
        return gzip.compress(_bytes(gzip.decompress(content), rng), 1), False
    if zipfile.is_zipfile(io.BytesIO(content)) and rng.random() < 0.4:
        return _member(content, rng), False
    if rng.random() < 0.2 and NUMBER.search(content[:4000]):
        return _number(content, rng), False
    return _bytes(content, rng), True


def _bytes(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    if not data:
        return b"\0"
    for _ in range(int(rng.integers(1, 4))):
        where = int(rng.integers(min(len(data), HEADER)) if rng.random() < 0.6 else rng.integers(len(data)))
        kind = int(rng.integers(8))
        if kind == 0:
            data[where] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[where] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            data[where : where + 4] = rng.bytes(4)
        elif kind == 3:
            data[where : where + 8] = b"\xff" * 8
        elif kind == 4:
            del data[where : where + int(rng.integers(1, 64))]
        elif kind == 5:
            data[where:where] = data[where : where + int(rng.integers(1, 64))]
        elif kind == 6:
            del data[where:]
        else:
            data += rng.bytes(int(rng.integers(1, 64)))
        if not data:
            return b""
    return bytes(data)


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    """Another number in the text of a header."""
    found = list(NUMBER.finditer(content[:4000]))
    one = found[int(rng.integers(len(found)))]
    return content[: one.start()] + ODD_NUMBERS[int(rng.integers(len(ODD_NUMBERS)))] + content[one.end() :]


def _member(content: bytes, rng: np.random.Generator) -> bytes:
    """A zip whose checksums are right and one of whose members is damaged, missing, or there under another name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(entry, archive.read(entry)) for entry in archive.infolist()]
    chosen = int(rng.integers(len(parts)))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for index, (entry, data) in enumerate(parts):
            kind = int(rng.integers(6)) if index == chosen else 9
            if kind == 0:
                continue
            name = "../" + entry.filename if kind == 1 else entry.filename
            archive.writestr(name, data if kind in (1, 9) else _bytes(data, rng), entry.compress_type)
    return made.getvalue()


def _document(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    """A document whose syntax is right and one of whose values is odd."""
    kind = int(rng.integers(5))
    if kind == 0:
        return b"[" * 3000 + b"]" * 3000
    if kind == 1:
        return content + b"\xff\xfe\x00"
    if name.endswith(".yaml"):
        lines = content.decode().splitlines()
        where = int(rng.integers(len(lines)))
        key, colon, _ = lines[where].partition(":")
        lines[where] = f"{key}{colon} {json.dumps(_odd(rng))}"
        return "\n".join(lines).encode()
    value = json.loads(content)
    _spoil(value, rng)
    return json.dumps(value).encode()


def _odd(rng: np.random.Generator) -> Any:
    return ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]


def _spoil(value: Any, rng: np.random.Generator) -> None:
    """Put an odd value, or none, somewhere into lists and mappings."""
    here = value
    while True:
        keys: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.75:
            here = here[key]
            continue
        if rng.random() < 0.2:
            del here[key]
        else:
            here[key] = _odd(rng)
        return
