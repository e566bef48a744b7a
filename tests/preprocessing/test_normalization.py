import numpy as np
import pytest

from nnreg.errors import ConfigurationError, PreprocessingError
from nnreg.planning.plans import Normalization
from nnreg.planning.registration.foreground import find_foreground
from nnreg.preprocessing.registration.normalization import NORMALIZATIONS, normalise


def _image(scale=1.0, offset=0.0):
    rng = np.random.default_rng(0)
    image = np.zeros((1, 30, 32, 28))
    image[0, 6:24, 6:26, 5:22] = rng.uniform(200, 900, (18, 20, 17))
    return image * scale + offset


def _run(image, scheme, **kwargs):
    return normalise(image, find_foreground(image), [Normalization(scheme, kwargs)] * len(image), case="c")


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (13.0, 0.0), (0.01, 5.0)])
def test_percentiles_do_not_depend_on_the_scale(scale, offset):
    reference, _ = _run(_image(), "percentiles")
    found, background = _run(_image(scale, offset), "percentiles")
    np.testing.assert_allclose(found, reference, atol=1e-4)
    assert background == (0.0,)
    assert found.dtype == np.float32
    assert found.min() == 0
    assert found.max() == 1


def test_window_maps_its_ends_and_clips():
    image = np.asarray([[[-2000.0, -1000.0, 0.0, 1000.0, 3000.0]] * 4])
    found, _ = _run(image, "window", low=-1000.0, high=1000.0)
    np.testing.assert_allclose(found[0, 0], [0, 0, 0.5, 1, 1])
    inverted, _ = _run(image, "window", low=-1000.0, high=1000.0, invert=True)
    np.testing.assert_allclose(inverted, 1 - found)


def test_zscore_has_mean_0_and_deviation_1_on_the_foreground():
    image = _image()
    foreground = find_foreground(image)
    found, _ = _run(image, "zscore")
    inside = foreground.values(found)
    assert abs(inside.mean()) < 1e-4
    assert abs(inside.std() - 1) < 1e-4


@pytest.mark.parametrize("scheme", [name for name in NORMALIZATIONS if name != "window"])
def test_a_constant_image_stays_finite(scheme):
    found, background = _run(np.full((1, 9, 9), 7), scheme)
    assert np.isfinite(found).all()
    assert np.isfinite(background).all()


def test_each_channel_has_its_own_scheme():
    image = np.concatenate([_image(), _image()])
    found, _ = normalise(image, find_foreground(image), [Normalization("none"), Normalization("percentiles")], case="c")
    np.testing.assert_array_equal(found[0], image[0].astype(np.float32))
    assert found[1].max() == 1


def test_wrong_channels_schemes_and_arguments_are_named():
    image = _image()
    with pytest.raises(PreprocessingError, match=r"c: the image has 1 channels, the plans are for 2"):
        normalise(image, find_foreground(image), [Normalization("none")] * 2, case="c")
    with pytest.raises(ConfigurationError, match="did you mean 'percentiles'"):
        _run(image, "percentile")
    with pytest.raises(ConfigurationError, match="upper"):
        _run(image, "percentiles", upper=3)
