"""Linear alignment recovers maps that are known because we made the pair, whatever the grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.dataset import SyntheticEllipsoids
from nnreg.engine import align
from nnreg.engine.linear import Pair
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.similarity import GlobalCorrelation, LocalCorrelation, MutualInformation
from nnreg.errors import RegistrationError
from nnreg.geometry import Space, Transform, resample_image, resize
from tests.engine.pairs import known_pair


def blob_image(ndim: int, size: int = 40, seed: int = 0) -> np.ndarray:
    """A smooth random texture inside an ellipsoid on dark ground: something with inside, border and no symmetry."""
    generator = torch.Generator().manual_seed(seed)
    texture = resize(torch.rand(1, 1, *(7,) * ndim, generator=generator), (size,) * ndim)[0]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * ndim, indexing="ij")
    radius = sum(((axis / scale) ** 2 for axis, scale in zip(axes, (0.55, 0.65, 0.75))), torch.zeros(()))
    body = torch.sigmoid((1 - radius) * 8)
    return (body * (0.4 + 1.2 * texture)).numpy() * 300


def world_map(ndim: int, degrees: float, scale: float, shift: float, centre: np.ndarray) -> np.ndarray:
    """Turn in the x-y plane and scale about `centre`, then shift along every axis, mm."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(ndim + 1)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:ndim, :ndim] *= scale
    matrix[:ndim, ndim] = centre - matrix[:ndim, :ndim] @ centre + shift
    return matrix


def error_mm(matrix: np.ndarray, truth: np.ndarray, space: Space) -> float:
    """Largest distance of what two maps do to points of the inner half of the grid."""
    inner = space.centre + (space.corners() - space.centre) / 2
    return float(np.abs(Transform.affine(matrix).map_points(inner) - Transform.affine(truth).map_points(inner)).max())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("degrees", "scale", "shift", "kind"), [(0, 1, 6.0, "rigid"), (25, 1, -4.0, "rigid"), (-12, 1.12, 5.0, "affine"), (8, 0.9, 0.0, "affine")]
)
def test_recovers_known_maps(ndim, degrees, scale, shift, kind):
    space = Space.plain((40,) * ndim, (1.5,) * ndim)
    moving = blob_image(ndim)
    truth = world_map(ndim, degrees, scale, shift, space.centre)
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    found = align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space, kind=kind)
    assert error_mm(found.matrix, truth, space) < 0.5  # a third of a voxel
    assert found.similarity_after > found.similarity_before
    assert found.kind == kind


@pytest.mark.parametrize("ndim", [2, 3])
def test_other_grids_orientations_and_origins(ndim, rotated_space):
    moving_space = Space.plain((40,) * ndim, (1.5,) * ndim)
    moving = blob_image(ndim, seed=1)
    # the fixed scanner lay somewhere else: oblique, anisotropic, 300 mm away
    oblique = rotated_space((31, 27, 22)[:ndim] if ndim == 3 else (41, 33), seed=3).with_spacing((2.0, 2.3, 3.1)[:ndim] if ndim == 3 else (1.4, 2.0))
    oblique = oblique.centred(moving_space.centre + 300, oblique.shape, oblique.spacing)
    truth = world_map(ndim, 10, 1.0, -300.0, oblique.centre)
    fixed = resample_image(moving, moving=moving_space, fixed=oblique, transform=Transform.affine(truth))
    found = align(fixed=fixed, fixed_space=oblique, moving=moving, moving_space=moving_space, kind="rigid")
    assert error_mm(found.matrix, truth, oblique) < 1.5  # the fixed voxel is up to 3 mm
    assert np.isnan(found.similarity_before)


def test_other_contrast_is_noticed_and_aligned():
    space = Space.plain((40, 40, 40), (2.0,) * 3)
    moving = blob_image(3, seed=2)
    truth = world_map(3, 10, 1.0, 8.0, space.centre)
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    fixed = np.where(fixed > 20, 400 - fixed, fixed)  # bright becomes dark, air stays air
    found = align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space, kind="rigid")
    assert "mutual information" in found.because
    assert error_mm(found.matrix, truth, space) < 1.0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["none", "centre", "rigid", "affine"])
def test_an_aligned_pair_is_not_touched(ndim, kind):
    space = Space.plain((36,) * ndim)
    image = blob_image(ndim, size=36)
    for noise in (0, 5, *(15,) * (ndim == 3)):  # interpolation smooths noise: at 15 affine maps raise the similarity by 0.01
        noisy = image + np.random.default_rng(0).normal(size=image.shape) * noise
        found = align(fixed=image, fixed_space=space, moving=noisy, moving_space=space, kind=kind)
        assert found.kind == "none", found.because
        assert np.array_equal(found.matrix, np.eye(ndim + 1))


@pytest.mark.parametrize(("spacing", "degrees", "shift"), [((1.0, 1.0, 1.0), 0, 0.45), ((10.0, 1.5, 1.5), 0, 0.45), ((1.0, 1.0), 0.45, 0)])
def test_what_lies_less_than_half_a_voxel_off_is_brought_together(spacing, degrees, shift):
    """Also where the images are nearly alike already."""
    ndim = len(spacing)
    space = Space.plain((12, 50, 50) if spacing[0] > 1 else (96, 96) if ndim == 2 else (40,) * 3, spacing)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in space.shape], indexing="ij")
    body = 1 / (1 + np.exp(-8 * (1 - sum((axis / 0.7) ** 2 for axis in axes))))
    moving = (300 * body * (0.5 + 0.3 * np.sin(17 * axes[-1]) * np.cos(15 * axes[-2]) + 0.2 * np.sin(3 * axes[0])))[None]
    truth = world_map(ndim, degrees, 1.0, 0.0, space.centre)
    truth[ndim - 1, ndim] += shift * spacing[0]
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    found = align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space)
    assert found.kind == "rigid", found.because
    assert error_mm(found.matrix, truth, space) < 0.3 * error_mm(np.eye(ndim + 1), truth, space)


def test_rigid_keeps_lengths_and_is_repeatable():
    space = Space.plain((32, 32, 32), (2.0,) * 3)
    moving, fixed = blob_image(3, size=32, seed=4), blob_image(3, size=32, seed=5)
    one, two = (align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space, kind="rigid") for _ in range(2))
    rotation = one.matrix[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.array_equal(one.matrix, two.matrix)


def test_masks_hide_what_they_should():
    space = Space.plain((48, 48))
    moving = blob_image(2, size=48, seed=6)
    truth = world_map(2, 0, 1.0, 4.0, space.centre)
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    mask = np.ones((1, 48, 48), dtype=np.uint8)
    mask[:, :12] = 0
    fixed[:, :12] = 900  # a bright table that the moving image lacks
    found = align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space, kind="rigid", fixed_mask=mask)
    assert error_mm(found.matrix, truth, space) < 0.4


def test_partial_view_is_aligned_where_both_see():
    space = Space.plain((40, 40, 40), (2.0,) * 3)
    moving = blob_image(3, seed=7)
    truth = world_map(3, 5, 1.0, 3.0, space.centre)
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    half = Space(space.shape, space.spacing, space.origin, space.direction)
    cut_space = Space((24, 40, 40), half.spacing, half.origin, half.direction)
    found = align(fixed=fixed[:, :24], fixed_space=cut_space, moving=moving, moving_space=space, kind="rigid")
    assert error_mm(found.matrix, truth, cut_space) < 1.0


def test_channels_are_used_together():
    space = Space.plain((40, 40))
    moving = np.concatenate([blob_image(2, seed=seed) for seed in (8, 9, 10)])
    truth = world_map(2, 20, 1.0, 3.0, space.centre)
    fixed = resample_image(moving, moving=space, fixed=space, transform=Transform.affine(truth))
    found = align(fixed=fixed, fixed_space=space, moving=moving, moving_space=space, kind="rigid")
    assert error_mm(found.matrix, truth, space) < 0.3


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_bad_images_are_refused_by_name(role):
    space = Space.plain((12, 14))
    good = {"fixed": blob_image(2, size=14)[:, :12], "moving": blob_image(2, size=14)[:, :12]}

    def run(array, **more):
        align(**{**good, role: array}, fixed_space=space, moving_space=space, **more)

    with pytest.raises(RegistrationError, match=f"{role} image is constant"):
        run(np.full((1, 12, 14), 7))
    with pytest.raises(RegistrationError, match=f"{role} image holds 1 NaN"):
        run(np.where(np.arange(14) + np.arange(12)[:, None] == 0, np.nan, good[role][0])[None])
    with pytest.raises(RegistrationError, match=f"{role} image has shape"):
        run(np.zeros((1, 3, 3)))
    with pytest.raises(RegistrationError, match=f"{role} mask is empty"):
        run(good[role], **{f"{role}_mask": np.zeros((1, 12, 14))})
    with pytest.raises(RegistrationError, match="channels"):
        run(np.concatenate([good[role]] * 2))


def test_two_dimensions_do_not_meet_three():
    with pytest.raises(RegistrationError, match="2D or both 3D"):
        align(fixed=blob_image(2), fixed_space=Space.plain((40, 40)), moving=blob_image(3), moving_space=Space.plain((40,) * 3))


@pytest.mark.parametrize("make", [GlobalCorrelation, lambda fixed: LocalCorrelation(fixed, 2), lambda fixed: MutualInformation(fixed, bins=12)])
def test_gradients_are_the_slopes(make, shape):
    rng = np.random.default_rng(3)
    grid = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    fixed = rng.random((2, *grid), dtype=np.float32)
    warped = np.clip(0.5 * fixed + 0.4 * rng.random((2, *grid), dtype=np.float32), 0.02, 0.98)
    valid = (rng.random(grid) > 0.2).astype(np.float32)
    similarity = make(fixed)
    direction = rng.normal(size=warped.shape).astype(np.float32)
    step = np.float32(2e-3)
    _, gradient = similarity(warped, valid)
    slope = (similarity(warped + step * direction, valid)[0] - similarity(warped - step * direction, valid)[0]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.03, abs=2e-4)
    assert not gradient[:, valid == 0].any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_gradient_by_the_matrix_is_the_slope(ndim, rotated_space):
    rng = np.random.default_rng(1)
    spaces = [rotated_space((9, 12, 7)[:ndim], seed=1), rotated_space((8, 7, 11)[:ndim], seed=2)]
    spaces[1] = spaces[1].centred(spaces[0].centre, spaces[1].shape, spaces[1].spacing)
    fixed, moving = (PreparedImage(rng.random((2, *space.shape), dtype=np.float32), None, space) for space in spaces)
    pair = Pair(fixed, moving)
    matrix = np.eye(ndim + 1) + rng.normal(size=(ndim + 1, ndim + 1)) * 0.01
    matrix[ndim] = np.eye(ndim + 1)[ndim]
    weights = rng.normal(size=pair.fixed.shape).astype(np.float32)
    gradient = pair.on_world(matrix, weights)[:ndim]
    for index in np.ndindex(ndim, ndim + 1):
        change = np.zeros_like(matrix)
        change[index] = 1e-4
        slope = ((pair.sample(matrix + change)[0].astype(float) - pair.sample(matrix - change)[0]) * weights).sum() / 2e-4
        assert gradient[index] == pytest.approx(slope, rel=0.05, abs=0.02 * np.abs(gradient).max())


@pytest.mark.parametrize("index", range(5))
def test_strong_deformation_is_not_taken_for_a_turn(index):
    """Bodies that a flow moves by up to a quarter of the image, nothing of it a rotation, are not left further apart than the headers leave them."""
    shape = (64, 64)
    sample = SyntheticEllipsoids(shape, num_samples=5, deform=True, max_displacement=16, control_spacing=32, seed=0)[index]
    space = Space.plain(shape)
    found = align(fixed=sample["fixed"].numpy(), fixed_space=space, moving=sample["moving"].numpy(), moving_space=space)
    body = sample["fixed_labels"][0].numpy() > 0
    points = np.argwhere(body)[:, ::-1].astype(np.float64)
    truth = sample["field"].numpy()[::-1, body].T  # x first
    left = np.linalg.norm(Transform.affine(found.matrix).map_points(points) - points - truth, axis=1).mean()
    assert left <= np.linalg.norm(truth, axis=1).mean()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_the_unit_of_length_does_not_matter(scale):
    fixed, moving, *_ = known_pair(2)
    found = [
        align(fixed=fixed.array, fixed_space=scaled(fixed.space, factor), moving=moving.array, moving_space=scaled(moving.space, factor))
        for factor in (1.0, scale)
    ]
    assert found[0].kind == found[1].kind
    assert np.allclose(found[0].matrix[:2, :2], found[1].matrix[:2, :2], atol=1e-3)
    assert np.allclose(found[0].matrix[:2, 2], found[1].matrix[:2, 2] / scale, atol=0.02)


def scaled(space: Space, factor: float) -> Space:
    return Space(space.shape, tuple(factor * step for step in space.spacing), tuple(factor * value for value in space.origin), space.direction)
