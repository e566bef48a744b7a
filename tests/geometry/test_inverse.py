"""The inverse of a displacement field: right, or refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from nnreg.errors import GeometryError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.space import apply_matrix


def turned(space: Space, degrees: float, shift: float, rng: np.random.Generator) -> AffineMap:
    """A turn about the middle of the grid, and a shift by so many sizes of the image."""
    n = space.ndim
    if n == 3:
        axis = rng.normal(size=3)
        rotation = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    else:
        cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        rotation = np.array([[cosine, -sine], [sine, cosine]])
    centre = space.to_world([(size - 1) / 2 for size in space.shape])
    matrix = np.eye(n + 1)
    matrix[:n, :n] = rotation
    matrix[:n, n] = centre - rotation @ centre + shift * space.extent[::-1] * rng.uniform(-1, 1, n)
    return AffineMap(matrix)


def one_field(space: Space, linear: AffineMap, bend: float, rng: np.random.Generator) -> Transform:
    """A smooth field of at most `bend` voxels, then the linear map, as a single field: what field.nii.gz and one-file ANTs warps hold."""
    smooth = np.stack([gaussian_filter(rng.normal(size=space.shape), 4) for _ in range(space.ndim)])
    smooth *= bend / np.abs(smooth).max()
    both = Transform((FieldMap(smooth.astype(np.float32), space), linear), space.ndim)
    return Transform((both.sampled_on(space),), space.ndim)


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
@pytest.mark.parametrize("shape", [(23, 18), (15, 22, 12)], ids=["2D", "3D"])
def test_a_field_that_holds_a_turn_and_a_shift_is_inverted(shape, degrees, shift):
    rng = np.random.default_rng(len(shape))
    space = Space.plain(shape, (2.0, 1.0, 1.5)[: len(shape)])
    transform = one_field(space, turned(space, degrees, shift, rng), 2.0, rng)
    points = space.to_world(np.stack([rng.uniform(1, size - 2, 100) for size in shape], axis=1))
    back = transform.inverse().map_points(transform.map_points(points))
    assert np.abs((back - points) / np.asarray(space.spacing[::-1])).max() < 0.1


@pytest.mark.parametrize("shift", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("degrees", [0.0, 40.0])
@pytest.mark.parametrize("shape", [(23, 18), (15, 22, 12)], ids=["2D", "3D"])
def test_beyond_a_field_and_its_image_the_inverse_is_the_identity(shape, degrees, shift):
    rng = np.random.default_rng(len(shape))
    space = Space.plain(shape, (2.0, 1.0, 1.5)[: len(shape)])
    linear = turned(space, degrees, shift, rng)
    transform = one_field(space, linear, 2.0, rng)
    points = space.to_world(rng.uniform(-3, 4, (3000, len(shape))) * np.asarray(space.shape))
    places = [space.to_index(points), space.to_index(apply_matrix(linear.inverse().matrix, points))]
    outside = np.logical_and.reduce([((place < -6) | (place > np.asarray(space.shape) + 5)).any(axis=1) for place in places])
    assert outside.sum() > 100
    assert np.abs(transform.inverse().map_points(points[outside]) - points[outside]).max() < 1e-6


def test_a_constant_field_that_falls_to_zero_at_its_border_has_an_inverse_that_ends_there():
    space = Space.plain((24, 24, 24))
    fall = np.minimum(1, np.minimum(np.arange(24), 23 - np.arange(24)) / 3)
    weight = fall[:, None, None] * fall[:, None] * fall
    field = FieldMap(np.stack([step * weight for step in (0.0, -1.0, 1.5)]).astype(np.float32), space)
    points = np.array([[-20.0, 5.0, 5.0], [200.0, 0.0, 0.0], [12.0, 12.0, -4.0]])
    assert np.abs(Transform((field,), 3).inverse().map_points(points) - points).max() < 1e-6


def test_the_border_of_thick_voxels_comes_back_too():
    space = Space.plain((8, 20, 20), (4.0, 1.0, 1.0))
    field = FieldMap(np.zeros((3, *space.shape), np.float32), space)
    field.displacement[0] = 0.45 * np.linspace(0, 1, 8)[:, None, None] ** 8
    transform = Transform((field,), 3)
    last = space.to_world([[7.0, 5.0, 6.0]])
    assert np.abs(transform.inverse().map_points(transform.map_points(last)) - last).max() < 0.1


def test_a_small_field_needs_a_small_grid_however_far_it_carries():
    space = Space.plain((16, 16, 16), (1.0, 1.0, 1.0))
    far = FieldMap(np.full((3, *space.shape), 250.0, np.float32), space)
    stages = Transform((far,), 3).inverse().stages
    assert sum(stage.displacement.nbytes for stage in stages if isinstance(stage, FieldMap)) <= 20 * far.displacement.nbytes


def test_a_field_that_folds_everywhere_is_refused():
    space = Space.plain((20, 20, 20), (1.0, 1.0, 1.0))
    waves = np.zeros((3, *space.shape), np.float32)
    waves[0] = 6 * np.sin(np.arange(20) * 1.5)[:, None, None]
    with pytest.raises(GeometryError, match=r"cannot be inverted: after the iteration \d+% of its voxels"):
        Transform((FieldMap(waves, space),), 3).inverse()


def test_a_border_that_bends_far_out_of_the_grid_is_refused():
    space = Space.plain((16, 16, 16), (1.0, 1.0, 1.0))
    apart = np.zeros((3, *space.shape), np.float32)
    apart[:, 8:] = 200.0
    apart[:, :8] = -200.0
    with pytest.raises(GeometryError, match="cannot be inverted"):
        Transform((FieldMap(apart, space),), 3).inverse()


def peak(work) -> int:
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("shift", [0.0, 40.0, 4000.0])
def test_no_translation_takes_more_than_twenty_times_the_field(shift):
    space = Space.plain((112, 100, 104))  # above a million voxels, where memory matters
    rng = np.random.default_rng(0)
    smooth = np.stack([gaussian_filter(rng.normal(size=space.shape).astype(np.float32), 12) for _ in range(3)])
    field = FieldMap((4 * smooth / np.abs(smooth).max() + np.float32(shift)).astype(np.float32), space)
    assert peak(field.inverse_stages) < 20 * field.displacement.nbytes
    assert peak(field.faded_out) < 20 * field.displacement.nbytes


def test_a_far_translation_goes_on_beyond_a_field_that_fades_out():
    space = Space.plain((112, 100, 104), (2.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=space.shape).astype(np.float32), 12)
    field = FieldMap(np.stack([2 * smooth / np.abs(smooth).max() + shift for shift in (300, 0, -50)]).astype(np.float32), space)
    faded = Transform(field.faded_out(), 3)
    inside = space.to_world(rng.uniform(0, np.asarray(space.shape) - 1, (100, 3)))
    assert np.allclose(faded.map_points(inside), Transform((field,), 3).map_points(inside), atol=1e-3)
    far = np.asarray([[-500.0, 900.0, 700.0]])
    assert np.abs(faded.map_points(far) - far - [[-50.0, 0.0, 600.0]]).max() < 2


@pytest.mark.parametrize(("shape", "spacing"), [((21, 24), (2.0, 2.0)), ((12, 20, 18), (4.0, 2.0, 2.0))], ids=["2D", "3D"])
def test_an_inverse_is_told_between_the_voxels_of_its_field(monkeypatch, shape, spacing):
    space, fine = Space.plain(shape, spacing), Space.plain(tuple(2 * size for size in shape), tuple(step / 2 for step in spacing))
    rng = np.random.default_rng(1)
    smooth = np.stack([gaussian_filter(rng.normal(size=shape), 2) for _ in shape])
    transform = Transform((FieldMap((2.5 * smooth / np.abs(smooth).max()).astype(np.float32), space),), len(shape))
    points = space.to_world(np.stack([rng.uniform(2, size - 3, 400) for size in shape], axis=1))
    left = [np.linalg.norm(back.map_points(transform.map_points(points)) - points, axis=1) for back in (transform.inverse(), transform.inverse(fine))]
    assert left[1].mean() < 0.75 * left[0].mean()
    (field,) = transform.inverse(fine).stages
    assert np.allclose(field.space.spacing, fine.spacing)
    assert transform.inverse(space).stages[0].space.spacing == transform.inverse().stages[0].space.spacing
    monkeypatch.setattr("nnreg.geometry.transform.REFINED_VOXELS", space.voxels)
    assert transform.inverse(fine).stages[0].space.spacing == transform.inverse().stages[0].space.spacing
