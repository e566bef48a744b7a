"""Transforms applied to files as other programs write them: the right values and axes, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.dataset.keypoints import read_keypoints, write_keypoints
from nnreg.errors import ConfigurationError, ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.inference.registration.apply import apply_transform, looks_like_labels

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


@pytest.fixture
def half_shift(tmp_path: Path) -> Path:
    """Half a voxel along the last axis."""
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.75, 0.0, 0.0)), str(tmp_path / "half.tfm"))
    return tmp_path / "half.tfm"


def test_voxels_that_are_no_numbers_stay_where_they_are(tmp_path, half_shift):
    values = np.random.default_rng(0).uniform(1, 2, (1, *SPACE.shape)).astype(np.float32)
    whole = np.array(values)
    values[0, 2, 3, 4], values[0, 4, 5, 1] = np.nan, np.inf
    for name, array in (("hole", values), ("whole", whole)):
        write_image(tmp_path / f"{name}.nii.gz", array, SPACE)
        apply_transform(tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_out.nii.gz", [half_shift], reference=tmp_path / f"{name}.nii.gz", kind="image")
    found, expected = (read_image(tmp_path / f"{name}_out.nii.gz").array[0] for name in ("hole", "whole"))
    unknown = ~np.isfinite(found)
    assert unknown.sum() == 2
    near = np.zeros_like(unknown)
    near[2, 3, 3:5] = near[4, 5, 0:2] = True
    assert not (unknown & ~near).any()
    assert np.allclose(found[~near], expected[~near])  # the value beyond the image too, which was NaN
    assert np.isclose(found[near & ~unknown], [whole[0, 2, 3, 5] if unknown[2, 3, 3] else whole[0, 2, 3, 3], found[near & ~unknown][1]]).any()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_label_map_is_known_without_being_named_one(tmp_path, half_shift, dtype):
    labels = np.zeros((1, *SPACE.shape), dtype)
    labels[0, 1:4, 2:5, 2:6], labels[0, 2, 3, 3] = 90, 7
    write_image(tmp_path / "labels.nii.gz", labels, SPACE)
    assert apply_transform(tmp_path / "labels.nii.gz", tmp_path / "out.nii.gz", [half_shift], reference=tmp_path / "labels.nii.gz") == "labels"
    assert set(np.unique(read_image(tmp_path / "out.nii.gz").array).tolist()) <= {0, 7, 90}
    assert apply_transform(tmp_path / "labels.nii.gz", tmp_path / "image.nii.gz", [half_shift], reference=tmp_path / "labels.nii.gz", kind="image") == "image"
    assert 45 in np.unique(read_image(tmp_path / "image.nii.gz").array)


def test_regions_of_many_values_are_labels_and_whole_numbers_of_a_scanner_are_not():
    regions = np.repeat(np.repeat(np.arange(400).reshape(1, 20, 20), 6, axis=1), 6, axis=2)
    scan = np.random.default_rng(0).normal(1000, 300, (1, 60, 60)).astype(np.int16)
    scan[:, :20] = 0
    assert looks_like_labels(regions)
    assert looks_like_labels(regions.astype(np.float32))
    assert not looks_like_labels(scan)
    assert not looks_like_labels(regions + 0.5)


@pytest.mark.parametrize(("value", "words"), [(0.5, "holds 0.5, labels are whole numbers"), (np.nan, "has 1 NaN")])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, shift, value, words):
    labels = np.zeros((1, *SPACE.shape), np.float32)
    labels[0, 1, 1, 1] = value
    write_image(tmp_path / "labels.nii.gz", labels, SPACE)
    with pytest.raises(NnRegError, match=words):
        apply_transform(tmp_path / "labels.nii.gz", tmp_path / "out.nii.gz", [shift], reference=tmp_path / "labels.nii.gz", kind="labels")


@pytest.mark.parametrize("output", ["labels.nii.gz", "shift.tfm"])
def test_what_is_read_is_not_written_over(tmp_path, shift, output):
    labels = label_file(tmp_path / "labels.nii.gz", "uint8")
    before = (tmp_path / output).read_bytes()
    with pytest.raises(NnRegError, match="would overwrite"):
        apply_transform(labels, tmp_path / "." / output, [f"[{shift},1]"], reference=labels)
    assert (tmp_path / output).read_bytes() == before


def test_points_outside_the_image_are_refused(tmp_path, shift):
    labels = label_file(tmp_path / "labels.nii.gz", "uint8")
    (tmp_path / "points.csv").write_text("1,2,3\n1,2,6\n")
    with pytest.raises(NnRegError, match=r"points\.csv: 1 of 2 keypoints lie outside the image"):
        apply_transform(tmp_path / "points.csv", tmp_path / "out.csv", [shift], reference=labels)


def test_points_keep_their_places_in_nanometres(tmp_path):
    write_keypoints(tmp_path / "points.csv", [[1.25e-6, 123456.789, -3.0]])
    assert np.allclose(read_keypoints(tmp_path / "points.csv"), [[1.25e-6, 123456.789, -3.0]], rtol=1e-9, atol=0)
