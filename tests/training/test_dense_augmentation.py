"""Augmentation of patches: nnU-Net's sizes, the library's results with less reading, replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nnreg.errors import ConfigurationError
from nnreg.training.augmentation.dense_prediction.elastic import RandomElastic
from nnreg.training.augmentation.dense_prediction.patch import DenseAugmentation, RandomPose, _spatial, build_dense_augmentation
from nnreg.training.augmentation.intensity import RandomIntensity
from nnreg.training.augmentation.seeding import global_seed

SIZES = json.loads((Path(__file__).parent / "data" / "nnunet_read_sizes.json").read_text())["sizes"]
STILL = RandomIntensity(probability=0.0)
POSES = {
    "3d": ((9, 14, 11), RandomPose(rotation_probability=1.0, scaling_probability=1.0)),
    "slice by slice": ((4, 15, 13), RandomPose((-180.0, 180.0), 1.0, in_plane=True)),
    "2d": ((17, 12), RandomPose((-180.0, 180.0), 1.0, (0.7, 1.4), 0.5)),
    "zoom alone": ((8, 13, 10), RandomPose(rotation_probability=0.0, scaling_probability=1.0)),
    "still": ((7, 10, 12), RandomPose(rotation_probability=0.0, scaling_probability=0.0)),
}


@pytest.mark.parametrize("entry", SIZES, ids=lambda entry: "x".join(map(str, entry["patch"])))
def test_read_sizes_are_nnunets(entry: dict[str, object]) -> None:
    pose = RandomPose((-entry["degrees"], entry["degrees"]), in_plane=False)  # type: ignore[operator]
    assert list(pose.read_size(entry["patch"])) == entry["read"]  # type: ignore[arg-type]
    if len(entry["patch"]) == 3:  # type: ignore[arg-type]
        flat = RandomPose((-180.0, 180.0), in_plane=True)
        assert flat.read_size(entry["patch"])[0] == entry["patch"][0]  # type: ignore[arg-type, index]


def wide_patch(size: tuple[int, ...], channels: int = 2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(len(size))
    image = torch.from_numpy(rng.normal(size=(channels, *size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(-1, 4, (1, *size)).astype(np.int16))
    return image, labels


def read(draw, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    box = (slice(None), *(slice(first, first + extent) for first, extent in zip(draw.start, draw.size, strict=True)))
    return image[box], labels[box]


@pytest.mark.parametrize("name", POSES)
def test_a_patch_of_what_is_needed_is_the_librarys_of_all_that_nnunet_reads(name: str) -> None:
    patch, pose = POSES[name]
    augmentation = DenseAugmentation(patch, pose, STILL)
    image, labels = wide_patch(augmentation.read)
    for seed in range(6):
        draw = augmentation.draw(np.random.default_rng(seed))
        found = draw(*read(draw, image, labels))
        pose_seed = int(np.random.default_rng(seed).integers(2**32, size=2)[0])
        data = {"image": image.clone(), "segmentation": labels.clone()}
        if pose.in_plane:
            data = {key: value.flatten(0, 1) for key, value in data.items()}
        with global_seed(pose_seed):
            data = _spatial(pose, patch)(**data)
        assert found[0].shape == (2, *patch)
        torch.testing.assert_close(found[0], data["image"].reshape(2, *patch), atol=2e-4, rtol=0)
        assert (found[1] != data["segmentation"].reshape(1, *patch)).float().mean() < 0.01  # ties between labels
        assert all(first >= 0 and first + size <= most for first, size, most in zip(draw.start, draw.size, augmentation.read, strict=True))


@pytest.mark.parametrize(("patch", "in_plane"), [((48, 56, 40), False), ((6, 60, 64), True)])
def test_less_is_read_than_nnunet_reads(patch: tuple[int, ...], in_plane: bool) -> None:
    augmentation = DenseAugmentation(patch, RandomPose(in_plane=in_plane))
    draws = [augmentation.draw(np.random.default_rng(seed)) for seed in range(40)]
    shares = [np.prod(draw.size) / np.prod(augmentation.read) for draw in draws]
    assert max(shares) <= 1
    assert np.mean(shares) < 0.7
    plain = [draw for draw in draws if draw.grid is None]
    assert 15 < len(plain) < 36  # 0.64 of 40, standard deviation 3
    assert all(draw.size == patch for draw in plain)


def test_a_draw_can_be_applied_again_and_disturbs_nobody() -> None:
    augmentation = DenseAugmentation((8, 12, 10), RandomPose(rotation_probability=0.5, mirror_axes=(0, 1, 2)))
    image, labels = wide_patch(augmentation.read)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    kept = image.clone(), labels.clone()
    for seed in range(5):
        draw = augmentation.draw(np.random.default_rng(seed))
        part = read(draw, image, labels)
        first, second = draw(*part), draw(*part)
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(image, kept[0])
    assert torch.equal(labels, kept[1])


def test_mirrors_alone_give_every_orientation_and_keep_image_and_labels_together() -> None:
    augmentation = DenseAugmentation((4, 5), RandomPose(rotation_probability=0.0, scaling_probability=0.0, mirror_axes=(0, 1)), STILL)
    labels = torch.arange(20, dtype=torch.int16).reshape(1, 4, 5)
    found = {tuple(draw_of(augmentation, labels.float(), labels, seed)[1].flatten().tolist()) for seed in range(40)}
    expected = {tuple(labels.flip(axes).flatten().tolist()) for axes in ([], [1], [2], [1, 2])}
    assert found == expected
    for seed in range(8):
        image, turned = draw_of(augmentation, labels.float(), labels, seed)
        assert torch.equal(image, turned.float())


def draw_of(augmentation: DenseAugmentation, image: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return augmentation.draw(np.random.default_rng(seed))(image, labels)


def test_channels_normalised_within_the_image_are_zero_outside_it() -> None:
    augmentation = DenseAugmentation((6, 7), RandomPose(rotation_probability=0.0, scaling_probability=0.0), RandomIntensity(noise_probability=1.0), (1,))
    image, labels = wide_patch((6, 7))
    for seed in range(4):
        found, kept = draw_of(augmentation, image, labels, seed)
        assert (found[1][kept[0] < 0] == 0).all()
        assert (found[0][kept[0] < 0] != 0).any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"spatial": {}}, "no augmentation 'spatial'"),
        ({"pose": {"rotatoin": [0, 1]}}, "rotation"),
        ({"pose": {"rotation": [10, -10]}}, "rotation"),
        ({"pose": {"scaling": [0.0, 1.0]}}, "scaling"),
        ({"pose": {"mirror_axes": [3]}}, "mirror_axes"),
        ({"pose": {"rotation_probability": 2.0}}, "rotation_probability"),
        ({"intensity": {"noise": [1, 0]}}, "noise"),
        ({"elastic": {"probability": -0.1}}, "probability"),
        ({"elastic": {"scale": [0.0, 0.1]}}, "scale"),
        ({"elastic": {"magnitude": [0.4, 0.1]}}, "magnitude"),
    ],
)
def test_nonsense_is_refused_by_name(config: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_dense_augmentation(config, (8, 8, 8))


def test_what_a_plan_leaves_out_does_not_happen() -> None:
    assert build_dense_augmentation({}, (8, 8)) is None
    alone = build_dense_augmentation({"intensity": {"gamma_probability": 1.0}}, (8, 9))
    assert alone is not None
    assert alone.read == (8, 9)
    image, labels = wide_patch((8, 9))
    found, kept = draw_of(alone, image, labels, 0)
    assert torch.equal(kept, labels)
    assert not torch.equal(found, image)


ALWAYS = RandomElastic(probability=1.0)
UPRIGHT = RandomPose(rotation_probability=0.0, scaling_probability=0.0)


@pytest.mark.parametrize("name", POSES)
def test_a_deformation_that_does_not_happen_changes_no_bit(name: str) -> None:
    patch, pose = POSES[name]
    plain = DenseAugmentation(patch, pose)
    never = DenseAugmentation(patch, pose, elastic=RandomElastic(probability=0.0))
    assert never.read == plain.read
    image, labels = wide_patch(plain.read)
    for seed in range(4):
        first, second = (of.draw(np.random.default_rng(seed)) for of in (plain, never))
        assert (first.start, first.size) == (second.start, second.size)
        for one, two in zip(first(*read(first, image, labels)), second(*read(second, image, labels)), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", POSES)
def test_a_deformed_patch_has_known_labels_and_is_the_same_again(name: str) -> None:
    patch, pose = POSES[name]
    augmentation = DenseAugmentation(patch, pose, STILL, elastic=ALWAYS)
    image, labels = wide_patch(augmentation.read)
    labels[labels == 2] = 255  # an ignore label of any value
    for seed in range(4):
        draws = [augmentation.draw(np.random.default_rng(seed)) for _ in range(2)]
        first, second = (draw(*read(draw, image, labels)) for draw in draws)
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
        assert first[1].dtype == labels.dtype
        assert set(first[1].unique().tolist()) <= {-1, 0, 1, 3, 255}
        assert {0, 255} <= set(first[1].unique().tolist())
        assert all(first >= 0 and first + size <= most for first, size, most in zip(draws[0].start, draws[0].size, augmentation.read, strict=True))


@pytest.mark.parametrize("patch", [(10, 14, 12), (16, 13)])
def test_a_deformation_of_no_size_is_the_patch(patch: tuple[int, ...]) -> None:
    augmentation = DenseAugmentation(patch, UPRIGHT, STILL, elastic=RandomElastic(1.0, magnitude=(0.0, 0.0)))
    assert augmentation.read == patch
    image, labels = wide_patch(patch)
    found, kept = draw_of(augmentation, image, labels, 3)
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)
    assert torch.equal(kept, labels)


def test_a_deformed_image_is_what_lies_at_the_deformed_positions() -> None:
    patch = (12, 20, 16)
    augmentation = DenseAugmentation(patch, UPRIGHT, STILL, elastic=RandomElastic(1.0, magnitude=(0.5, 0.5)))
    places = torch.from_numpy(np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in augmentation.read), indexing="ij")))
    labels = torch.zeros((1, *augmentation.read), dtype=torch.int16)
    seed = int(np.random.default_rng(5).integers(2**32, size=2)[0])
    deformation = augmentation.elastic.sample(np.random.default_rng([seed, 1]), patch)
    assert deformation is not None
    middle = (np.asarray(augmentation.read) - 1).reshape(3, 1, 1, 1) / 2
    draw = augmentation.draw(np.random.default_rng(5))
    image, _, maps = draw.with_maps(*read(draw, places, labels), read(draw, places, labels)[0])
    # linear interpolation of coordinates returns the positions themselves
    np.testing.assert_allclose(image.numpy(), deformation.positions() + middle, atol=1e-3)
    assert torch.equal(maps, image)


def test_maps_that_are_not_known_stay_so_where_they_are_moved_to() -> None:
    augmentation = DenseAugmentation((14, 15), UPRIGHT, STILL, elastic=ALWAYS)
    image, labels = wide_patch(augmentation.read, channels=1)
    known = torch.full_like(image, 2.5)
    known[:, :8] = torch.nan
    draw = augmentation.draw(np.random.default_rng(1))
    part, _ = read(draw, known, labels)
    moved = draw.with_maps(*read(draw, image, labels), part)[2]
    assert moved.isnan().any()
    torch.testing.assert_close(moved[moved.isfinite()], torch.tensor(2.5).expand(int(moved.isfinite().sum())))


def test_the_magnitude_is_that_of_the_greatest_displacement_and_half_a_width_does_not_fold() -> None:
    patch = (18, 30, 24)
    greatest = []
    for magnitude in (0.0, 0.1, 0.5):
        for scale in (0.05, 0.2):
            settings = RandomElastic(1.0, (scale, scale), (magnitude, magnitude))
            for seed in range(4):
                deformation = settings.sample(np.random.default_rng(seed), patch)
                assert deformation is not None
                field = deformation.displacement()
                np.testing.assert_allclose(np.abs(field).max(axis=(1, 2, 3)), np.multiply(magnitude * scale, patch))
                np.testing.assert_allclose(field.mean(axis=(1, 2, 3)), 0, atol=1e-12)
                assert (np.abs(field).max(axis=(1, 2, 3)) <= settings.reach(patch)).all()
                slopes = np.stack([np.stack(np.gradient(component)) for component in field])
                assert (np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)) > 0).all()
        greatest.append(float(np.abs(field).max()))
    assert greatest == sorted(greatest)


def test_slice_by_slice_no_voxel_leaves_its_slice() -> None:
    augmentation = DenseAugmentation((4, 15, 13), RandomPose((-180.0, 180.0), 1.0, in_plane=True), STILL, elastic=ALWAYS)
    slices = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, *augmentation.read) + 1
    draw = augmentation.draw(np.random.default_rng(2))
    found, _ = draw(*read(draw, slices, torch.zeros_like(slices, dtype=torch.int16)))
    torch.testing.assert_close(found[0, :, 7, 6], torch.arange(4.0) + 1)
