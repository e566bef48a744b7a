import numpy as np
import pytest
from scipy import ndimage

from nnreg.planning.registration.foreground import find_foreground, looks_like_hounsfield, otsu

SHAPE = (40, 52, 46)


def _ellipsoid(shape, radius=0.35, centre=0.5):
    grid = np.meshgrid(*[np.linspace(0, 1, size) for size in shape], indexing="ij")
    return sum(((axis - centre) / radius) ** 2 for axis in grid) <= 1


def _tissue(shape, rng):
    return 600 + 250 * ndimage.gaussian_filter(rng.normal(size=shape), 3) / 0.05 ** (len(shape) / 3)


def _overlap(found, truth):
    box = tuple(slice(low, high) for low, high in zip(found.low, found.high, strict=True))
    inside = np.zeros(truth.shape, dtype=bool)
    inside[box] = True
    return truth[inside].sum() / truth.sum()


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.mark.parametrize("shape", [SHAPE, (140, 90)])
def test_exact_zero_background(shape, rng):
    truth = _ellipsoid(shape)
    image = np.where(truth, np.clip(_tissue(shape, rng), 30, None), 0)
    found = find_foreground(image[None])
    assert found.found
    assert found.background == (0.0,)
    indices = np.argwhere(truth)
    assert np.abs(np.asarray(found.low) - indices.min(0)).max() <= 2
    assert np.abs(np.asarray(found.high) - 1 - indices.max(0)).max() <= 2
    np.testing.assert_allclose(found.centre(), indices.mean(0), atol=1.0)
    assert abs(found.fraction - truth.mean()) < 0.02


def test_noise_background(rng):
    truth = _ellipsoid(SHAPE)
    image = np.where(truth, _tissue(SHAPE, rng), 0) + np.abs(rng.normal(0, 25, SHAPE))
    found = find_foreground(image[None])
    assert found.found
    assert _overlap(found, truth) == 1.0
    assert abs(found.fraction - truth.mean()) < 0.05


def test_bright_background_of_a_colour_section(rng):
    truth = _ellipsoid((150, 210), radius=0.3)
    image = np.where(truth, rng.integers(60, 160, (3, 150, 210)), rng.integers(235, 243, (3, 150, 210))).astype(np.uint8)
    found = find_foreground(image)
    assert found.found
    assert min(found.background) > 230
    assert abs(found.fraction - truth.mean()) < 0.05


def test_ct_body_with_lungs_air_padding_and_table(rng):
    body = _ellipsoid(SHAPE[1:], radius=0.4)[None].repeat(SHAPE[0], 0)  # cut off at top and bottom
    lungs = _ellipsoid(SHAPE[1:], radius=0.15)[None].repeat(SHAPE[0], 0)
    image = np.where(body, 40.0, -1000.0) + rng.normal(0, 20, SHAPE)
    image[lungs] = -850
    image[:, 10:14, 20:24] = 700  # bone
    image[:, 50, 20:26] = 100  # a table
    image[:, :3, :3] = -2048
    found = find_foreground(image[None])
    assert found.found
    assert found.hounsfield == (True,)
    assert found.background == (-1000.0,)
    assert found.mask[body & lungs].mean() > 0.95
    assert found.faces[0][0] > 0.3
    assert found.faces[0][1] > 0.3
    assert found.high[1] < 50
    assert abs(found.fraction - body.mean()) < 0.03


def test_a_crop_inside_the_body_is_all_foreground(rng):
    found = find_foreground(_tissue((36, 50, 35), rng)[None])
    assert not found.found
    assert found.low == (0, 0, 0)
    assert found.high == (36, 50, 35)
    assert found.fraction == 1.0


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_all_foreground(value):
    found = find_foreground(np.full((1, 12, 14), value))
    assert not found.found
    assert found.fraction == 1.0


def test_fiducial_outside_the_head_is_no_foreground(rng):
    truth = _ellipsoid(SHAPE, radius=0.3)
    image = np.where(truth, 900.0, 0.0)
    image[2:5, 2:5, 2:5] = 1500
    assert min(find_foreground(image[None]).low) > 5


def test_few_thick_slices_are_not_eroded(rng):
    truth = _ellipsoid((6, 90, 80))
    found = find_foreground(np.where(truth, 500.0, 0.0)[None])
    assert found.found
    assert _overlap(found, truth) == 1.0


def test_large_images_are_thinned_and_nothing_is_cut(rng):
    truth = _ellipsoid((700, 1100))
    found = find_foreground(np.where(truth, 100, 0).astype(np.uint8)[None])
    assert found.steps == (2, 3)
    assert _overlap(found, truth) == 1.0


@pytest.mark.parametrize(("low", "high", "expected"), [(-1000, 900, True), (-500, 900, False), (-1000, 150, False)])
def test_hounsfield_needs_air_and_bone(low, high, expected, rng):
    values = np.concatenate([np.full(500, low), rng.normal(30, 30, 3000), np.full(50, high)]).astype(float)
    assert looks_like_hounsfield(values) is expected


def test_otsu_separates_two_classes(rng):
    values = np.concatenate([rng.normal(0.1, 0.02, 4000), rng.normal(0.7, 0.05, 1000)])
    assert 0.2 < otsu(values) < 0.55
