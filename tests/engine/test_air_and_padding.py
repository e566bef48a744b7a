"""The law of air: what is added around an image has no say in how it is registered."""

import numpy as np
import pytest

from nnreg.engine import register
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.geometry import Space
from nnreg.imageio import Image
from tests.engine.pairs import error_voxels, known_pair


def padded(image: Image, amount: float, value: float) -> Image:
    """Every voxel stays where it is in the world."""
    widths = [round(size * amount / 2) for size in image.space.shape]
    array = np.pad(image.array, [(0, 0), *[(width, width) for width in widths]], constant_values=value)
    return Image(array, image.space.part([(-width, size + width) for width, size in zip(widths, image.space.shape, strict=True)]))


@pytest.fixture(scope="module")
def pair():
    return known_pair(2)


@pytest.fixture(scope="module")
def plain(pair):
    fixed, moving, _, _, truth = pair
    return error_voxels(register(fixed=fixed, moving=moving, preset="fast").transform, truth, fixed)


@pytest.mark.parametrize("value", [None, -2048.0, 6000.0])
@pytest.mark.parametrize("amount", [0.5, 3.0])
@pytest.mark.parametrize("sides", ["fixed", "moving", "both"])
def test_air_and_padding_do_not_change_the_accuracy(pair, plain, sides, amount, value):
    fixed, moving, _, _, truth = pair
    images = {"fixed": fixed, "moving": moving}
    for side in images if sides == "both" else (sides,):
        images[side] = padded(images[side], amount, float(images[side].array.min()) if value is None else value)
    found = register(**images, preset="fast")
    assert found.field.space.same_as(images["fixed"].space)
    assert error_voxels(found.transform, truth, fixed) < 1.1 * plain + 0.03


@pytest.mark.parametrize("value", [0.0, -3024.0, 32767.0])
def test_window_and_object_are_those_without_padding(value):
    image = known_pair(3)[0]
    image.array[:] += np.random.default_rng(0).uniform(0, 2, image.array.shape)
    wide = padded(image, 2.0, value)
    plain, found = (prepare(one.array, one.space, None, "fixed") for one in (image, wide))
    inside = tuple(slice(round(size), round(size) + size) for size in image.space.shape)
    np.testing.assert_allclose(found.image[(slice(None), *inside)], plain.image, atol=0.02)
    assert np.mean(foreground(found)[inside] != foreground(plain)) < 0.01
    assert foreground(found).sum() <= 1.05 * foreground(plain).sum()


def test_labels_and_landmarks_guide_through_air():
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(2)
    sides = [padded(image, 3.0, 0.0) for image in (fixed, moving)]
    points = np.asarray([[60.0, 60.0], [75.0, 70.0]])
    there = sides[1].space.to_index(truth.map_points(sides[0].space.to_world(points[:, ::-1])))[:, ::-1]
    fixed_labels, moving_labels = (padded(labels, 3.0, 0) for labels in (fixed_labels, moving_labels))
    guides = {"fixed_labels": fixed_labels, "moving_labels": moving_labels, "fixed_points": points, "moving_points": there}
    found = register(fixed=sides[0], moving=sides[1], preset="fast", **guides)
    assert error_voxels(found.transform, truth, fixed) < 0.6


def test_a_constant_image_is_still_refused():
    from nnreg.errors import RegistrationError

    space = Space.plain((20, 20))
    with pytest.raises(RegistrationError, match="constant"):
        register(fixed=Image(np.full((1, 20, 20), 3.0, np.float32), space), moving=Image(np.eye(20, dtype=np.float32)[None], space))
