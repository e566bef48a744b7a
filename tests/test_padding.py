"""What an image shows: air and padding of any value around it change nothing."""

import numpy as np
import pytest

from nnreg.padding import MARGIN, fill_values, holds, shown, slices, tight_box, without_fill


def scan(shape, *, noise=3.0, seed=0):
    """A bright textured ellipsoid in noise."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    body = sum(axis**2 for axis in axes) < 0.6
    return (np.abs(rng.normal(0, noise, shape)) + body * rng.uniform(300, 500, shape))[None]


def padded(image, widths, value):
    return np.pad(image, [(0, 0), *widths], constant_values=value)


@pytest.mark.parametrize("value", [-3024, 0, 77, 9999])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("shape", [(30, 34), (20, 24, 22)])
def test_padding_of_any_value_is_cut_off_a_scan(shape, dtype, value):
    image = scan(shape).astype(dtype)
    widths = [(5 + axis, 40 - axis) for axis in range(len(shape))]
    found = shown(padded(image, widths, value))
    assert found.tight == tuple((low, low + size) for (low, _), size in zip(widths, shape, strict=True))
    if value:
        assert found.part == found.airy == found.tight


def test_air_is_kept_up_to_a_usual_amount():
    image = scan((20, 24), noise=0.0)
    tight = shown(image).tight
    assert shown(image).part == ((0, 20), (0, 24))
    large = shown(padded(image, [(60, 60)] * 2, 0))
    sizes = [high - low for low, high in tight]
    assert large.tight == tuple((low + 60, high + 60) for low, high in tight)
    rooms = [int(np.ceil(MARGIN * size)) for size in sizes]
    assert large.part == tuple((low + 60 - room, high + 60 + room) for (low, high), room in zip(tight, rooms, strict=True))


def test_padding_serves_as_background_where_there_is_no_other():
    texture = np.random.default_rng(0).uniform(100, 200, (1, 20, 20))
    found = shown(padded(texture, [(40, 40)] * 2, 0))
    assert found.tight == ((40, 60), (40, 60))
    assert found.part == ((32, 68), (32, 68))
    assert shown(padded(texture, [(40, 40)] * 2, -3024)).part == found.tight


def test_padding_within_padding_on_one_side():
    image = scan((24, 24))
    nested = padded(padded(image, [(0, 9), (3, 0)], -1000), [(0, 0), (0, 30)], 5)
    assert shown(nested).tight == ((0, 24), (3, 27))


def test_noise_of_air_many_times_the_object_is_left_out():
    rng = np.random.default_rng(1)
    image = np.abs(rng.normal(0, 3, (1, 120, 120, 120)))
    image[0, 50:70, 40:60, 60:80] += 400
    tight = shown(image).tight
    assert all(abs(low - start) <= 2 and abs(high - start - 20) <= 2 for (low, high), start in zip(tight, (50, 40, 60), strict=True))


@pytest.mark.parametrize(
    "image", [np.full((1, 9, 9), 7), np.random.default_rng(0).normal(100, 20, (1, 40, 40)), scan((40, 40))], ids=["constant", "texture", "scan"]
)
def test_an_image_without_padding_is_taken_whole(image):
    found = shown(image)
    assert found.tight == found.part == tuple((0, size) for size in image.shape[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(value):
    image = padded(scan((12, 12)), [(0, 3), (0, 0)], value)
    assert tight_box(lambda box: image[slices(box)], ((0, 15), (0, 12))) == ((0, 15), (0, 12))


def test_channels_share_a_box():
    one, two = scan((20, 20)), np.zeros((1, 20, 20))
    two[0, 2:5, 2:9] = np.arange(21).reshape(3, 7)
    assert shown(padded(np.concatenate([two, one]), [(9, 9)] * 2, -1)).tight == ((9, 29), (9, 29))


@pytest.mark.parametrize(("fill", "low", "high"), [(-2048, -1010, 900), (-3024, -1010, 1500), (-32768, 0, 4000), (65535, 0, 4000)])
def test_a_value_far_from_all_others_marks_what_is_outside(fill, low, high):
    rng = np.random.default_rng(0)
    image = rng.integers(low, high, (40, 40))
    image[:6, :6] = fill
    assert fill_values(np.sort(image, axis=None)) == (fill,)
    assert not holds(without_fill(image, (fill,)), (fill,)).any()


@pytest.mark.parametrize("spread", [150, 20])
def test_the_background_of_a_stripped_brain_is_no_fill_value(spread):
    values = np.sort(np.concatenate([np.zeros(5000), np.random.default_rng(0).normal(800, spread, 5000)]))
    assert fill_values(values) == ()
