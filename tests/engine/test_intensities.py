"""Both images of a pair on one scale of intensities."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnreg.engine import register
from nnreg.engine.intensities import ALIKE, common_scales, scaled
from nnreg.engine.prepared_image import PreparedImage
from nnreg.geometry import Space
from nnreg.imageio import Image
from tests.engine.pairs import error_voxels, known_pair

SPACE = Space.plain((20, 24, 22))


def side(*channels, mask=None):
    return PreparedImage(np.stack(channels).astype(np.float32), mask, SPACE)


@pytest.fixture
def tissue():
    smooth = gaussian_filter(np.random.default_rng(0).standard_normal(SPACE.shape), 1.5)
    return np.clip(0.45 + 0.1 * smooth / smooth.std(), 0.05, 0.75)


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.3])
def test_a_factor_between_the_images_is_found_and_taken_out(tissue, factor):
    fixed, moving = side(tissue), side(tissue * factor)
    of_fixed, of_moving = common_scales(fixed, moving, np.eye(4))
    assert of_moving[0] / of_fixed[0] == pytest.approx(1 / factor, rel=1e-3)
    assert min(of_fixed[0], of_moving[0]) == 1  # nothing becomes darker: what was cut off must stay cut off
    np.testing.assert_allclose(scaled(fixed.image, of_fixed), scaled(moving.image, of_moving), atol=1e-3)


def test_what_one_window_cut_off_is_cut_off_in_both(tissue):
    fixed, moving = side(np.minimum(tissue * 2, 1)), side(tissue)
    scales = common_scales(fixed, moving, np.eye(4))
    one, other = scaled(fixed.image, scales[0]), scaled(moving.image, scales[1])
    assert np.abs(one - other).mean() < 0.2 * np.abs(fixed.image - moving.image).mean()


def test_channels_have_factors_of_their_own_and_small_ones_are_left(tissue):
    _, of_moving = common_scales(side(tissue, tissue), side(tissue * 0.7, tissue * np.exp(-ALIKE / 2)), np.eye(4))
    assert of_moving == (pytest.approx(1 / 0.7, rel=1e-3), 1.0)


def test_what_a_mask_leaves_out_does_not_count(tissue):
    mask = np.zeros(SPACE.shape, np.float32)
    mask[:10] = 1
    other = tissue * np.where(mask > 0, 0.7, 1.4)
    assert common_scales(side(tissue, mask=mask), side(other), np.eye(4))[1][0] == pytest.approx(1 / 0.7, rel=1e-3)
    assert common_scales(side(tissue), side(other, mask=mask), np.eye(4))[1][0] == pytest.approx(1 / 0.7, rel=1e-3)


def test_images_that_do_not_meet_say_nothing(tissue):
    away = np.eye(4)
    away[0, 3] = 1000
    assert common_scales(side(tissue), side(0.5 * tissue), away) == ((1.0,), (1.0,))


def test_an_image_that_was_cut_off_is_registered_as_well():
    fixed, moving, _, _, truth = known_pair(3)
    body = fixed.array[fixed.array > 60]
    saturated = Image(np.minimum(fixed.array, np.percentile(body, 80)), fixed.space)
    plain, cut = (register(fixed=image, moving=moving, similarity="lncc") for image in (fixed, saturated))
    assert error_voxels(cut.transform, truth, fixed) < 2 * error_voxels(plain.transform, truth, fixed)
    assert [decision.value for decision in cut.decisions if decision.name == "intensities"] == ["1.30"]
    assert not any(decision.name == "intensities" for decision in plain.decisions)
