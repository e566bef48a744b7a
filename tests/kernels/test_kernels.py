"""The fused kernels are held against the plain torch reference: values, gradients, 2D and 3D, odd sizes, masks, all borders, any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d

from nnreg.kernels import reference, search_cpu, volumes
from nnreg.kernels.correlation import Windows
from nnreg.kernels.inversion import exact_inverse, inverted_volume
from nnreg.kernels.threads import in_parts
from nnreg.losses.lncc import lncc_value_and_gradient

SHAPES = [(9, 17, 11), (1, 13, 22), (23, 1, 16), (5, 4, 37), (40, 18, 3)]
RADII = [(2, 2, 2), (1, 3, 0), (4, 4, 4)]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def fields_for(shape: tuple[int, int, int], largest: float = 3.0) -> list[np.ndarray]:
    """Rough fields that also leave the grid: three components, and two where the volume is flat."""
    counts = [3, 2] if shape[0] == 1 else [3]
    return [(random(count, *shape, seed=count) - 0.5) * 2 * largest for count in counts]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("radii", RADII)
@pytest.mark.parametrize("shape", SHAPES)
def test_correlation_and_its_gradient(shape, radii, masked, signed, threads):
    fixed, warped = random(*shape, seed=1) + 3, random(*shape, seed=2) - 5
    mask = random(*shape, seed=3) > 0.3 if masked else None
    value, gradient = Windows.of(fixed, radii, floor=1e-3, mask=mask).correlation(warped, signed=signed)
    variable = double(warped).requires_grad_()
    expected = reference.correlation(double(fixed), variable, radii, floor=1e-3, mask=None if mask is None else double(mask), signed=signed)
    expected.backward()
    # without the square, the rounding of a window of few voxels is divided by the floor
    assert value == pytest.approx(expected.item(), rel=1e-4, abs=1e-3 if signed else 1e-6)
    assert np.abs(gradient - variable.grad.numpy()).max() <= 2e-4 * float(variable.grad.abs().max()) + 1e-9


@pytest.mark.parametrize("floors", [(1.5, 0.4), (0.4, 1.5)])
def test_each_volume_has_a_floor_of_its_own(floors):
    shape, radii = (7, 9, 8), (1, 1, 1)
    fixed, warped = random(*shape, seed=1), random(*shape, seed=2)
    value, gradient = Windows.of(fixed, radii, floor=floors[0], other_floor=floors[1]).correlation(warped)
    variable = double(warped).requires_grad_()
    expected = reference.correlation(double(fixed), variable, radii, floor=floors[0], other_floor=floors[1])
    expected.backward()
    assert value != pytest.approx(reference.correlation(double(fixed), double(warped), radii, floor=floors[0]).item(), rel=1e-2)
    tensors = lncc_value_and_gradient(double(fixed)[None], double(warped)[None], (3, 3, 3), smooth_dr=floors[0], warped_dr=floors[1])
    for found, slope in ((value, gradient), (tensors[0].item(), tensors[1][0].numpy())):
        assert found == pytest.approx(expected.item(), rel=1e-4)
        assert np.abs(slope - variable.grad.numpy()).max() <= 2e-4 * float(variable.grad.abs().max())


def test_channels_under_one_mask_share_the_counts_of_their_windows():
    shape = (7, 9, 8)
    one, other, mask = random(*shape, seed=1), random(*shape, seed=2), random(*shape, seed=3) > 0.3
    first = Windows.of(one, (1, 2, 1), floor=1e-3, mask=mask)
    shared, own = (Windows.of(other, (1, 2, 1), floor=1e-3, mask=mask, like=like) for like in (first, None))
    assert shared.inverse_count is first.inverse_count
    for name in ("mean", "inverse", "inverse_count"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(own, name))


def test_correlation_of_flat_and_masked_away_volumes_is_nothing():
    shape = (7, 9, 8)
    noise = random(*shape)
    for fixed, warped, mask in [
        (np.full(shape, 4.0, np.float32), noise, None),
        (noise, np.full(shape, 1e4, np.float32), None),
        (noise, noise, np.zeros(shape, bool)),
    ]:
        value, gradient = Windows.of(fixed, (2, 2, 2), floor=1e-3, mask=mask).correlation(warped)
        assert value == 0
        assert not gradient.any()


def test_a_mask_between_the_samples_of_the_mean_counts():
    image = 5 + random(30, 40, 50, seed=1)
    mask = np.zeros(image.shape, bool)
    mask[20, 21, 23:26] = 1
    windows = Windows.of(image, (1, 1, 1), floor=1e-6, mask=mask)
    assert windows.offset == pytest.approx(image[mask].mean(), abs=1e-4)


def test_masked_values_are_never_looked_at():
    shape = (8, 9, 10)
    fixed, warped, mask = random(*shape, seed=1), random(*shape, seed=2), np.ones(shape, bool)
    mask[:, 4:] = 0
    clean = Windows.of(fixed, (2, 2, 2), floor=1e-3, mask=mask).correlation(warped)
    fixed[:, 4:], warped[:, 4:] = np.nan, np.inf
    dirty = Windows.of(fixed, (2, 2, 2), floor=1e-3, mask=mask).correlation(warped)
    assert clean[0] == dirty[0]
    assert np.array_equal(clean[1], dirty[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_sample(shape, threads):
    image = random(2, 8, 6, 7, seed=4)
    matrix = np.array([[0.9, 0.1, 0.0, 0.3], [-0.1, 0.8, 0.05, -0.4], [0.0, 0.1, 0.7, 0.6]], np.float32)
    for field in fields_for(shape):
        expected = reference.sample(double(image), double(field), double(matrix))
        assert np.abs(volumes.sample(image, field, matrix=matrix) - expected.numpy()).max() < 2e-5
        plain = reference.sample(double(image), double(field))
        assert np.abs(volumes.sample(image, field) - plain.numpy()).max() < 2e-5


def test_sample_of_a_volume_of_one_voxel_and_of_nan_positions():
    image = np.full((1, 1, 1, 1), 5.0, np.float32)
    field = np.array([np.nan, np.inf, -np.inf], np.float32).reshape(3, 1, 1, 1).repeat(4, axis=3)
    assert np.array_equal(volumes.sample(image, np.ascontiguousarray(field)), np.full((1, 1, 1, 4), 5.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_compose(shape, threads):
    for inner in fields_for(shape):
        outer = random(*inner.shape, seed=9)
        expected = reference.compose(double(outer), double(inner), 0.7)
        assert np.abs(volumes.compose(outer, inner, scale=0.7) - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("sigma", [(1.7, 1.7, 1.7), (0.0, 0.5, 3.3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_of_volumes_and_forces(shape, sigma, threads):
    volume = random(2, *shape, seed=5)
    weights = [torch.from_numpy(volumes.gaussian(width)) for width in sigma]
    assert np.abs(volumes.smooth(volume, sigma) - reference.smooth(double(volume), weights).numpy()).max() < 1e-5
    gradient, warped = random(2, *shape, seed=6) - 0.5, random(2, *shape, seed=7)
    for count in (3, 2) if shape[0] == 1 else (3,):
        out = np.empty((count, *shape), np.float32)
        longest = volumes.smooth_force(gradient, warped, sigma, out=out)
        expected = reference.smooth(reference.force(double(gradient), double(warped), count), weights).numpy()
        assert np.abs(out - expected).max() < 1e-5
        assert longest == pytest.approx(np.sqrt((expected**2).sum(0)).max(), rel=1e-4)


def test_gaussian_weights_have_their_width():
    for sigma in (1.0, 1.7, 4.0):
        weights = volumes.gaussian(sigma)
        offset = np.arange(len(weights)) - len(weights) // 2
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert np.sqrt((weights * offset**2).sum()) == pytest.approx(sigma, rel=0.02)


def test_parts_cover_everything_once_and_failures_surface(threads):
    seen = np.zeros(17, int)

    def kernel(start, stop):
        seen[start:stop] += 1

    in_parts(kernel, 17)
    assert (seen == 1).all()

    def broken(start, stop):
        raise ValueError(f"{start}")

    with pytest.raises(ValueError, match=r"\d"):
        in_parts(broken, 17)


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 12, 9)])
def test_spreading_is_the_transpose_of_sampling(shape):
    generator = np.random.default_rng(3)
    components = 3 if shape[0] > 1 else 2
    field = generator.uniform(-3, 3, (components, *shape)).astype(np.float32)
    # what lands outside is lost on the way there, so it must not count on the way back
    positions = np.indices(shape)[3 - components :] + field
    top = np.asarray(shape[3 - components :]).reshape(-1, 1, 1, 1) - 1
    inside = ((positions >= 0) & (positions <= top)).all(axis=0)
    values, image = (generator.standard_normal((2, *shape)).astype(np.float32) for _ in range(2))
    there = (volumes.spread(values * inside, field) * image).sum()
    back = (values * inside * volumes.sample(image, field)).sum()
    assert there == pytest.approx(back, rel=1e-4)


@pytest.mark.parametrize("shape", [(24, 28, 26), (1, 40, 44)])
def test_an_inverse_leaves_little_either_way_round(shape, smooth_field):
    grid = shape if shape[0] > 1 else shape[1:]
    field = smooth_field(grid, largest=3.0)[0].numpy()
    # zero at the border, so that no voxel is mapped out of the grid
    fade = np.ones(grid, np.float32)
    for axis, size in enumerate(grid):
        distance = np.minimum(np.arange(size), size - 1 - np.arange(size)) / 5
        fade = fade * np.minimum(1, distance).reshape([-1 if other == axis else 1 for other in range(len(grid))])
    field = np.ascontiguousarray((field * fade).reshape(-1, *shape), dtype=np.float32)
    inverse = inverted_volume(field)
    for outer, inner in ((inverse, field), (field, inverse)):
        left = np.sqrt((volumes.compose(outer, inner) ** 2).sum(axis=0))
        assert np.quantile(left, 0.95) < 0.05
    exact = exact_inverse(field)
    # shared: less where the exact inverse is interpolated, and what that costs at its own voxels is no more
    before, after = (np.sqrt((volumes.compose(one, field) ** 2).sum(axis=0)).mean() for one in (exact, inverse))
    assert after < 0.7 * before
    assert np.sqrt((volumes.compose(field, inverse) ** 2).sum(axis=0)).mean() < before


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_costs_are_averaged_over_neighbours(axis):
    costs, found = random(4, 5, 6, 7), np.empty((4, 5, 6, 7), np.float32)
    in_parts(search_cpu.mean_of_three, len(costs), found, costs, axis)
    assert np.allclose(found, uniform_filter1d(costs, 3, axis=axis, mode="nearest"), atol=1e-6)


@pytest.mark.parametrize("count", [1, 27, 32, 75])
def test_the_nearest_of_the_least_costs_is_chosen(count):
    costs, guess, shifts = random(3, 4, 5, count), random(3, 3, 4, 5, seed=1), random(3, count, seed=2)
    costs[0, 0, 0] = 0.5  # equal ones: the coupling decides
    for coupling in (0.0, 0.7):
        chosen = np.empty_like(guess)
        in_parts(search_cpu.nearest_minimum, len(costs), chosen, costs, guess, shifts, np.float32(coupling))
        wanted = costs + np.float32(coupling) * ((shifts[:, None, None, None] - guess[..., None]) ** 2).sum(axis=0)
        assert np.allclose(chosen, shifts[:, wanted.argmin(axis=-1)])
