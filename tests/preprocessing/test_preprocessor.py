"""Laws of bringing an image onto the working grid."""

import numpy as np
import pytest
from scipy import ndimage

from nnreg.errors import PreprocessingError
from nnreg.geometry import Space, apply_matrix
from nnreg.imageio import Image
from nnreg.planning.orientation import code, permutation, reoriented
from nnreg.planning.registration.extract import measure_image
from nnreg.planning.registration.fingerprint import ChannelStatistics, Fingerprint
from nnreg.planning.registration.planner import plan
from nnreg.preprocessing.registration.alignment import CaseAlignment
from nnreg.preprocessing.registration.preprocessor import NormalisedCase, Preprocessor
from nnreg.preprocessing.registration.reference_space import ReferenceSpace, copy_reference

SHAPE = (28, 34, 30)


def _plans(images, pairing="all", spacing=None, **changes):
    measured = {case: measure_image(image, subject=case)[0] for case, image in images.items()}
    pooled = tuple(ChannelStatistics.of(np.arange(100.0), background=0.0, hounsfield=False) for _ in next(iter(images.values())).array)
    groups = (tuple(images),) if pairing in ("pairs", "groups") else ()
    names = tuple(f"c{index}" for index in range(len(pooled)))
    found = Fingerprint("Dataset001_T", names, pairing, 2, None, groups, measured, pooled)
    return plan(found, overwrite_target_spacing=spacing).replace(**changes)


def _only(plans):
    return next(iter(plans.configurations))


def _preprocessor(plans, owner, image):
    return Preprocessor(plans, _only(plans), ReferenceSpace.of(owner, image, plans))


def _map(ndim, centre):
    """A turn, a stretch and a shift about `centre`, mm."""
    matrix = np.eye(ndim + 1)
    matrix[:2, :2] = [[0.97, -0.2], [0.2, 0.97]]
    matrix[:ndim, :ndim] *= 1.1
    matrix[:ndim, ndim] = centre - matrix[:ndim, :ndim] @ centre + 1.7
    return matrix


@pytest.mark.parametrize("shape", [SHAPE, (40, 52)])
def test_at_its_own_spacing_the_owner_of_the_frame_is_not_interpolated(phantom, rotated_space, shape):
    space = rotated_space(shape, seed=5)
    image = Image(phantom(shape), space)
    plans = _plans({"a": image})
    found = _preprocessor(plans, "a", image).run("a", image)
    native = NormalisedCase.of("a", image, plans.configurations[_only(plans)]).array
    working = found.properties.working
    indices = space.to_index(working.to_world(np.argwhere(np.ones(working.shape))))
    np.testing.assert_allclose(indices, np.round(indices), atol=1e-6)
    inside = ((np.round(indices) >= 0) & (np.round(indices) < shape)).all(axis=1)
    expected = np.where(inside, native[0][tuple(np.clip(np.round(indices).astype(int), 0, np.asarray(shape) - 1).T)], 0)
    np.testing.assert_allclose(found.image.ravel(), expected, atol=1e-5)
    assert found.properties.alignment["foreground_inside"] == 1.0


@pytest.mark.parametrize("stored", ["PSR", "RAS", "SAL", "LPI"])
def test_the_orientation_a_file_is_stored_in_does_not_matter(phantom, stored):
    space = Space.plain(SHAPE, (1.0, 1.2, 1.5))
    image = Image(phantom(SHAPE), space)
    turned = reoriented(space, stored)
    order = permutation("LPS", stored)
    array = np.transpose(image.array[0], order)
    flips = [axis for axis, (now, then) in enumerate(zip(reversed(_after(stored)), reversed(stored), strict=True)) if now != then]
    other = Image(np.flip(array, flips)[None], turned)
    plans = _plans({"a": image}, pre_alignment="none")
    preprocessor = _preprocessor(plans, "a", image)
    one, two = preprocessor.run("a", image), preprocessor.run("b", other)
    np.testing.assert_allclose(two.image, one.image, atol=1e-4)
    assert code(two.properties.native) == stored
    assert two.properties.working == one.properties.working


def _after(wanted):
    """Orientation of an LPS image after its axes are put in the order of `wanted`."""
    plus = {"L": "L", "R": "L", "A": "P", "P": "P", "I": "S", "S": "S"}
    return "".join(plus[letter] for letter in wanted)


@pytest.mark.parametrize("shape", [SHAPE, (40, 52)])
def test_arrays_points_and_labels_follow_one_map(phantom, rotated_space, shape):
    """Every voxel of the result is the native image where `to_native` says, compared with scipy."""
    ndim = len(shape)
    space = rotated_space(shape, seed=8)
    image = Image(phantom(shape), space)
    labels = Image((image.array > 420).astype(np.int16) * 7, space)
    rng = np.random.default_rng(0)
    points = rng.uniform(8, 16, (5, ndim))
    plans = _plans({"a": image}, spacing=tuple(value * 1.0 for value in space.spacing))
    frame = ReferenceSpace.of("a", image, plans)
    preprocessor = Preprocessor(plans, _only(plans), frame)
    case = NormalisedCase.of("b", image, preprocessor.configuration)
    alignment = CaseAlignment(_map(ndim, space.centre), "a", "affine", "made by the test")
    found = preprocessor.place(case, frame, alignment, labels=labels, keypoints=points)
    properties = found.properties
    world = apply_matrix(properties.to_native, properties.working.to_world(np.argwhere(np.ones(properties.working.shape))))
    indices = space.to_index(world).T
    expected = ndimage.map_coordinates(case.array[0], indices, order=1, mode="nearest").reshape(properties.working.shape)
    inner = ((indices > 0) & (indices < np.asarray(shape)[:, None] - 1)).all(axis=0).reshape(properties.working.shape)
    np.testing.assert_allclose(found.image[0][inner], expected[inner], atol=1e-4)
    nearest = ndimage.map_coordinates(labels.array[0], indices, order=0, mode="nearest").reshape(properties.working.shape)
    assert (found.labels[0][inner] == nearest[inner]).mean() > 0.999  # ties of half a voxel aside
    assert found.labels.dtype == np.int16
    assert set(np.unique(found.labels)) <= {0, 7}
    back = space.to_index(apply_matrix(properties.to_native, properties.working.to_world(properties.keypoints)))
    np.testing.assert_allclose(back[:, ::-1], points, atol=1e-6)


def test_outside_the_image_is_background(phantom):
    image = Image(phantom(SHAPE) + 90, Space.plain(SHAPE))
    plans = _plans({"a": image})
    preprocessor = _preprocessor(plans, "a", image)
    case = NormalisedCase.of("b", image, preprocessor.configuration)
    far = np.eye(4)
    far[:3, 3] = 1000
    found = preprocessor.place(case, preprocessor.reference, CaseAlignment(far, "a", "rigid", ""))
    assert np.unique(found.image).size == 1
    assert found.image.flat[0] == case.background[0] == 0
    assert found.properties.alignment["foreground_inside"] == 0.0


def test_a_group_is_brought_into_the_frame_of_its_fixed_image(phantom, rotated_space):
    space = Space.plain(SHAPE, (1.0, 1.0, 1.0))
    fixed = Image(phantom(SHAPE, seed=1), space)
    shifted = Space(space.shape, space.spacing, (6.0, -4.0, 3.0), space.direction)
    moving = Image(fixed.array, shifted)
    plans = _plans({"fixed": fixed, "moving": moving}, pairing="pairs")
    assert plans.pre_alignment == "rigid"
    preprocessor = Preprocessor(plans, _only(plans))
    assert preprocessor.by_group
    one = preprocessor.run("fixed", fixed, frame_of=fixed)
    two = preprocessor.run("moving", moving, frame_of=fixed)
    assert one.properties.alignment["kind"] == "none"
    assert two.properties.working == one.properties.working
    np.testing.assert_allclose(two.properties.to_native[:3, 3], (6.0, -4.0, 3.0), atol=0.3)
    assert np.abs(two.image - one.image).mean() < 0.02
    alone = preprocessor.run("moving", moving)
    np.testing.assert_array_equal(alone.properties.to_native, np.eye(4))


def test_groups_of_other_sizes_have_grids_of_their_own_where_the_plans_say_so(phantom):
    large, small = (Image(phantom(shape), Space.plain(shape)) for shape in ((24, 34, 30), (13, 34, 30)))
    plans = _plans({"a": large, "b": large}, pairing="pairs")
    assert plans.grid_within_image
    found = Preprocessor(plans, _only(plans)).run("c", small, labels=Image((small.array > 0.5).astype(np.uint8), small.space))
    whole = Preprocessor(plans.replace(grid_within_image=False), _only(plans)).run("c", small)
    assert found.image.shape[1:] == found.labels.shape[1:] == found.properties.working.shape
    assert found.image.shape[1] < plans.configurations[_only(plans)].grid[0] == whole.image.shape[1]
    first = np.round(whole.properties.working.to_index(np.asarray(found.properties.working.origin))).astype(int)
    part = whole.image[(slice(None), *(slice(start, start + size) for start, size in zip(first, found.image.shape[1:], strict=True)))]
    np.testing.assert_allclose(found.image, part, atol=1e-5)


def test_an_image_is_the_owner_by_its_voxels_not_by_its_name(phantom):
    image, other = (Image(phantom(SHAPE, seed=seed), Space.plain(SHAPE)) for seed in (1, 2))
    plans = _plans({"a": image})
    frame = ReferenceSpace.of("a", image, plans)
    assert frame.owned_by(Image(image.array.copy(), image.space))
    assert not frame.owned_by(other)
    assert not frame.owned_by(Image(image.array, Space.plain(SHAPE, (2.0, 1.0, 1.0))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_survives_the_disk_and_travels_with_the_model(tmp_path, phantom, rotated_space, channels):
    image = Image(np.concatenate([phantom(SHAPE, seed=seed) for seed in range(channels)]), rotated_space(SHAPE, seed=3))
    plans = _plans({"a": image})
    frame = ReferenceSpace.of("a", image, plans)
    frame.write(tmp_path / "data")
    copy_reference(tmp_path / "data", tmp_path / "model")
    found = ReferenceSpace.read(tmp_path / "model")
    np.testing.assert_array_equal(found.image, frame.image)
    assert found.space == frame.space
    assert found.native == frame.native
    assert found.digest == frame.digest
    np.testing.assert_array_equal(found.centre, frame.centre)
    assert Preprocessor.from_folder(plans, _only(plans), tmp_path / "model").run("a", image).properties.alignment["kind"] == "none"


def test_what_cannot_be_preprocessed_is_named(tmp_path, phantom):
    image = Image(phantom(SHAPE), Space.plain(SHAPE))
    plans = _plans({"a": image})
    preprocessor = _preprocessor(plans, "a", image)
    broken = image.array.copy()
    broken[0, 3, 3, 3] = np.nan
    with pytest.raises(PreprocessingError, match=r"b: the image has 1 NaN or infinite"):
        preprocessor.run("b", Image(broken, image.space))
    with pytest.raises(PreprocessingError, match=r"b: the image has 2 axes, the plans are for 3"):
        preprocessor.run("b", Image(phantom((20, 20)), Space.plain((20, 20))))
    with pytest.raises(PreprocessingError, match=r"b: the image has 2 channels, the plans are for 1"):
        preprocessor.run("b", Image(np.repeat(image.array, 2, 0), image.space))
    for value in (70000.0, 0.5):
        with pytest.raises(PreprocessingError, match="labels must be whole numbers"):
            preprocessor.run("a", image, Image(np.full_like(image.array, value), image.space))
    with pytest.raises(PreprocessingError, match="no reference"):
        Preprocessor(plans, _only(plans))
    with pytest.raises(PreprocessingError, match=r"frame\.json"):
        Preprocessor.from_folder(plans, _only(plans), tmp_path)
