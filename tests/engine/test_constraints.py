"""What a deformation may not do: move along some axes, change the volume of regions; and how much landmarks count."""

from __future__ import annotations

import numpy as np
import pytest

from nnreg.engine import Annotations, Constraints, register
from nnreg.engine.grids import pyramid
from nnreg.engine.guidance import Guides
from nnreg.engine.prepared_image import prepare
from nnreg.errors import ConfigurationError, RegistrationError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, index_points_to_world, resample_image
from nnreg.imageio import Image
from tests.engine.pairs import grids, known_pair, textured
from tests.engine.test_air_and_padding import padded


def grown_pair(ndim: int) -> tuple[Image, Image]:
    """The fixed image, and the same in other numbers, 15 % larger and with a bulge."""
    space, _ = grids(ndim)
    fixed = Image(textured(space.shape, 3), space)
    middle = space.centre
    grown = np.eye(ndim + 1)
    grown[:ndim, :ndim] *= 1 / 1.15
    grown[:ndim, ndim] = middle - middle / 1.15
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in space.shape], indexing="ij")
    bulge = np.stack([3 * axis * np.exp(-4 * sum(other**2 for other in axes)) for axis in axes]).astype(np.float32)
    transform = Transform((FieldMap(-bulge, space), AffineMap(grown)), ndim)
    return fixed, Image(resample_image(fixed.array, moving=space, fixed=space, transform=transform), space)


def lesion(space: Space) -> Image:
    """A box of a quarter of the field of view around its middle."""
    mask = np.zeros((1, *space.shape), np.uint8)
    mask[(0, *(slice(size // 2 - size // 8, size // 2 + size // 8 + 1) for size in space.shape))] = 1
    return Image(mask, space)


def volume_change(transform: Transform, mask: Image) -> np.ndarray:
    """Determinants of the whole map in the mask, less its rim, whose differences reach outside."""
    whole = transform.sampled_on(mask.space).determinants()
    inside = mask.array[0] > 0
    for axis in range(inside.ndim):
        inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    return whole[inside]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("preset", ["default", "accurate"])
def test_a_region_keeps_its_volume_and_the_rest_does_not(ndim, preset):
    fixed, moving = grown_pair(ndim)
    mask = lesion(fixed.space)
    free = register(fixed=fixed, moving=moving, preset=preset)
    held = register(fixed=fixed, moving=moving, preset=preset, constraints=Constraints(preserve=mask))
    assert np.abs(volume_change(free.transform, mask) - 1).mean() > 0.2
    assert np.abs(volume_change(held.transform, mask) - 1).max() < 0.01
    assert bool((held.field.determinants() > 0).all())
    assert held.measures["ncc"]["after"] > held.measures["ncc"]["header"]


@pytest.mark.parametrize("value", [1, -1])
def test_a_region_in_padding_is_kept(value):
    """Preparation would cut it off with the padding; 255 read as int8 is -1."""
    wide = [padded(image, 3.0, 0.0) for image in grown_pair(2)]
    array = np.zeros(wide[0].array.shape, np.int8)
    array[:, 6:16, 8:18] = value
    held = register(fixed=wide[0], moving=wide[1], preset="fast", constraints=Constraints(preserve=Image(array, wide[0].space)))
    region = Image(np.abs(array), wide[0].space)
    assert np.abs(volume_change(held.start, region) - 1).min() > 0.1
    assert np.abs(volume_change(held.transform, region) - 1).max() < 0.01


@pytest.mark.parametrize(("restrict", "still"), [("1x1x0", 0), ("0x1x1", 2), ("y", 0)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_moves_along_an_axis_that_may_not(restrict, still, symmetric):
    fixed, moving, _, _, truth = known_pair(3)
    turned = Transform((truth.stages[1],), 3)
    found = register(fixed=fixed, moving=moving, initial=turned, symmetric=symmetric, preset="default", constraints=Constraints(restrict=restrict))
    moved = np.abs(found.field.displacement).max(axis=(1, 2, 3))
    assert moved[still] == 0
    assert moved[1] > 1
    assert found.similarity_after > found.similarity_before


def test_the_opposite_direction_keeps_to_the_axes_of_the_fixed_grid():
    fixed, moving, *_ = known_pair(3)
    turn = np.eye(4)
    turn[:3, :3] = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.6, 1.0]]
    sides = [prepare(image.array, image.space, None, "fixed") for image in (fixed, moving)]
    level = pyramid(sides[0], sides[1], turn, (2,))[0].swapped()
    guides = Guides(fixed, moving, Annotations(), Constraints(restrict="x,z")).swapped()
    vectors = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    guides.held(level.fixed.space, moving.space, turn, level.matrix).project(vectors)
    seen = np.einsum("ij,j...->i...", level.matrix[:, :3], vectors)  # in voxels of the fixed grid, z first
    assert np.abs(seen[1]).max() < 1e-5
    assert np.abs(seen[0]).max() > 0.5


def test_landmarks_count_as_they_are_told():
    fixed, moving, _, _, truth = known_pair(2, largest=4.0, seed=2)
    points = np.argwhere(fixed.array[0] > 100)[::40][:, ::-1].astype(float)
    # they say that everything lies 3 mm further along x than the images do
    target = truth.map_points(index_points_to_world(points, fixed.space)) + np.array([3.0, 0.0])
    options = {"fixed": fixed, "moving": moving, "fixed_points": points, "moving_points": moving.space.to_index(target)[:, ::-1]}
    found = [register(**options, constraints=Constraints(landmark_weight=weight)).measures["tre_mm"]["after"]["mean"] for weight in (0.0, 0.3, 3.0)]
    assert found[0] > found[1] > found[2]
    assert found[0] == register(**options, guided=False).measures["tre_mm"]["after"]["mean"]


@pytest.mark.parametrize(
    ("restrict", "message"),
    [("1x1x1", "have 2"), ("z", "have 2"), ("1x2", "expected a 1"), ("w", "expected a 1"), ("x,x", "expected a 1"), ("0x0", "no axis"), ("", "expected a 1")],
)
def test_axes_that_do_not_exist_are_refused(restrict, message):
    fixed, moving, *_ = known_pair(2)
    with pytest.raises(ConfigurationError, match=message):
        register(fixed=fixed, moving=moving, constraints=Constraints(restrict=restrict))


def test_bad_constraints_are_refused():
    fixed, moving, *_ = known_pair(2)
    elsewhere, empty = lesion(moving.space), Image(np.zeros((1, *fixed.space.shape), np.uint8), fixed.space)
    for mask, message in ((elsewhere, "preserve mask and the fixed image lie on different grids"), (empty, "preserve mask is empty")):
        with pytest.raises(RegistrationError, match=message):
            register(fixed=fixed, moving=moving, constraints=Constraints(preserve=mask))
    with pytest.raises(ConfigurationError, match="landmark weight -1"):
        Constraints(landmark_weight=-1)
    with pytest.raises(ConfigurationError, match="symmetric"):
        register(fixed=fixed, moving=moving, symmetric=True, constraints=Constraints(preserve=lesion(fixed.space)))
