"""Kernels of label fusion against their definitions in plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nnreg.groups.fusion.blocks import Box, Patches, WarpedAtlases, places_of
from nnreg.kernels import fusion_cpu

SHAPES = [((5, 6, 7), (1, 1, 1), (1, 0, 2)), ((1, 8, 9), (0, 2, 1), (0, 2, 1))]  # region, radii, longest shift
CHANNELS, ATLASES = 2, 3


def patch(array, place, radii):
    """Normalised, channel by channel."""
    box = tuple(slice(at, at + 2 * radius + 1) for at, radius in zip(place, radii, strict=True))
    values = array[(slice(None), *box)].reshape(len(array), -1).astype(np.float64)
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


@pytest.fixture(params=SHAPES, ids=["volume", "plane"])
def patches(request):
    shape, radii, longest = request.param
    rng = np.random.default_rng(len(shape))
    grid = tuple(size + 4 for size in shape) if shape[0] > 1 else (1, *(size + 4 for size in shape[1:]))
    region = Box((0, 2, 2), (shape[0], shape[1] + 2, shape[2] + 2))
    images = [rng.random((CHANNELS, *grid)).astype(np.float32) for _ in range(ATLASES + 1)]
    warped = WarpedAtlases(images[0], images[1:], [np.zeros(grid, np.int16)] * ATLASES, [frozenset()] * ATLASES)
    return Patches.around(region, warped, radii, longest)


def correlations(patches, atlas, place):
    """Of the patches at a place under every shift."""
    of_target = patch(patches.target, place, patches.radii)
    return np.array([np.mean(of_target * patch(patches.atlases[atlas], np.add(place, shift), patches.radii)) for shift in patches.shifts])


def test_the_best_shift_is_the_one_of_the_highest_correlation(patches):
    chosen, score = patches.best_shifts()
    for place in itertools.product(*map(range, patches.region)):
        for atlas in range(ATLASES):
            expected = correlations(patches, atlas, place)
            assert score[(atlas, *place)] == pytest.approx(expected.max(), abs=2e-4)
            assert expected[chosen[(atlas, *place)]] == pytest.approx(expected.max(), abs=2e-4)


def test_parts_of_a_region_give_what_the_whole_does(patches):
    chosen, score = patches.best_shifts()
    again, depth = [np.zeros((*patches.region[:2], patches.atlases.shape[-1]), dtype) for dtype in (np.int32, np.float32)], patches.region[0]
    for start, stop in ((0, depth // 2), (depth // 2, depth)):
        arrays = patches.target, patches.of_target, patches.atlases[0], patches.of_atlases[0], patches.shifts, patches.radii
        fusion_cpu.best_shifts(start, stop, *again, *arrays)
    assert np.array_equal(again[0][..., : patches.region[2]], chosen[0])
    np.testing.assert_allclose(again[1][..., : patches.region[2]], score[0], atol=1e-5)


def test_joint_weights_solve_their_equation(patches):
    chosen, _ = patches.best_shifts()
    weights = patches.joint_weights(places_of(np.ones(patches.region, bool)), chosen, 0.1, 2.0)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    assert weights.min() >= 0
    for place in list(itertools.product(*map(range, patches.region)))[::7]:
        of_target = patch(patches.target, place, patches.radii)
        shifts = [patches.shifts[chosen[(atlas, *place)]] for atlas in range(ATLASES)]
        errors = [np.abs(of_target - patch(patches.atlases[i], np.add(place, shift), patches.radii)).ravel() for i, shift in enumerate(shifts)]
        matrix = (np.array(errors) @ np.transpose(errors) / len(errors[0])) ** 2.0 + 0.1 * np.eye(ATLASES)
        solved = np.linalg.solve(matrix, np.ones(ATLASES))
        if solved.min() > 0:
            np.testing.assert_allclose(weights[(slice(None), *place)], solved / solved.sum(), atol=2e-3)


def votes(labels, known, weights, shifts=((0, 0, 0),)):
    """Shares at one voxel, of 3 labels."""
    shares = np.empty((1, 3), np.float32)
    place, count = np.zeros((1, 3), np.int32), len(labels)
    array = np.asarray(labels, np.int16).reshape(count, 1, 1, 1)
    where = np.asarray(weights, np.float32).reshape(count, 1, 1, 1), np.zeros((count, 1, 1, 1), np.int32)
    fusion_cpu.votes(0, 1, shares, place, *where, array, np.asarray(known, bool), np.asarray(shifts, np.int64), (0, 0, 0))
    return shares[0].tolist()


EVERY = [[True] * 3] * 3


def test_votes_are_shared_by_weight():
    assert votes([1, 2, 0], EVERY, [1, 2, 1]) == [0.25, 0.25, 0.5]


def test_background_of_an_atlas_that_lacks_a_label_is_no_vote_against_it():
    lacks_two = [[True, True, True], [True, True, False], [True, True, False]]
    assert votes([2, 0, 0], lacks_two, [1, 1, 1]) == [0, 0, 1]
    assert votes([2, 1, 0], lacks_two, [1, 1, 1]) == [0, 0.5, 0.5]  # another label is a vote
    assert votes([1, 0, 0], lacks_two, [1, 1, 2]) == [0.75, 0.25, 0]  # of label 1 they know


def test_voters_without_weight_count_alike():
    assert votes([2, 0, 1], [[True] * 3, [True, True, False], [True] * 3], [0, 1, 0]) == [0, 0.5, 0.5]
