"""Planned normalisation and the values inside an object stay the same when air or padding is added around it, in both tasks."""

import numpy as np
import pytest

from nnreg.geometry import Space
from nnreg.imageio import Image
from nnreg.planning.dense_prediction.measure import measure_case
from nnreg.planning.dense_prediction.settings import MASKED_BELOW
from nnreg.planning.plans import Normalization
from nnreg.planning.registration.extract import measure_image
from nnreg.planning.registration.foreground import find_foreground
from nnreg.preprocessing.dense_prediction import normalization as dense
from nnreg.preprocessing.registration.normalization import normalise

SHAPE, WIDTH = (20, 26, 24), (14, 30, 25)
INSIDE = (slice(None), *(slice(width, width + size) for width, size in zip(WIDTH, SHAPE, strict=True)))


def scan(air: float, noise: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    body = sum(axis**2 for axis in axes) < 0.5
    return np.where(body, air + rng.uniform(400, 900, SHAPE), air + np.abs(rng.normal(0, noise, SHAPE)) + 1).astype(np.float32)[None]


def padded(image, value):
    return np.pad(image, [(0, 0), *[(width, width) for width in WIDTH]], constant_values=value)


def image_of(array):
    return Image(array, Space.plain(array.shape[1:]))


@pytest.mark.parametrize("value", [-3024, 0, 20000])
@pytest.mark.parametrize("scheme", ["percentiles", "zscore"])
def test_registration_values_are_those_without_padding(scheme, value):
    image = scan(0, 8)
    wide = padded(image, value)
    plain, level = normalise(image, find_foreground(image), [Normalization(scheme)], case="c")
    found, other = normalise(wide, find_foreground(wide), [Normalization(scheme)], case="c")
    np.testing.assert_allclose(found[INSIDE], plain, atol=0.02)
    assert other == pytest.approx(level, abs=0.02)
    # padding looks like what lies beyond the image, whatever it was
    assert abs(found[0, 0, 0, 0] - other[0]) < 0.05


@pytest.mark.parametrize("value", [-3024, 0, 20000])
def test_registration_measures_what_the_image_shows(value):
    plain, found = (measure_image(image_of(array))[0] for array in (scan(0, 8), padded(scan(0, 8), value)))
    assert found.foreground_found
    assert found.foreground_low == tuple(low + width for low, width in zip(plain.foreground_low, WIDTH, strict=True))
    assert found.foreground_fraction == pytest.approx(plain.foreground_fraction, abs=0.02)
    for name in ("mean", "std", "median", "percentile_00_5", "percentile_99_5"):
        assert getattr(found.channels[0], name) == pytest.approx(getattr(plain.channels[0], name), rel=0.02)


@pytest.mark.parametrize("value", [-3024, 0, 20000])
@pytest.mark.parametrize("scheme", [Normalization("zscore"), Normalization("zscore", {"use_mask": True}), Normalization("rescale_to_0_1")])
def test_dense_values_are_those_without_padding(scheme, value):
    from nnreg.preprocessing.dense_prediction.crop import crop

    def normalised(array):
        cropped, labels, box = crop(array, None)
        result = np.full(array.shape, np.nan, np.float32)
        result[(slice(None), *(slice(low, high) for low, high in box))] = dense.normalise(cropped, (labels >= 0)[0], [scheme], case="c")
        return result

    image = scan(0, 8)
    found = normalised(padded(image, value))
    np.testing.assert_allclose(found[INSIDE], normalised(image), atol=1e-4)
    assert np.nanmax(found) <= np.nanmax(found[INSIDE])
    assert np.nanmin(found) >= np.nanmin(found[INSIDE])


@pytest.mark.parametrize("value", [-3024, 0])
def test_dense_plans_do_not_depend_on_padding(value):
    labels = (scan(0, 8) > 300).astype(np.int16)
    plain, foreground = measure_case(image_of(scan(0, 8)), image_of(labels))
    found, other = measure_case(image_of(padded(scan(0, 8), value)), image_of(padded(labels, 0)))
    assert (found.relative_size < MASKED_BELOW) == (plain.relative_size < MASKED_BELOW)
    assert other[0] is not None
    assert foreground[0] is not None
    np.testing.assert_array_equal(other[0].quantiles, foreground[0].quantiles)
