"""Local correlation of middle intensities beside that of the images, and fields that even out what they stretch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import nnreg
from nnreg import metrics
from nnreg.engine.grids import Level, pyramid
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.presets import PRESETS, STABLE
from nnreg.engine.refine import Settings
from nnreg.engine.similarities import SIMILARITIES, find_similarity
from nnreg.engine.similarities.lncc import local_correlation, middle_intensities
from nnreg.geometry import Space
from tests.engine.pairs import known_pair


def side(shape, seed, features=middle_intensities):
    return PreparedImage(np.random.default_rng(seed).random((1, *shape)).astype(np.float32), None, Space.plain(shape), features)


def test_a_ridge_at_the_middle_of_the_window():
    found = middle_intensities(np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32))
    np.testing.assert_allclose(found, [[0, 0.5625, 1, 0.5625, 0]], atol=1e-6)


def test_made_before_images_are_pooled():
    fixed, moving = side((16, 18, 20), 0), side((17, 18, 19), 1)
    coarse, finest = pyramid(fixed, moving, np.eye(4), (2, 1))
    np.testing.assert_array_equal(finest.moving.features, middle_intensities(moving.image))
    whole = dataclasses.replace(moving, image=middle_intensities(moving.image))
    np.testing.assert_array_equal(coarse.moving.features, whole.pooled_by((2, 2, 2)).image)
    assert np.abs(coarse.moving.features - middle_intensities(coarse.moving.image)).max() > 0.1
    assert side((16, 18, 20), 0, None).pooled_by((2, 2, 2)).features is None


def test_what_is_resampled_keeps_them():
    level = pyramid(side((12, 13, 14), 0), side((12, 13, 14), 1), np.eye(4), (2,))[0]
    np.testing.assert_allclose(level.resampled().moving.features, level.moving.features, atol=1e-6)


@pytest.mark.parametrize("radii", [(2.0,), (1.0, 2.0)])
def test_the_value_has_the_gradient_that_it_says(radii):
    level = pyramid(side((12, 13, 14), 0), side((12, 13, 14), 1), np.eye(4), (1,))[0]
    group = local_correlation(level, *radii)
    assert len(group.moving) == 2
    warped = group.moving.astype(np.float32)
    gradient, spare = np.zeros_like(warped), np.zeros_like(warped)
    group.term(warped, gradient)
    rng = np.random.default_rng(2)
    direction = rng.normal(size=warped.shape).astype(np.float32)
    up, down = (group.term((warped + step * direction).astype(np.float32), spare) for step in (1e-3, -1e-3))
    assert float((gradient * direction).sum()) == pytest.approx((up - down) / 2e-3, rel=0.02)


def test_rows_where_either_has_a_say_are_warped():
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, 14:26, 14:26, 14:26] = np.random.default_rng(0).random((12, 12, 12))
    space = Space.plain((40, 40, 40))
    level = Level(*(PreparedImage(image, None, space, middle_intensities),) * 2, np.eye(3, 4, dtype=np.float32), 1.0)
    term = local_correlation(level, 2.0).term
    ranges = term.ranges
    assert ranges is not None
    for windows in term.windows:
        busy = windows.ranges[:, 1] > windows.ranges[:, 0]
        assert (ranges[busy, 0] <= windows.ranges[busy, 0]).all()
        assert (ranges[busy, 1] >= windows.ranges[busy, 1]).all()


def test_volumes_change_less_and_the_map_is_as_near(monkeypatch):
    fixed, moving, fixed_labels, moving_labels, _ = known_pair(3, seed=4)
    found = {}
    for share in (0.0, PRESETS["default"].divergence_smoothing):
        monkeypatch.setitem(PRESETS, "default", dataclasses.replace(PRESETS["default"], divergence_smoothing=share))
        result = nnreg.register(fixed=fixed, moving=moving, similarity="lncc")
        dice = metrics.dice(fixed_labels.array, np.asarray(result.apply(moving_labels).array), [1])[1]
        found[share] = metrics.sdlogj(result.field.displacement), dice
    (rough, before), (smooth, after) = found.values()
    assert smooth < rough
    assert after > before - 0.01


def test_smoothness_widens_it_too_but_never_beyond_what_is_stable():
    preset, similarity = PRESETS["default"], find_similarity("lncc")
    assert Settings.of(preset.smoother(1.5), similarity, 1).divergence_smoothing == pytest.approx(2.25 * preset.divergence_smoothing)
    assert preset.smoother(4.0).divergence_smoothing == STABLE


@pytest.mark.parametrize(("preset", "channels"), [("fast", [2, 1]), ("default", [2, 2])])
def test_a_preset_says_from_which_level_on_they_are_compared(preset, channels, monkeypatch):
    fixed, moving, *_ = known_pair(3, seed=4)
    seen = {}

    def groups(level, *radii):
        found = local_correlation(level, *radii)
        seen.setdefault(level.spacing, set()).add(len(found.moving))
        return [found]

    monkeypatch.setitem(SIMILARITIES._entries, "lncc", dataclasses.replace(find_similarity("lncc"), groups=groups))
    nnreg.register(fixed=fixed, moving=moving, similarity="lncc", preset=preset)
    assert [seen[spacing] for spacing in sorted(seen, reverse=True)][-2:] == [{count} for count in channels]
