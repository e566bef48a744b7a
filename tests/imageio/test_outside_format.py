"""An image format of a package that nnReg knows nothing of: the one that the documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnreg.errors import ConfigurationError, ImageError
from nnreg.geometry import Space
from nnreg.imageio import ENDINGS, READERS, WRITERS, ending_for, ending_of, is_image_file, is_large, open_image, read_channels, read_image, stem_of, write_image

GROUP = "nnreg.formats"
SPACE = Space((3, 4, 5), (2.5, 0.8, 0.7), (-3.0, 4.0, 10.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))

Install = Callable[..., None]


@pytest.fixture
def page(page_code: Callable[[str], str]) -> str:
    return page_code("how_to_add_a_format")


def test_it_is_read_and_written_as_our_own(install: Install, page: str, tmp_path: Path) -> None:
    assert ".plain" not in ENDINGS
    install("plain_package", page, GROUP, "plain = plain_package:PLAIN")
    assert ENDINGS[-1] == ".plain"
    assert set(READERS) == set(WRITERS) == set(ENDINGS)
    path = tmp_path / "CASE_0000.PLAIN"
    assert (ending_of(path), stem_of(path), ending_for(".plain", "float32")) == (".plain", "CASE_0000", ".plain")
    array = np.arange(2 * 60, dtype=np.int16).reshape(2, 3, 4, 5)
    write_image(path, array, SPACE)
    assert is_image_file(path)
    found = read_channels([path])
    np.testing.assert_array_equal(found.array, array)
    assert found.array.dtype == np.int16
    assert found.space == SPACE
    assert not is_large([path])
    with pytest.raises(ImageError, match=r"\.plain files are read whole only"):
        open_image(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match=r"no whole \.plain image"):
        read_image(path)


def test_without_its_package_it_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image ending that nnReg knows"):
        write_image(tmp_path / "a.plain", np.zeros((1, 3, 4, 5)), SPACE)


def test_the_longer_of_two_endings_counts_and_inexact_types_go_elsewhere(install: Install, page: str, tmp_path: Path) -> None:
    narrow = page + '\nNARROW = Format((".plain.tif",), read, write, exact_types=("uint8",))\n'
    install("narrow_package", narrow, GROUP, "narrow = narrow_package:NARROW")
    assert ending_of("a.b.plain.tif") == ".plain.tif"
    assert ending_of("a.b.tif") == ".tif"
    assert ending_for(".plain.tif", "uint8") == ".plain.tif"
    assert ending_for(".plain.tif", "float32") == ".tif"
    write_image(tmp_path / "a.plain.tif", np.ones((1, 3, 4, 5), np.uint8), SPACE)
    assert (tmp_path / "a.plain.tif").read_bytes().startswith(b"{")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("plain = first_package:NO_SUCH", "first_package.*NO_SUCH.*cannot be loaded"),
        ("plain = first_package.missing:PLAIN", "first_package.*missing.*cannot be loaded"),
        ("plain = first_package:read", "first_package is a function, expected nnreg.imageio.Format"),
        ("plain = first_package:NIFTI", "'.nii' of the package first_package is registered already"),
        ("plain = first_package:SHOUTED", "first_package.*lower case"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(install: Install, page: str, entries: str, message: str) -> None:
    shouted = "def __getattr__(name):\n    if name == 'SHOUTED':\n        return Format(('.PLAIN',), read, write)\n    raise AttributeError(name)\n"
    install("first_package", f"{page}\nNIFTI = Format(('.nii',), read, write)\n\n\n{shouted}", GROUP, entries)
    with pytest.raises(ConfigurationError, match=message) as error:
        ending_of("a.plain")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("second", ["plain = second_package:PLAIN", "other = second_package:PLAIN"])
def test_two_packages_cannot_share_a_name_or_an_ending(install: Install, page: str, second: str) -> None:
    install("first_package", page, GROUP, "plain = first_package:PLAIN")
    install("second_package", page, GROUP, second)
    with pytest.raises(ConfigurationError, match=r"is registered by two packages, (first_package and second_package|second_package and first_package)"):
        ending_of("a.plain")
