"""Files with a checksum at their end: what changed is told, what has none is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnreg.deflate import DamagedError
from nnreg.errors import NnRegError
from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.transform_files import read_transform, write_transform
from nnreg.preprocessing.registration.storage import read_array, write_array
from nnreg.seal import is_sealed, seal

SPACE = Space.plain((5, 6, 7))


def field(path: Path) -> None:
    write_transform(path, Transform((FieldMap(np.random.default_rng(0).normal(size=(3, *SPACE.shape)).astype(np.float32), SPACE),), 3))


def array(path: Path) -> None:
    write_array(path, np.random.default_rng(0).normal(size=(1, 9, 8, 7)).astype(np.float32))


def test_a_file_that_was_sealed_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert not is_sealed(path)
    seal(path)
    assert is_sealed(path)
    assert path.read_bytes().startswith(b"content")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="checksum"):
        is_sealed(path)


@pytest.mark.parametrize(("name", "write", "read"), [("a.h5", field, read_transform), ("a.b2nd", array, read_array)])
def test_no_bit_changes_unseen(tmp_path: Path, name: str, write, read) -> None:
    path = tmp_path / name
    write(path)
    read(path)
    whole = path.read_bytes()
    for where in np.random.default_rng(1).integers(0, len(whole) - 24, 20).tolist():
        content = bytearray(whole)
        content[where] ^= 1 << where % 8
        path.write_bytes(content)
        with pytest.raises(NnRegError, match=r"is damaged"):
            read(path)
    path.write_bytes(whole)
    read(path)


def test_an_array_without_its_end_is_refused(tmp_path: Path) -> None:
    array(tmp_path / "a.b2nd")
    (tmp_path / "a.b2nd").write_bytes((tmp_path / "a.b2nd").read_bytes()[:-24])
    with pytest.raises(NnRegError, match="is damaged"):
        read_array(tmp_path / "a.b2nd")
