"""Worlds: spaces, chained maps, resampling, and agreement with SimpleITK as the outside oracle."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from nnreg.errors import GeometryError, TransformError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, resample_image, resample_labels
from nnreg.geometry.itk import from_itk, place, read_itk, space_of, to_itk, write_itk
from nnreg.geometry.learn2reg import from_learn2reg, to_learn2reg
from nnreg.kernels import positions_cpu
from nnreg.metrics import folding_percent

SHAPES = [((15, 22), (19, 17), (9, 12)), ((12, 15, 11), (14, 10, 17), (7, 9, 8))]


def sitk_image(array: np.ndarray, space: Space) -> sitk.Image:
    return place(sitk.GetImageFromArray(array), space)


def chain(fixed: Space, field_shape, seed: int = 0) -> Transform:
    """Affine, dense field, affine, all near the identity around the fixed image."""
    rng = np.random.default_rng(seed)
    n = fixed.ndim
    matrix = np.eye(n + 1)
    matrix[:n, :n] += 0.05 * rng.normal(size=(n, n))
    matrix[:n, n] = rng.normal(size=n)
    grid = fixed.centred(fixed.centre, field_shape, fixed.extent / np.asarray(field_shape) * 0.8)
    field = FieldMap(rng.normal(scale=0.5, size=(n, *field_shape)).astype(np.float32), grid)
    return Transform((AffineMap(matrix), field, AffineMap(np.linalg.inv(matrix))), n)


@pytest.fixture(params=SHAPES, ids=["2D", "3D"])
def scene(request, rotated_space):
    fixed_shape, moving_shape, field_shape = request.param
    fixed, moving = rotated_space(fixed_shape, 1), rotated_space(moving_shape, 2)
    moving = moving.centred(fixed.centre, moving_shape, moving.spacing)
    return fixed, moving, chain(fixed, field_shape)


def test_index_and_world_agree_with_simpleitk(rotated_space):
    space = rotated_space((4, 6, 5))
    image = sitk_image(np.zeros(space.shape), space)
    for index in [(0, 0, 0), (3, 5, 4), (1, 2, 3)]:
        assert np.allclose(space.to_world(index), image.TransformIndexToPhysicalPoint(index[::-1]))
    assert space_of(image).same_as(space)
    assert np.allclose(Space.from_matrix(space.shape, space.matrix).matrix, space.matrix)
    assert Space.from_dict(space.to_dict()) == space


def test_to_index_inverts_to_world(rotated_space):
    space = rotated_space((7, 9, 8))
    indices = np.random.default_rng(0).uniform(0, 6, (20, 3))
    assert np.allclose(space.to_index(space.to_world(indices)), indices)


def test_with_spacing_keeps_the_middle(rotated_space):
    space = rotated_space((20, 31))
    coarser = space.with_spacing((3.0, 4.0))
    assert np.allclose(coarser.centre, space.centre)
    assert np.allclose(coarser.extent, space.extent, atol=4)


def test_resampling_equals_simpleitk_with_the_exported_transform(scene, tmp_path):
    fixed, moving, transform = scene
    image = np.random.default_rng(3).normal(size=(1, *moving.shape)).astype(np.float32)
    ours = resample_image(image, moving=moving, fixed=fixed, transform=transform, outside=0.0)
    write_itk(tmp_path / "transform.h5", transform)
    theirs = sitk.Resample(
        sitk_image(image[0], moving), sitk_image(np.zeros(fixed.shape), fixed), sitk.ReadTransform(str(tmp_path / "transform.h5")), sitk.sitkLinear, 0.0
    )
    assert (sitk.GetArrayFromImage(theirs) != 0).mean() > 0.3
    np.testing.assert_allclose(ours[0], sitk.GetArrayFromImage(theirs), atol=1e-3)


def test_labels_resample_exactly_as_simpleitk(scene):
    fixed, moving, transform = scene
    labels = np.random.default_rng(4).integers(0, 200, size=(1, *moving.shape)).astype(np.uint8)
    ours = resample_labels(labels, moving=moving, fixed=fixed, transform=transform)
    theirs = sitk.Resample(sitk_image(labels[0], moving), sitk_image(np.zeros(fixed.shape), fixed), to_itk(transform), sitk.sitkNearestNeighbor, 0.0)
    assert ours.dtype == np.uint8
    assert (ours[0] != sitk.GetArrayFromImage(theirs)).mean() < 0.002  # positions exactly between two voxels


@pytest.mark.parametrize("ending", [".h5", ".tfm"])
def test_writing_and_reading_a_transform_keeps_the_map(scene, tmp_path, ending):
    fixed, _, transform = scene
    write_itk(tmp_path / f"t{ending}", transform)
    points = fixed.to_world(np.random.default_rng(5).uniform(0, min(fixed.shape) - 1, (30, fixed.ndim)))
    assert np.abs(read_itk(tmp_path / f"t{ending}").map_points(points) - transform.map_points(points)).max() < 1e-4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_sampled_field_agrees_with_the_map_on_its_voxels(scene, tmp_path, ending):
    fixed, _, transform = scene
    write_itk(tmp_path / f"f{ending}", transform, fixed)
    points = fixed.to_world(np.argwhere(np.ones(fixed.shape)))
    assert np.abs(read_itk(tmp_path / f"f{ending}").map_points(points) - transform.map_points(points)).max() < 1e-3


def test_learn2reg_there_and_back(scene):
    fixed, moving, transform = scene
    displacement = to_learn2reg(transform, fixed=fixed, moving=moving)
    assert displacement.shape == (*fixed.shape[::-1], fixed.ndim)
    back = from_learn2reg(displacement, fixed=fixed, moving=moving)
    points = fixed.to_world(np.argwhere(np.ones(fixed.shape)))
    assert np.abs(back.map_points(points) - transform.map_points(points)).max() < 1e-4


def test_learn2reg_counts_voxels_of_the_moving_grid():
    space = Space.plain((5, 6, 7), (2.0, 1.0, 0.5))
    shift = Transform.affine([[1, 0, 0, 1.0], [0, 1, 0, 0], [0, 0, 1, 4.0], [0, 0, 0, 1]])  # 1 mm along x, 4 mm along z
    displacement = to_learn2reg(shift, fixed=space, moving=space)
    assert np.allclose(displacement, [2.0, 0.0, 2.0], atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0], ids=["micrometre", "millimetre", "centimetre"])
def test_grids_are_compared_by_their_voxels(size):
    """Labels one voxel off passed at micrometre spacing, and two micrometres off at 1 mm were refused."""
    space = Space.plain((5, 6, 7), (2 * size, size, 0.5 * size))
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = space.spacing[::-1][axis]
        moved = [Space(space.shape, space.spacing, tuple((np.asarray(space.origin) + share * step).tolist()), space.direction) for share in (0.005, 0.02, 1.0)]
        assert [space.same_as(other) for other in moved] == [True, False, False]


def test_inverse_transform_returns_points(scene):
    fixed, _, _ = scene
    smooth = np.zeros((fixed.ndim, *fixed.shape), dtype=np.float32)
    smooth[0] = 0.8
    transform = Transform((FieldMap(smooth, fixed), AffineMap(np.diag([*(1.1,) * fixed.ndim, 1.0]))), fixed.ndim)
    points = fixed.to_world(np.full((1, fixed.ndim), 5.0))
    assert np.allclose(transform.inverse().map_points(transform.map_points(points)), points, atol=1e-3)


def test_chaining_and_simplifying_keep_the_map(scene):
    fixed, _, transform = scene
    longer = Transform.identity(fixed.ndim).then(Transform.affine(np.eye(fixed.ndim + 1))).then(transform)
    points = fixed.to_world(np.full((1, fixed.ndim), 4.0))
    assert len(longer.simplified().stages) == len(transform.stages)
    assert np.allclose(longer.simplified().map_points(points), transform.map_points(points))


def test_every_linear_itk_transform_is_read():
    euler = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (4.0, 5.0, 6.0))
    points = np.random.default_rng(0).normal(size=(10, 3))
    expected = [euler.TransformPoint(point) for point in points.tolist()]
    assert np.allclose(from_itk(euler).map_points(points), expected)


def test_outside_is_the_minimum_unless_said():
    space = Space.plain((6, 6))
    far = space.centred((50.0, 50.0), (3, 3), (1.0, 1.0))
    image = np.full((1, 6, 6), -1000.0) + np.arange(36).reshape(1, 6, 6)
    assert (resample_image(image, moving=space, fixed=far) == -1000).all()
    assert (resample_image(image, moving=space, fixed=far, outside=7.0) == 7).all()


def test_a_white_background_stays_white_channel_by_channel():
    space = Space.plain((20, 20))
    far = space.centred((50.0, 50.0), (3, 3), (1.0, 1.0))
    section = np.stack([np.full((20, 20), white, np.uint8) for white in (240, 238, 241)])
    section[:, 6:14, 6:14] = np.random.default_rng(0).integers(0, 120, (3, 8, 8))
    assert (resample_image(section, moving=space, fixed=far)[:, 0, 0] == (240, 238, 241)).all()
    section[0] = 255 - section[0]  # one dark background, and it is none of a stained section
    assert (resample_image(section, moving=space, fixed=far) == section.min()).all()


def test_antialiasing_keeps_the_mean_of_noise():
    noise = np.random.default_rng(0).normal(size=(1, 64, 64))
    space = Space.plain((64, 64))
    coarse = space.with_spacing((4.0, 4.0))
    smooth, raw = (resample_image(noise, moving=space, fixed=coarse, antialias=flag) for flag in (True, False))
    assert smooth.std() < 0.5 * raw.std()


def test_bad_files_and_shapes_have_one_clear_line(tmp_path, rotated_space):
    (tmp_path / "broken.h5").write_text("nonsense")
    for path, message in [("missing.h5", "does not exist"), ("broken.h5", "broken.h5")]:
        with pytest.raises(TransformError, match=message):
            read_itk(tmp_path / path)
    with pytest.raises(TransformError, match="ending"):
        write_itk(tmp_path / "t.xyz", Transform.identity(3))
    with pytest.raises(TransformError, match="reference"):
        write_itk(tmp_path / "t.nii.gz", Transform.identity(3))
    with pytest.raises(GeometryError, match="grid"):
        resample_image(np.zeros((1, 3, 4)), moving=Space.plain((5, 4)), fixed=Space.plain((5, 4)))
    with pytest.raises(GeometryError, match="singular"):
        Space((3, 3), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 1.0, 0.0))


@pytest.mark.parametrize(("shape", "stride"), [((13, 18), (2, 3)), ((9, 12, 8), (2, 1, 4)), ((8, 7, 10), (1, 1, 1))])
def test_thinning_loses_nothing_of_what_is_linear_between_the_kept_voxels(rotated_space, shape, stride):
    coarse = [-(-(size - 1) // step) + 1 for size, step in zip(shape, stride, strict=True)]
    nodes = np.random.default_rng(0).normal(size=(len(shape), *coarse)).astype(np.float32)
    fine = np.stack([map_coordinates(one, np.indices(shape) / np.reshape(stride, (-1, *(1,) * len(shape))), order=1) for one in nodes])
    field = FieldMap(fine, rotated_space(shape))
    points = field.space.to_world(np.random.default_rng(1).uniform(0, np.asarray(shape) - 1, (200, len(shape))))
    thinned = field.thinned(stride)
    assert thinned.space.shape == tuple(coarse)
    assert np.allclose(Transform((thinned,), len(shape)).map_points(points), Transform((field,), len(shape)).map_points(points), atol=1e-4)


@pytest.mark.parametrize("shape", [(14, 11), (9, 12, 8)])
def test_a_faded_out_field_is_the_same_inside_and_folds_nowhere_around(rotated_space, shape):
    ndim = len(shape)
    field = FieldMap(np.full((ndim, *shape), -3.5, np.float32), rotated_space(shape))
    faded = Transform(field.faded_out(), ndim)
    inside = field.space.to_world(np.random.default_rng(0).uniform(0, np.asarray(shape) - 1, (100, ndim)))
    assert np.allclose(faded.map_points(inside), Transform((field,), ndim).map_points(inside), atol=1e-4)
    around = field.space.centred(field.space.centre, [size + 40 for size in shape], field.space.spacing)
    assert folding_percent(Transform((field,), ndim).sampled_on(around).displacement) > 0  # it ends abruptly
    assert folding_percent(faded.sampled_on(around).displacement) == 0
    corners = around.corners()
    assert np.allclose(faded.map_points(corners), corners)


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".mat", ".h5"])
def test_a_zero_below_zero_is_written(tmp_path, ending):
    """It was taken for a file that found no room on the disk."""
    matrix = np.array([[0.5, -0.0, 1.0], [0.0, 1.0, -0.0], [0.0, 0.0, 1.0]])
    write_itk(tmp_path / f"a{ending}", Transform.affine(matrix))
    np.testing.assert_array_equal(read_itk(tmp_path / f"a{ending}").stages[0].matrix, matrix)


@pytest.mark.parametrize("shape", [(6, 9, 12), (1, 7, 11), (5, 4, 1)])
def test_positions_that_lie_in_rows_are_sampled_as_those_in_any_order(shape):
    rng = np.random.default_rng(3)
    image, field = rng.normal(size=(2, *shape)).astype(np.float32), rng.normal(size=(3, *shape)).astype(np.float32)
    # rows that begin and end outside, and some that lie there whole
    rows = np.stack(np.meshgrid(np.arange(-1.3, shape[0]), np.arange(-0.9, shape[1]), np.arange(-1.4, shape[2] + 1, 0.7), indexing="ij")).reshape(3, -1)
    order = rng.permutation(rows.shape[1])
    moved, sampled = [rows.copy(), np.ascontiguousarray(rows[:, order])], []
    for positions in moved:
        values = np.empty((2, rows.shape[1]), np.float32)
        positions_cpu.values(0, rows.shape[1], values, image, positions, np.float32(-7))
        positions_cpu.displace(0, rows.shape[1], positions, field)
        sampled.append(values)
    # to the last bit: threads cut rows anywhere
    assert np.array_equal(sampled[0][:, order], sampled[1])
    assert np.array_equal(moved[0][:, order], moved[1])
    assert 0 < (sampled[0] == -7).sum() < sampled[0].size
