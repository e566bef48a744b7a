import itertools

import numpy as np
import pytest

from nnreg.geometry import Space
from nnreg.planning.orientation import code, commonest, permutation, reoriented


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
        turned = reoriented(space, wanted)
        assert code(turned) == wanted
        assert sorted(map(tuple, np.round(turned.corners(), 6))) == sorted(map(tuple, np.round(space.corners(), 6)))


def test_oblique_direction_is_kept(rotated_space):
    space = rotated_space((6, 8, 10), seed=3)
    turned = reoriented(space, "SRA")
    assert sorted(map(tuple, np.round(turned.corners(), 6))) == sorted(map(tuple, np.round(space.corners(), 6)))
    assert reoriented(turned, code(space)).same_as(space)


def test_permutation_orders_array_axes():
    # array axes of LPS run S, P, L; of PSR they run R, S, P
    assert permutation("PSR", "LPS") == (1, 2, 0)
    assert permutation("LPS", "LPS") == (0, 1, 2)


def test_commonest_is_deterministic_in_a_tie():
    assert commonest(["RAS", "LPS", "RAS", "LPS"]) == "LPS"
    assert commonest(["RAS", "RAS", "LPS"]) == "RAS"
