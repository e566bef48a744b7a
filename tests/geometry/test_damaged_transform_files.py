"""Transform files of other programs: read rightly, or refused by name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnreg.errors import TransformError
from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.itk import read_itk, write_itk
from nnreg.geometry.learn2reg import to_learn2reg
from nnreg.geometry.transform_files import read_transform, write_learn2reg

SPACE = Space.plain((9, 11, 13), (2.0, 1.5, 1.0))


@pytest.fixture
def transform() -> Transform:
    rng = np.random.default_rng(0)
    field = np.stack([gaussian_filter(rng.normal(size=SPACE.shape), 2) for _ in range(3)])
    return Transform((FieldMap((3 * field / np.abs(field).max()).astype(np.float32), SPACE),), 3)


def displacement(found: Transform) -> np.ndarray:
    return found.sampled_on(SPACE).displacement


def scaled(path, slope: float, dtype: str) -> None:
    """Store the float field of a plain NIfTI file as numbers that a slope scales."""
    data = bytearray(path.read_bytes())
    offset = int(struct.unpack_from("<f", data, 108)[0])
    values = np.frombuffer(bytes(data[offset:]), "<f4") / slope
    stored = np.round(values).astype(dtype) if dtype == "<i2" else values.astype(dtype)
    struct.pack_into("<2h", data, 70, *((4, 16) if dtype == "<i2" else (16, 32)))
    struct.pack_into("<2f", data, 112, slope, 0.0)
    path.write_bytes(bytes(data[:offset]) + stored.tobytes())


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_a_field_with_a_slope_has_its_scale(tmp_path, transform, dtype):
    path = tmp_path / "warp.nii"
    write_itk(path, transform, SPACE)
    scaled(path, 0.01, dtype)
    assert np.abs(displacement(read_itk(path)) - displacement(transform)).max() < 0.006


@pytest.mark.parametrize("name", ["warp.nii", "warp.nii.gz", "warp.mha", "warp.nrrd"])
def test_a_field_that_was_cut_off_is_refused(tmp_path, transform, name):
    path = tmp_path / name
    write_itk(path, transform, SPACE)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(TransformError, match=name):
        read_transform(path)


@pytest.mark.parametrize("name", ["warp.nii.gz", "warp.mha", "warp.h5"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_field_that_is_not_finite_is_refused(tmp_path, transform, name, value):
    field = transform.stages[0].in_mm()
    field[2:4, 2:4, 2:4] = value
    image = sitk.GetImageFromArray(field, isVector=True)
    if name.endswith(".h5"):
        sitk.WriteTransform(sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64)), str(tmp_path / name))
    else:
        sitk.WriteImage(image, str(tmp_path / name))
    with pytest.raises(TransformError, match=f"{name}: holds values that are not finite"):
        read_transform(tmp_path / name)


def test_a_matrix_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "affine.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), str(path))
    path.write_text(path.read_text().replace("Parameters: 1 2 3", "Parameters: 1 nan 3"))
    with pytest.raises(TransformError, match=r"affine\.tfm"):
        read_transform(path)


def test_learn2reg_arrays_are_read_whatever_holds_them(tmp_path, transform):
    array = to_learn2reg(transform, fixed=SPACE, moving=SPACE)
    np.save(tmp_path / "plain.npy", array)
    np.savez(tmp_path / "one.npz", array)
    write_learn2reg(tmp_path / "image.nii.gz", transform, fixed=SPACE)
    for name in ("plain.npy", "one.npz", "image.nii.gz"):
        assert np.abs(displacement(read_transform(tmp_path / name, fixed=SPACE)) - displacement(transform)).max() < 1e-4, name


def test_learn2reg_arrays_that_cannot_be_meant_are_refused(tmp_path, transform):
    array = to_learn2reg(transform, fixed=SPACE, moving=SPACE)
    unknown = array.copy()
    unknown[2, 2, 2] = np.nan
    np.save(tmp_path / "unknown.npy", unknown)
    np.savez(tmp_path / "two.npz", array, array)
    np.save(tmp_path / "text.npy", array.astype(str))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:500])
    write_learn2reg(tmp_path / "cut.nii", transform, fixed=SPACE)
    (tmp_path / "cut.nii").write_bytes((tmp_path / "cut.nii").read_bytes()[:-500])
    for name, told in (
        ("unknown.npy", "not finite"),
        ("two.npz", "2 arrays"),
        ("text.npy", "numbers"),
        ("cut.npz", "can be read"),
        ("cut.nii", "truncated"),
    ):
        with pytest.raises(TransformError, match=f"{name}: .*({told})"):
            read_transform(tmp_path / name, fixed=SPACE)


def test_four_axes_with_the_intent_of_vectors_are_neither(tmp_path, transform):
    path = tmp_path / "odd.nii"
    write_learn2reg(path, transform, fixed=SPACE)
    data = bytearray(path.read_bytes())
    struct.pack_into("<h", data, 68, 1007)
    path.write_bytes(bytes(data))
    with pytest.raises(TransformError, match=r"odd\.nii: has four axes.*1007"):
        read_transform(path, fixed=SPACE)
