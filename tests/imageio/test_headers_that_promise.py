"""Headers that promise more than their file holds, grids that are no numbers, numbers of other machines: refused early, or read rightly."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.errors import ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.geometry.itk import read_itk
from nnreg.imageio import Image, check_finite, read_image, write_image

SPACE = Space.plain((4, 5, 6))
VALUES = np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)


def header_of(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def plain(path: Path) -> Path:
    """Uncompressed, as other programs write it."""
    sitk.WriteImage(sitk.GetImageFromArray(VALUES[0]), str(path), useCompression=False)
    return path


def huge_metaimage(path: Path) -> None:
    header_of(plain(path), b"DimSize = 6 5 4", b"DimSize = 6000 5000 400")


def huge_nrrd(path: Path) -> None:
    header_of(plain(path), b"sizes: 6 5 4", b"sizes: 6000 5000 400")


def huge_packed(path: Path) -> None:
    write_image(path, VALUES, SPACE)
    header_of(path, b"DimSize = 6 5 4", b"DimSize = 6000 5000 400")


def huge_npy(path: Path) -> None:
    np.save(path, VALUES[0])
    header_of(path, b"(4, 5, 6), }" + b" " * 12, b"(4000, 5000, 600), }".ljust(24))


def huge_npz(path: Path) -> None:
    huge_npy(path.with_suffix(".npy"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path.with_suffix(".npy"), "data.npy")


HUGE = {"a.mha": huge_metaimage, "b.mha": huge_packed, "a.nrrd": huge_nrrd, "a.npy": huge_npy, "a.npz": huge_npz}


@pytest.mark.parametrize("name", HUGE)
def test_a_header_that_promises_gigabytes_is_refused_before_they_are_taken(tmp_path, name):
    HUGE[name](tmp_path / name)
    tracemalloc.start()
    with pytest.raises(ImageError, match="header promises") as error:
        read_image(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_field_whose_header_promises_gigabytes_is_refused(tmp_path):
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / "field.mha"), useCompression=False)
    header_of(tmp_path / "field.mha", b"DimSize = 6 5 4", b"DimSize = 6000 5000 400")
    with pytest.raises(NnRegError, match=r"field\.mha.*header promises"):
        read_itk(tmp_path / "field.mha")


def test_what_compresses_well_is_no_false_promise(tmp_path):
    for ending in (".mha", ".nrrd", ".npz", ".png"):
        space = SPACE if ending != ".png" else Space.plain((500, 600))
        zeros = np.zeros((1, *(space.shape if ending == ".png" else (200, 200, 200))), np.uint8)
        write_image(tmp_path / f"zeros{ending}", zeros, Space.plain(zeros.shape[1:]))
        assert not read_image(tmp_path / f"zeros{ending}").array.any()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.mha", b"Offset = 0 0 0", b"Offset = 5 nan 7"),
        ("a.mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 x 1"),
        ("a.nrrd", b"space origin: (0,0,0)", b"space origin: (0,nan,0)"),
    ],
)
def test_a_grid_that_is_no_numbers_is_refused(tmp_path, name, old, new):
    header_of(plain(tmp_path / name), old, new)
    with pytest.raises(ImageError, match="expected finite numbers"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("dtype", [">f4", ">i2", "longdouble"])
def test_numbers_of_other_machines_are_those_of_this_one(tmp_path, dtype):
    np.save(tmp_path / "a.npy", VALUES[0].astype(dtype))
    found = read_image(tmp_path / "a.npy").array
    assert found.dtype.isnative
    assert found.dtype.itemsize <= 8
    assert np.array_equal(found, VALUES)


@pytest.mark.parametrize("values", [VALUES.astype(np.int64) + 2**40, VALUES.astype(np.float64) + 1e9, VALUES.astype(np.float64) * 1e300])
def test_values_that_single_precision_does_not_tell_apart_are_refused(values):
    with pytest.raises(ImageError, match=r"big\.nii\.gz: has values from .* single precision has steps"):
        check_finite(Image(values, SPACE), "big.nii.gz")
    check_finite(Image(VALUES.astype(np.int64) + 2**16, SPACE), "fine.nii.gz")
