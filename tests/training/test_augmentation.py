"""Augmentation: draws replay, points and fields follow images, labels stay labels, the loss's images keep their intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, gaussian_filter

from nnreg.errors import ConfigurationError, GeometryError
from nnreg.geometry import identity_grid, warp
from nnreg.training.augmentation import on_device
from nnreg.training.augmentation.registration import PairSample, RandomAffine, RandomIntensity, VoxelAffine, build_augmentation

STRONG = {"rotation_degrees": 20, "log_scale": 0.15, "shift_fraction": 0.08}
ALL = {"spatial": {**STRONG, "mirror_axes": [0, 1]}, "relative_affine": {"rotation_degrees": 5, "log_scale": 0.05}, "intensity": {}}


def smooth_image(shape: tuple[int, ...], seed: int = 0, channels: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    layers = np.stack([gaussian_filter(rng.normal(size=shape), 2) for _ in range(channels)])
    return torch.from_numpy((layers / layers.std()).astype(np.float32))


def sample_of(shape: tuple[int, ...], channels: int = 1) -> PairSample:
    fixed, moving = smooth_image(shape, 0, channels), smooth_image(shape, 1, channels)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(6, len(shape), generator=generator) * (torch.tensor(shape) - 1)
    return PairSample(
        fixed=fixed,
        moving=moving,
        fixed_input=fixed,
        moving_input=moving,
        fixed_labels=torch.randint(0, 5, (1, *shape), dtype=torch.int16, generator=generator),
        moving_labels=torch.randint(0, 5, (1, *shape), dtype=torch.int16, generator=generator),
        fixed_mask=torch.ones(1, *shape, dtype=torch.uint8),
        moving_mask=torch.ones(1, *shape, dtype=torch.uint8),
        fixed_keypoints=points,
        moving_keypoints=points + 1,
    )


def tensors(sample: PairSample) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(sample).items() if value is not None}


def equal(one: PairSample, other: PairSample) -> bool:
    return all(torch.equal(value, tensors(other)[name]) for name, value in tensors(one).items())


def drawn(shape: tuple[int, ...], seed: int = 3, **settings: object) -> VoxelAffine:
    spacing = (2.0, 0.9, 1.2)[: len(shape)]
    return RandomAffine(**{**STRONG, **settings}).sample(np.random.default_rng(seed), shape, spacing)


def interior(shape: tuple[int, ...], margin: int) -> tuple[slice, ...]:
    return (slice(None), *(slice(margin, size - margin) for size in shape))


# -- pairs ------------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(shape):
    sample, augmentation = sample_of(shape), build_augmentation(ALL, len(shape))
    first, again, other = (augmentation(sample, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert equal(first, again)
    assert not equal(first, other)


def test_a_draw_replays_and_leaves_its_sample_alone(shape):
    sample, before = sample_of(shape), sample_of(shape)
    intensity = {"probability": 1, "noise_probability": 1, "blur_probability": 1, "gamma_probability": 1, "contrast_probability": 1}
    draw = build_augmentation({**ALL, "intensity": intensity}, len(shape)).draw(shape, np.random.default_rng(0))
    once = draw(sample)
    torch.rand(3)  # whatever else draws in between
    assert equal(once, draw(sample))
    assert equal(sample, before)


def test_the_same_state_of_a_used_generator_gives_the_same_sample(shape):
    augmentation, rng = build_augmentation(ALL, len(shape)), np.random.default_rng(0)
    augmentation(sample_of(shape), rng)
    state = rng.bit_generator.state
    first = augmentation(sample_of(shape), rng)
    rng.bit_generator.state = state
    assert equal(first, augmentation(sample_of(shape), rng))


def test_without_augmentation_the_sample_comes_back_untouched(shape):
    sample = sample_of(shape)
    for settings in ({}, {"spatial": {}}, {"spatial": {**STRONG, "probability": 0}}, {"intensity": {"probability": 0}}):
        result = build_augmentation(settings, len(shape))(sample, np.random.default_rng(0))
        assert all(getattr(result, name) is value for name, value in tensors(sample).items())


def test_shared_maps_move_both_images_alike_and_relative_ones_only_the_moving(shape):
    image = smooth_image(shape)
    sample = PairSample(image, image, image, image)
    shared = build_augmentation({"spatial": STRONG}, len(shape))(sample, np.random.default_rng(1))
    assert torch.equal(shared.fixed, shared.moving)
    assert not torch.equal(shared.fixed, image)
    relative = build_augmentation({"relative_affine": STRONG}, len(shape))(sample, np.random.default_rng(1))
    assert relative.fixed is image
    assert not torch.equal(relative.moving, image)


def test_the_moving_image_gets_the_shared_map_and_then_the_relative_one(shape):
    both, relative = (
        build_augmentation(config, len(shape)).draw(shape, np.random.default_rng(1)) for config in (ALL, {"relative_affine": ALL["relative_affine"]})
    )
    points = torch.rand(9, len(shape), dtype=torch.float64) * 10
    assert torch.allclose(both.moving_map.points(points), relative.moving_map.points(both.fixed_map.points(points)))


def test_one_pass_over_both_images_gives_what_two_passes_give(shape):
    sample, draw = sample_of(shape, channels=2), build_augmentation({"spatial": STRONG}, len(shape)).draw(shape, np.random.default_rng(2))
    result = draw(sample)
    assert torch.equal(result.fixed, draw.fixed_map.image(sample.fixed))
    assert torch.equal(result.moving, draw.moving_map.image(sample.moving))
    assert torch.equal(result.moving_labels, draw.moving_map.labels(sample.moving_labels))


def test_other_settings_of_one_part_leave_the_draws_of_the_others_alone(shape):
    plain = build_augmentation({"spatial": STRONG}, len(shape)).draw(shape, np.random.default_rng(4))
    with_more = build_augmentation({"spatial": STRONG, "intensity": {}, "relative_affine": STRONG}, len(shape)).draw(shape, np.random.default_rng(4))
    assert np.array_equal(plain.fixed_map.matrix, with_more.fixed_map.matrix)


def test_labels_and_masks_stay_what_they_are(shape):
    sample = sample_of(shape)
    result = build_augmentation({"spatial": {**STRONG, "log_scale": 0.5}}, len(shape))(sample, np.random.default_rng(0))
    for name in ("fixed_labels", "moving_labels", "fixed_mask", "moving_mask"):
        before, after = getattr(sample, name), getattr(result, name)
        assert after.dtype == before.dtype
        assert set(after.unique().tolist()) <= {*before.unique().tolist(), 0}


def test_a_sample_lies_on_one_grid(shape):
    image = smooth_image(shape)
    with pytest.raises(GeometryError, match="one grid"):
        PairSample(image, image[:, 1:], image, image)


# -- on a GPU --------------------------------------------------------------------------------------------------------------------

EVERYTHING = {f"{name}_probability": 1 for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")}


@pytest.mark.parametrize("seed", range(4))
def test_on_a_gpu_the_same_draw_gives_the_same_sample_within_interpolation(shape, seed, monkeypatch):
    sample, draw = sample_of(shape, channels=2), build_augmentation({**ALL, "intensity": EVERYTHING}, len(shape)).draw(shape, np.random.default_rng(seed))
    compiled = draw(sample)
    monkeypatch.setattr(on_device, "is_compiled", lambda tensor: False)  # tensors that numba cannot reach, as on a GPU
    there = draw(sample)
    for name, value in tensors(compiled).items():
        other = tensors(there)[name]
        if value.is_floating_point():
            assert torch.allclose(other, value, atol=2e-3), name
        else:
            assert torch.equal(other, value), name


def test_on_a_gpu_changes_of_intensity_read_nothing_back(shape, monkeypatch):
    """Of the image itself: small draws on the CPU may be read."""
    change = RandomIntensity(**EVERYTHING).sample(np.random.default_rng(0))
    image = torch.empty(2, *shape, device="meta")  # has no values, so whoever reads one fails
    assert change.image(image).shape == image.shape


# -- the affine twin --------------------------------------------------------------------------------------------------------------


def test_images_agree_with_scipy(shape):
    spatial, image = drawn(shape), smooth_image(shape, channels=2)
    n = len(shape)
    for channel, mapped in zip(image.numpy(), spatial.image(image).numpy(), strict=True):
        expected = affine_transform(channel, spatial.matrix[:n, :n], spatial.matrix[:n, n], order=1, mode="nearest")
        assert np.allclose(mapped, expected, atol=1e-4)


def test_images_agree_with_the_packages_warp(shape):
    spatial, image = drawn(shape), smooth_image(shape)
    grid = identity_grid(shape)
    matrix = torch.tensor(spatial.matrix, dtype=torch.float32)
    n = len(shape)
    field = torch.einsum("jk,bk...->bj...", matrix[:n, :n], grid) + matrix[:n, n].reshape(1, n, *(1,) * n) - grid
    assert torch.allclose(spatial.image(image), warp(image[None], field)[0], atol=1e-4)


def test_labels_are_the_nearest_voxels_and_zero_outside(shape):
    spatial = drawn(shape, log_scale=0.4)
    labels = torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.int32).reshape(1, *shape)
    mapped = spatial.labels(labels).numpy()[0]
    n = len(shape)
    positions = np.moveaxis(np.indices(shape), 0, -1) @ spatial.matrix[:n, :n].T + spatial.matrix[:n, n]
    nearest = np.floor(positions + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < shape)).all(axis=-1)
    assert inside.any()
    assert not inside.all()
    assert (mapped[~inside] == 0).all()
    assert (mapped[inside] == labels.numpy()[0][tuple(nearest[inside].T)]).all()


def test_points_follow_the_image(shape):
    """A bright spot is found where its point went."""
    spatial = drawn(shape, log_scale=0.0, shift_fraction=0.02)
    point = (torch.tensor(shape) - 1.0)[None] * 0.55
    grid = identity_grid(shape)
    spot = torch.exp(-((grid - point.reshape(1, -1, *(1,) * len(shape))) ** 2).sum(1) / 4)
    mapped = spatial.image(spot)[0]
    centre = (mapped * grid[0]).flatten(1).sum(1) / mapped.sum()
    assert torch.allclose(centre, spatial.points(point)[0].float(), atol=0.15)


def test_the_inverse_brings_points_back(shape):
    spatial = drawn(shape, mirror_axes=(0,))
    points = torch.rand(20, len(shape), dtype=torch.float64) * 30
    assert torch.allclose(spatial.inverse().points(spatial.points(points)), points, atol=1e-9)


def test_chained_maps_are_one_map(shape):
    first, second = drawn(shape, 1), drawn(shape, 2)
    both = second.after(first)
    points = torch.rand(20, len(shape), dtype=torch.float64) * 10
    assert torch.allclose(both.points(points), second.points(first.points(points)), atol=1e-9)
    inner = interior(shape, 3)
    image = smooth_image(shape)
    position = torch.from_numpy(np.moveaxis(np.indices(shape), 0, -1) @ second.matrix[:-1, :-1].T + second.matrix[:-1, -1])
    seen = ((position >= 0) & (position <= torch.tensor(shape) - 1)).all(-1)[None]
    once, twice = both.image(image), second.image(first.image(image))
    assert (once - twice)[inner][seen[inner]].abs().mean() < 0.1 * image.std()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_a_mirror_reverses_axes_exactly(shape, axes):
    mirror, image = VoxelAffine.mirror(axes, shape), smooth_image(shape)
    assert mirror.mirrored_axes == axes
    assert torch.equal(mirror.image(image), image.flip([axis + 1 for axis in axes]))
    assert torch.equal(mirror.image(mirror.image(image)), image)
    point = torch.zeros(1, len(shape))
    assert [float(mirror.points(point)[0, axis]) for axis in axes] == [shape[axis] - 1 for axis in axes]


def test_a_mirror_reverses_the_vectors_along_its_axes(shape, smooth_field):
    field = smooth_field(shape)[0]
    mirrored = VoxelAffine.mirror((1,), shape).field(field)
    assert torch.allclose(mirrored[1], -field[1].flip(1), atol=1e-6)
    assert torch.allclose(mirrored[0], field[0].flip(1), atol=1e-6)


def test_fields_follow_both_images(shape, smooth_field):
    """Warping the augmented moving image by the augmented field is augmenting the warped image."""
    field, moving = smooth_field(shape, 1.0), smooth_image(shape, 1)
    fixed_map, moving_map = drawn(shape, 1, shift_fraction=0.02, mirror_axes=(0,)), drawn(shape, 2, rotation_degrees=5, log_scale=0.03, shift_fraction=0.0)
    moving_map = moving_map.after(fixed_map)
    warped = fixed_map.image(warp(moving[None], field)[0])
    after = warp(moving_map.image(moving)[None], fixed_map.field(field[0], moving_map)[None])[0]
    n = len(shape)
    seen = np.moveaxis(np.indices(shape), 0, -1) @ fixed_map.matrix[:n, :n].T + fixed_map.matrix[:n, n]
    inside = torch.from_numpy(((seen >= 2) & (seen <= np.array(shape) - 3)).all(-1))[None]
    assert (warped - after)[inside].abs().median() < 0.1 * moving.std()


def test_a_field_between_images_mapped_differently_is_exact_for_the_identity(shape):
    """From one pose to another of the same image: the field is the affine map between the poses."""
    fixed_map, moving_map = drawn(shape, 1), drawn(shape, 2)
    field = fixed_map.field(torch.zeros(len(shape), *shape), moving_map)
    points = torch.rand(10, len(shape), dtype=torch.float64) * 5 + 2
    index = points.round().long()
    moved = index + torch.stack([field[(slice(None), *row)] for row in index])
    expected = moving_map.points(fixed_map.inverse().points(index.double()))
    assert torch.allclose(moved.double(), expected, atol=1e-3)


def test_rotations_are_rotations_in_mm(shape):
    spacing = np.array((2.0, 0.9, 1.2)[: len(shape)])
    linear = drawn(shape, log_scale=0.0).matrix[:-1, :-1]
    in_mm = linear * spacing[:, None] / spacing
    assert np.allclose(in_mm @ in_mm.T, np.eye(len(shape)))
    assert not np.allclose(linear @ linear.T, np.eye(len(shape)))
    assert np.allclose(drawn(shape, shift_fraction=0.0).matrix @ np.append((np.array(shape) - 1) / 2, 1), np.append((np.array(shape) - 1) / 2, 1))


def test_an_axis_of_one_voxel():
    shape = (1, 12, 15)
    image = smooth_image(shape[1:])[:, None]
    flat = VoxelAffine.about_centre(np.array([[1.1, 0.1], [-0.1, 0.9]]), (0.3, -0.2), shape[1:])
    matrix = np.eye(3)
    matrix[1:, 1:] = [[1.1, 0.1], [-0.1, 0.9]]
    volume = VoxelAffine.about_centre(matrix, (0, 0.3, -0.2), shape)
    assert torch.allclose(volume.image(image)[:, 0], flat.image(image[:, 0]), atol=1e-6)


def test_maps_of_other_grids_are_refused():
    spatial = VoxelAffine.identity((5, 6))
    with pytest.raises(GeometryError, match="grid"):
        spatial.image(torch.zeros(1, 6, 5))
    with pytest.raises(GeometryError, match="chained"):
        spatial.after(VoxelAffine.identity((6, 5)))
    with pytest.raises(GeometryError, match="singular"):
        VoxelAffine(np.zeros((3, 3)), (5, 6))


# -- intensity --------------------------------------------------------------------------------------------------------------------


def test_intensities_change_for_the_network_alone_and_for_each_image_on_its_own(shape):
    image = smooth_image(shape, channels=2)
    sample = PairSample(image, image, image, image)
    result = build_augmentation({"intensity": {"noise_probability": 1, "gamma_probability": 1}}, len(shape))(sample, np.random.default_rng(0))
    assert result.fixed is image
    assert result.moving is image
    assert not torch.equal(result.fixed_input, image)
    assert not torch.equal(result.fixed_input, result.moving_input)
    assert result.fixed_input.isfinite().all()
    assert result.fixed_input.dtype == torch.float32


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"])
def test_every_intensity_change_changes_something(shape, name):
    off = {f"{other}_probability": 0.0 for other in ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")}
    image = smooth_image(shape)
    changed = [RandomIntensity(**{**off, f"{name}_probability": 1.0}).sample(np.random.default_rng(seed)).image(image) for seed in range(8)]
    assert any(not torch.equal(result, image) for result in changed)
    untouched = RandomIntensity(**off).sample(np.random.default_rng(0)).image(image)
    assert torch.equal(untouched, image)


def test_global_generators_are_left_as_they_were(shape):
    change = RandomIntensity(noise_probability=1.0).sample(np.random.default_rng(0))
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    change.image(smooth_image(shape))
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == expected  # noqa: NPY002


def test_noise_is_relative_to_the_images_own_contrast(shape):
    change = RandomIntensity(noise=(0.1, 0.1), noise_probability=1.0, **_only("noise")).sample(np.random.default_rng(0))
    image = smooth_image(shape)
    weak, strong = change.image(image) - image, change.image(100 * image) - 100 * image
    assert torch.allclose(100 * weak, strong, atol=1e-2)


def _only(name: str) -> dict[str, float]:
    return {f"{other}_probability": 0.0 for other in ("blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma") if other != name}


# -- configuration ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spacial": {}}, "did you mean 'spatial'"),
        ({"spatial": {"rotation_degree": 3}}, "did you mean 'rotation_degrees'"),
        ({"spatial": {"rotation_degrees": "big"}}, "expected float"),
        ({"spatial": {"rotation_degrees": -3}}, "0 or more"),
        ({"spatial": {"probability": 2}}, "0 to 1"),
        ({"spatial": {"mirror_axes": [5]}}, "mirror_axes"),
        ({"relative_affine": {"mirror_axes": [0]}}, "no longer fit"),
        ({"intensity": {"noise": [0.2, 0.1]}}, "low <= high"),
        ({"intensity": {"gamma_probability": -1}}, "0 to 1"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        build_augmentation(settings, 2)


def test_spacing_must_fit_the_axes():
    with pytest.raises(ConfigurationError, match="spacings"):
        build_augmentation({}, 3, spacing=(1.0, 1.0))
