"""Transforms in HDF5 files: what SimpleITK reads back, in how much space."""

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.itk import read_itk, result_step, stored, write_itk, write_result


@pytest.fixture(params=[2, 3])
def transform(request):
    ndim = request.param
    rng = np.random.default_rng(ndim)
    shape = (9, 11, 13)[-ndim:]
    space = Space(shape, (1.5, 0.8, 1.1)[-ndim:], (3.0, -4.0, 5.0)[:ndim], tuple(np.eye(ndim).ravel().tolist()))
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += rng.normal(0, 0.05, (ndim, ndim + 1))
    return Transform((FieldMap(rng.normal(0, 1, (ndim, *shape)).astype(np.float32), space), AffineMap(matrix)), ndim)


def test_itk_reads_the_same_map(tmp_path, transform):
    write_itk(tmp_path / "t.h5", transform)
    field = transform.stages[0]
    points = field.space.to_world(np.random.default_rng(0).uniform(0, np.array(field.space.shape) - 1, (50, transform.ndim)))
    found = np.array([sitk.ReadTransform(str(tmp_path / "t.h5")).TransformPoint(point) for point in points.tolist()])
    np.testing.assert_allclose(found, transform.map_points(points), atol=1e-5)
    np.testing.assert_allclose(read_itk(tmp_path / "t.h5").map_points(points), found, atol=1e-6)


def test_displacements_of_results_are_rounded_by_a_thousandth_of_a_voxel_at_most_and_not_twice(transform, tmp_path):
    field = transform.stages[0]
    np.testing.assert_array_equal(stored(field), field.in_mm(np.float32))
    write_result(tmp_path / "t.h5", transform)
    values = read_itk(tmp_path / "t.h5").stages[0].in_mm()
    off = np.abs(values - field.in_mm()).max()
    assert min(field.space.spacing) / 4000 < off < min(field.space.spacing) / 1000
    again = FieldMap.from_mm(values, field.space)
    np.testing.assert_allclose(stored(again, result_step(field.space)), values, atol=1e-6)


def test_a_field_is_compressed_in_single_precision(tmp_path, transform):
    write_itk(tmp_path / "t.h5", transform)
    with h5py.File(tmp_path / "t.h5") as file:
        parameters = [part["TransformParameters"] for part in file["TransformGroup"].values() if "TransformParameters" in part]
        kinds = {part["TransformType"][0].decode() for part in file["TransformGroup"].values()}
        assert {(values.dtype, values.compression) for values in parameters} == {(np.dtype(np.float32), "gzip"), (np.dtype(np.float64), None)}
    n = transform.ndim
    assert kinds == {f"{kind}_double_{n}_{n}" for kind in ("CompositeTransform", "AffineTransform", "DisplacementFieldTransform")}
