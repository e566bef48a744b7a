"""Transforms applied to files as other programs write them: the right values and axes, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.errors import ConfigurationError, ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.inference.registration.apply import apply_transform

SPACE = Space.plain((6, 7, 8), (2.0, 1.0, 1.5))


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """Moves the image out of view at one side."""
    sitk.WriteTransform(sitk.TranslationTransform(3, (6.0, 0.0, 0.0)), str(tmp_path / "shift.tfm"))
    return tmp_path / "shift.tfm"


def label_file(path: Path, dtype: str) -> Path:
    write_image(path, np.full((1, *SPACE.shape), 7, dtype), SPACE)
    return path


@pytest.mark.parametrize(("dtype", "outside"), [("uint8", 300), ("uint8", -1), ("int16", 40_000), ("uint8", 9)])
def test_labels_get_the_value_beyond_the_image_in_a_type_that_holds_it(tmp_path, shift, dtype, outside):
    labels = label_file(tmp_path / "labels.nii.gz", dtype)
    apply_transform(labels, tmp_path / "out.nii.gz", [shift], reference=labels, kind="labels", outside=outside)
    assert np.unique(read_image(tmp_path / "out.nii.gz").array).tolist() == sorted([7, outside])


def test_a_value_that_no_label_can_have_is_refused(tmp_path, shift):
    labels = label_file(tmp_path / "labels.nii.gz", "uint8")
    with pytest.raises(ConfigurationError, match=r"--outside 0\.5: labels are whole numbers"):
        apply_transform(labels, tmp_path / "out.nii.gz", [shift], reference=labels, kind="labels", outside=0.5)
    assert not (tmp_path / "out.nii.gz").exists()


def series_file(path: Path) -> sitk.Image:
    volumes = [sitk.GetImageFromArray(np.full(SPACE.shape, value, np.float32)) for value in (1, 2, 3)]
    image = sitk.JoinSeries(volumes, 0.0, 2.5)
    sitk.WriteImage(image, str(path))
    return image


def test_a_series_of_volumes_stays_one_with_its_repetition_time(tmp_path, shift):
    series_file(tmp_path / "bold.nii.gz")
    reference = label_file(tmp_path / "fixed.nii.gz", "uint8")
    apply_transform(tmp_path / "bold.nii.gz", tmp_path / "out.nii.gz", [shift], reference=reference)
    found = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert (found.GetDimension(), found.GetSize(), found.GetNumberOfComponentsPerPixel()) == (4, (*SPACE.shape[::-1], 3), 1)
    assert found.GetSpacing() == pytest.approx((*SPACE.spacing[::-1], 2.5))
    assert sitk.GetArrayFromImage(found)[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_series_in_a_format_without_time_is_refused(tmp_path, shift):
    series_file(tmp_path / "bold.nii.gz")
    reference = label_file(tmp_path / "fixed.nii.gz", "uint8")
    with pytest.raises(ImageError, match=r"out\.mha: a series of volumes"):
        apply_transform(tmp_path / "bold.nii.gz", tmp_path / "out.mha", [shift], reference=reference)


@pytest.mark.parametrize("name", ["scan.nii.nii.gz", "scan.nii.gz.nii.gz", "scan.img.nii.gz", "scan.hdr.nii.gz", "OUT.NII.GZ"])
def test_a_file_is_written_under_its_name_and_nothing_is_left_behind(tmp_path, shift, name):
    labels = label_file(tmp_path / "labels.nii.gz", "uint8")
    folder = tmp_path / "results"
    apply_transform(labels, folder / name, [shift], reference=labels, kind="labels")
    assert [path.name for path in folder.iterdir()] == [name]
    assert read_image(folder / name).space.shape == SPACE.shape


def test_points_are_told_by_their_ending_whatever_its_case(tmp_path, shift):
    (tmp_path / "points.CSV").write_text("1,2,3\n")
    assert apply_transform(tmp_path / "points.CSV", tmp_path / "out.csv", [shift]) == "points"
    assert (tmp_path / "out.csv").read_text() == "7.000000,2.000000,3.000000\n"


def test_a_header_that_makes_no_grid_is_told_with_its_file(tmp_path, shift):
    (tmp_path / "y.raw").write_bytes(np.zeros(SPACE.shape, "<i2").tobytes())
    lines = ["ObjectType = Image", "NDims = 3", "DimSize = 8 7 6", "ElementType = MET_SHORT", "ElementSpacing = 1 1 2"]
    (tmp_path / "zero.mhd").write_text("\n".join([*lines, "TransformMatrix = 0 0 0 0 0 0 0 0 0", "ElementDataFile = y.raw", ""]))
    with pytest.raises(NnRegError, match=r"zero\.mhd: .*direction matrix is singular"):
        apply_transform(tmp_path / "zero.mhd", tmp_path / "out.nii.gz", [shift], reference=tmp_path / "zero.mhd")
