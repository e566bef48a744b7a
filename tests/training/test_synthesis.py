"""Images of random contrast: draws replay, labels stay labels, contrast is random while anatomy is not, and what cannot be is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnreg.dataset.shapes import random_shapes
from nnreg.errors import ConfigurationError
from nnreg.training.augmentation.registration import PairSample, build_augmentation

ALL = {"spatial": {"mirror_axes": [0]}, "relative_affine": {}, "intensity": {}, "synthesis": {}}
# one intensity per label, nothing moves, nothing is blurred, shaded or noisy
PLAIN = {
    "same_map": 1.0,
    "displacement": [0.0, 0.0],
    "deviation": [0.0, 0.0],
    "blur": [0.0, 0.0],
    "bias": [0.0, 0.0],
    "thickness": [1.0, 1.0],
    "noise": [0.0, 0.0],
}


def sample_of(shape: tuple[int, ...], channels: int = 1) -> PairSample:
    images = [torch.full((channels, *shape), value) for value in (0.2, 0.7)]
    labels = [torch.from_numpy(random_shapes(np.random.default_rng(seed), shape, labels=6)) for seed in (0, 1)]
    return PairSample(*images, *images, fixed_labels=labels[0], moving_labels=labels[1], fixed_mask=torch.ones(1, *shape), moving_mask=torch.ones(1, *shape))


def made(shape: tuple[int, ...], seed: int = 0, channels: int = 1, **synthesis: object) -> PairSample:
    return build_augmentation({"synthesis": synthesis}, len(shape))(sample_of(shape, channels), np.random.default_rng(seed))


def equal(one: PairSample, other: PairSample) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items() if value is not None)


@pytest.fixture(params=[(23, 18), (12, 17, 14), (2, 20, 15)], ids=str)
def shape(request):
    return request.param


@pytest.mark.parametrize("maps", ["labels", "shapes"])
def test_a_pair_is_a_function_of_the_seed(shape, maps):
    augmentation = build_augmentation({**ALL, "synthesis": {"maps": maps}}, len(shape))
    first, again, other = (augmentation(sample_of(shape), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert equal(first, again)
    assert not torch.equal(first.fixed, other.fixed)


def test_images_are_finite_in_0_to_1_with_as_many_channels_as_before(shape):
    sample = made(shape, channels=2)
    for image in (sample.fixed, sample.moving):
        assert image.shape == (2, *shape)
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
    assert not torch.equal(sample.fixed[0], sample.fixed[1])  # channels have contrasts of their own


def test_labels_stay_labels_and_nothing_of_the_real_images_is_left(shape):
    source, sample = sample_of(shape), made(shape)
    assert sample.fixed_labels.dtype == source.fixed_labels.dtype
    assert set(sample.fixed_labels.unique().tolist()) <= set(source.fixed_labels.unique().tolist())
    assert sample.fixed_mask is None
    assert sample.moving_mask is None


def test_of_one_map_the_two_images_show_the_same_anatomy_in_different_contrasts():
    sample = made((20, 22, 18), **PLAIN)
    assert torch.equal(sample.fixed_labels, sample.moving_labels)
    for image in (sample.fixed, sample.moving):
        for label in sample.fixed_labels.unique():
            assert image[sample.fixed_labels == label].std() < 1e-3
    assert not torch.allclose(sample.fixed, sample.moving, atol=0.05)


def test_of_two_cases_each_has_its_own_map():
    sample, source = made((20, 22), **{**PLAIN, "same_map": 0.0}), sample_of((20, 22))
    assert torch.equal(sample.fixed_labels, source.fixed_labels)
    assert torch.equal(sample.moving_labels, source.moving_labels)


def test_labels_of_one_group_look_alike():
    sample = made((24, 24), **{**PLAIN, "groups": [1, 1], "dark_background": 0.0})
    assert sample.fixed.std() < 1e-3


def test_the_background_can_be_black():
    sample = made((24, 24), **{**PLAIN, "dark_background": 1.0})
    assert (sample.fixed[sample.fixed_labels == 0] == 0).all()
    assert (sample.moving[sample.moving_labels == 0] == 0).all()


def test_flows_move_labels_no_further_than_they_may():
    # control points 5 voxels apart, a vector of at most a fifth of that: no voxel comes from further than one away
    shape = (20, 20)
    labels = torch.arange(400, dtype=torch.int16).reshape(1, *shape)
    images = [torch.zeros(1, *shape)] * 4
    settings = {**PLAIN, "control_spacing": [0.25, 0.25], "displacement": [0.2, 0.2]}
    sample = build_augmentation({"synthesis": settings}, 2)(PairSample(*images, fixed_labels=labels, moving_labels=labels), np.random.default_rng(0))
    source = np.stack(np.unravel_index(sample.fixed_labels[0].long().numpy(), shape))
    moved = np.abs(source - np.indices(shape))
    assert 0 < moved.max() <= 1
    assert not torch.equal(sample.fixed_labels, sample.moving_labels)


def test_the_other_parts_draw_as_they_did_without_it():
    plain = build_augmentation({name: part for name, part in ALL.items() if name != "synthesis"}, 2).draw((20, 22), np.random.default_rng(2))
    with_synthesis = build_augmentation(ALL, 2).draw((20, 22), np.random.default_rng(2))
    assert np.array_equal(plain.fixed_map.matrix, with_synthesis.fixed_map.matrix)
    assert plain.moving_intensity == with_synthesis.moving_intensity


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": [0.2, 0.1]}, "noise is .* expected .low, high."),
        ({"same_map": 1.5}, "same_map is 1.5, expected 0 to 1"),
        ({"thickness": [0.5, 1.0]}, "thickness .* 1 <= low"),
        ({"maps": "shape"}, "shapes"),
        ({"gropus": [1, 2]}, "groups"),
    ],
)
def test_wrong_settings_are_told_with_what_is_right(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        build_augmentation({"synthesis": settings}, 3)


def test_a_sample_without_labels_is_refused():
    images = [torch.zeros(1, 20, 22)] * 4
    with pytest.raises(ConfigurationError, match="a sample has none"):
        build_augmentation({"synthesis": {}}, 2)(PairSample(*images), np.random.default_rng(0))


# -- shapes -----------------------------------------------------------------------------------------------------------------------


def test_shapes_are_a_function_of_the_seed_and_larger_than_noise(shape):
    first, again, other = (random_shapes(np.random.default_rng(seed), shape) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (1, *shape)
    assert first.dtype == np.int16
    # neighbours along the longest axis mostly belong to one shape
    axis = 1 + int(np.argmax(shape))
    assert (np.diff(first, axis=axis) == 0).mean() > 0.5
