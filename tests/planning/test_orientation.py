import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.geometry import Space
from nnreg.planning.orientation import code, commonest, permutation, reoriented, turn_of


def _all_orientations(ndim):
    for order in itertools.permutations(range(ndim)):
        for signs in itertools.product((1, -1), repeat=ndim):
            direction = np.zeros((ndim, ndim))
            direction[list(order), range(ndim)] = signs
            yield Space((7, 5, 9)[:ndim], (1.0, 2.0, 3.0)[:ndim], (10.0, -4.0, 2.0)[:ndim], tuple(direction.ravel().tolist()))


@pytest.mark.parametrize("ndim", [2, 3])
def test_reoriented_runs_as_wanted_through_the_same_voxels(ndim):
    spaces = list(_all_orientations(ndim))
    assert len({code(space) for space in spaces}) == len(spaces)  # every orientation has its own name
    wanted = "LPS"[:ndim]
    for space in spaces:
        moved = reoriented(space, wanted)
        assert code(moved) == wanted
        assert sorted(map(tuple, np.round(moved.corners(), 6))) == sorted(map(tuple, np.round(space.corners(), 6)))


def test_oblique_direction_is_kept(rotated_space):
    space = rotated_space((6, 8, 10), seed=3)
    moved = reoriented(space, "SRA")
    assert sorted(map(tuple, np.round(moved.corners(), 6))) == sorted(map(tuple, np.round(space.corners(), 6)))
    assert reoriented(moved, code(space)).same_as(space)


def test_permutation_orders_array_axes():
    # array axes of LPS run S, P, L; of PSR they run R, S, P
    assert permutation("PSR", "LPS") == (1, 2, 0)
    assert permutation("LPS", "LPS") == (0, 1, 2)


def test_commonest_is_deterministic_in_a_tie():
    assert commonest(["RAS", "LPS", "RAS", "LPS"]) == "LPS"
    assert commonest(["RAS", "RAS", "LPS"]) == "RAS"


@pytest.mark.parametrize("wanted", ["RAS", "LPI", "PSR", "SRA"])
@pytest.mark.parametrize("found", ["LPS", "RAI", "ASL", "IPR"])
def test_values_turn_with_their_grid_and_back(found, wanted):
    """ITK's own turning is the oracle; every voxel stays where it is in the world."""
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1), isVector=True)
    image.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(found))
    image.SetSpacing((1.0, 2.0, 3.0))
    space = Space((4, 5, 6), (3.0, 2.0, 1.0), (0.0, 0.0, 0.0), image.GetDirection())
    there = turn_of(space, wanted).seen(array)
    expected = sitk.DICOMOrient(image, wanted)
    np.testing.assert_array_equal(np.moveaxis(there, 0, -1), sitk.GetArrayFromImage(expected))
    grid = reoriented(space, wanted)
    np.testing.assert_allclose(grid.origin, expected.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(grid.direction, expected.GetDirection(), atol=1e-9)
    np.testing.assert_array_equal(turn_of(space, wanted).stored(there), array)
