"""Crop, normalisation, resampling and locations of dense prediction against nnU-Net's numbers and against what nnU-Net calls."""

import json
from pathlib import Path

import numpy as np
import pytest
from batchgenerators.augmentations.utils import resize_segmentation
from scipy import ndimage
from skimage.transform import resize

from nnreg.dataset.labels import LabelManager
from nnreg.errors import NnRegError
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Normalization
from nnreg.preprocessing.dense_prediction.crop import crop, filled
from nnreg.preprocessing.dense_prediction.locations import MOST, read_locations, sample_locations, write_locations
from nnreg.preprocessing.dense_prediction.normalization import normalise
from nnreg.preprocessing.dense_prediction.resample import resample_image, resample_labels

ORACLE = json.loads((Path(__file__).parent / "data" / "nnunet_arrays.json").read_text())
SPACINGS = {"iso": ((1, 1, 1), (0.5, 0.8, 1.2)), "aniso": ((5, 1, 1), (2.5, 0.8, 0.8))}
# up and down, odd sizes, single slices, a line of three voxels
GRIDS = [((7, 33, 50), (9, 40, 31)), ((3, 5, 4), (30, 2, 11)), ((1, 18, 19), (1, 40, 33)), ((12, 70, 65), (12, 128, 40))]


def wave(shape):
    return np.sin(0.37 * np.arange(np.prod(shape))).reshape(shape)


def same(array, recorded, tolerance):
    exact = array.astype(float)
    found = {"sum": exact.sum(), "l2": np.linalg.norm(exact), "min": exact.min(), "max": exact.max()}
    assert list(array.shape) == recorded["shape"]
    assert found == pytest.approx({key: recorded[key] for key in found}, rel=tolerance, abs=tolerance * exact.size**0.5)
    assert exact.ravel()[:4] == pytest.approx(recorded["head"], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", SPACINGS)
@pytest.mark.parametrize("order", [3, 1])
def test_images_equal_the_peer(kind, order):
    recorded = ORACLE["resample"][f"{kind} data order{order}"]
    found = resample_image(wave((1, 6, 20, 22)).astype(np.float32), recorded["shape"][1:], *SPACINGS[kind], Resampling(data_order=order))
    same(found, recorded, 2e-6)


@pytest.mark.parametrize("kind", SPACINGS)
def test_labels_equal_the_peer(kind):
    recorded = ORACLE["resample"][f"{kind} seg"]
    labels = np.round(3 * np.abs(wave((1, 6, 20, 22)))).astype(np.int16)
    same(resample_labels(labels, recorded["shape"][1:], *SPACINGS[kind], Resampling()), recorded, 0)


@pytest.mark.parametrize(("shape", "new"), GRIDS)
@pytest.mark.parametrize("order", range(6))
def test_every_order_is_the_spline_of_scikit_image(shape, new, order):
    image = np.random.default_rng(order).normal(size=(1, *shape)).astype(np.float32)
    found = resample_image(image, new, (1, 1, 1), (1, 1, 1), Resampling(data_order=order))
    assert np.abs(found[0] - resize(image[0].astype(float), new, order, mode="edge", anti_aliasing=False)).max() < 1e-5


@pytest.mark.parametrize(("shape", "new"), GRIDS)
@pytest.mark.parametrize("order", range(4))
def test_labels_are_bitwise_those_of_batchgenerators(shape, new, order):
    """Noise has ties and places where many labels meet; blobs have borders."""
    rng = np.random.default_rng(order)
    noise = rng.integers(-1, 6, shape)
    blobs = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(4)]).argmax(0) - 1
    for labels in (noise, blobs):
        found = resample_labels(labels[None].astype(np.int16), new, (1, 1, 1), (1, 1, 1), Resampling(labels_order=order))
        assert np.array_equal(found[0], resize_segmentation(labels.astype(np.int16), new, order))


def test_slices_of_an_anisotropic_image_do_not_mix():
    """Any axis may be the coarse one; slices keep their own range, and between them the nearest is taken."""
    image = np.random.default_rng(0).normal(size=(1, 5, 12, 11)).astype(np.float32) * np.arange(1, 6).reshape(1, 5, 1, 1)
    labels = (image > 1).astype(np.int16) + (image < -2)
    expected = resample_image(image, (9, 20, 7), (4, 1, 1), (2, 1, 1), Resampling())
    plane = np.stack([resize(part.astype(float), (20, 7), 3, mode="edge", anti_aliasing=False) for part in image[0]])
    assert np.abs(expected[0] - plane[[0, 0, 1, 1, 2, 3, 3, 4, 4]]).max() < 1e-5
    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1)):
        shape = tuple((1, 9, 20, 7)[axis] for axis in order)[1:]
        spacing = tuple((0, 4, 1, 1)[axis] for axis in order)[1:]
        moved = resample_image(np.ascontiguousarray(image.transpose(order)), shape, spacing, (1, 1, 1), Resampling())
        assert np.allclose(moved, expected.transpose(order), atol=1e-6)
        moved_labels = resample_labels(labels.transpose(order), shape, spacing, (1, 1, 1), Resampling())
        assert np.array_equal(moved_labels, resample_labels(labels, (9, 20, 7), (4, 1, 1), (1, 1, 1), Resampling()).transpose(order))


def test_plans_decide_over_the_separate_axis():
    image = np.random.default_rng(0).normal(size=(1, 4, 9, 8)).astype(np.float32)
    together = resample_image(image, (8, 9, 8), (9, 1, 1), (4, 1, 1), Resampling(separate_axis=False))
    alone = resample_image(image, (8, 9, 8), (1.5, 1, 1), (1, 1, 1), Resampling(separate_axis=True))
    assert np.abs(together[0] - resize(image[0].astype(float), (8, 9, 8), 3, mode="edge", anti_aliasing=False)).max() < 1e-5
    assert np.array_equal(alone[0], np.repeat(image[0], 2, axis=0))


def test_normalisation_equals_the_peer():
    image = (wave((8, 9, 10)) * 500 + 100)[None]
    inside = (np.arange(720) % 3 != 0).reshape(8, 9, 10)
    ct = {"low": -300.0, "high": 550.0, "mean": 90.0, "std": 200.0}
    schemes = {"zscore": Normalization("zscore"), "zscore_mask": Normalization("zscore", {"use_mask": True}), "ct": Normalization("ct", ct)}
    for name, scheme in {**schemes, "to01": Normalization("rescale_to_0_1")}.items():
        before = image.copy()
        same(normalise(image, inside, [scheme], case="a")[0], ORACLE["norm"][name], 2e-5)
        assert np.array_equal(image, before)
    assert np.array_equal(normalise(image, inside, [Normalization("none")], case="a"), image.astype(np.float32))
    assert normalise(np.full((1, 2, 2, 2), 51.0), np.ones((2, 2, 2), bool), [Normalization("rgb_to_0_1")], case="a").ravel()[0] == pytest.approx(0.2)


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
def test_constant_images_become_finite(scheme):
    assert np.isfinite(normalise(np.full((1, 3, 4, 5), 7), np.ones((3, 4, 5), bool), [Normalization(scheme)], case="a")).all()


def test_what_cannot_be_normalised_is_said_with_its_case():
    image, inside = np.full((1, 2, 2, 2), 300.0), np.ones((2, 2, 2), bool)
    with pytest.raises(NnRegError, match=r"c7, channel 0: values from 300 to 300 are no bytes"):
        normalise(image, inside, [Normalization("rgb_to_0_1")], case="c7")
    with pytest.raises(NnRegError, match="has 1 channels, the plans are for 2"):
        normalise(image, inside, [Normalization("none")] * 2, case="c7")
    with pytest.raises(NnRegError, match="cannot take the arguments"):
        normalise(image, inside, [Normalization("zscore", {"mask": True})], case="c7")


@pytest.mark.parametrize("shape", [(1, 14, 17), (2, 9, 9), (6, 15, 13), (11, 12, 10)])
def test_holes_are_those_of_scipy(shape):
    rng = np.random.default_rng(shape[0])
    for share in (0.3, 0.6, 0.9):
        mask = rng.random(shape) < share
        assert np.array_equal(filled(mask), ndimage.binary_fill_holes(mask))
    assert filled(np.ones(shape, bool)).all()
    assert not filled(np.zeros(shape, bool)).any()


def test_cropping_marks_what_is_outside_but_keeps_labels():
    image = np.zeros((2, 7, 9, 11), np.float32)
    image[0, 2:6, 2:7, 3:8] = 1
    image[0, 3:5, 4:6, 5:7] = 0  # a hole
    image[1, 5, 6, 9] = -1
    labels = np.zeros((1, 7, 9, 11), np.uint8)
    labels[0, 2, 2, 8:11] = 4
    cropped, found, box = crop(image, labels)
    assert box == ((2, 6), (2, 7), (3, 10))
    assert np.array_equal(cropped, image[:, 2:6, 2:7, 3:10])
    mask = ndimage.binary_fill_holes((image != 0).any(0))[2:6, 2:7, 3:10]
    expected = np.where(mask, 0, -1)
    expected[0, 0, 5:7] = 4
    assert np.array_equal(found[0], expected)
    assert np.array_equal(crop(image, None)[1][0], np.where(mask, 0, -1))
    assert crop(np.zeros((1, 3, 4, 5)), None)[2] == ((0, 3), (0, 4), (0, 5))


def test_locations_are_voxels_of_their_label(tmp_path):
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2, 9], (40, 41, 42), p=[0.1, 0.5, 0.3, 0.0999, 0.0001]).astype(np.int16)
    manager = LabelManager((0, 1, 2, 3), ((1, 2), 2, 3), (1, 2, 3), ignore=9)
    found = sample_locations(labels, manager.sampled)
    assert list(found) == [(1, 2), 2, 3, (-1, 0, 1, 2, 3)]
    for entry, voxels in found.items():
        there = np.isin(labels, entry)
        assert len(voxels) == min(there.sum(), max(MOST, np.ceil(there.sum() / 100)))
        assert there[tuple(voxels.T)].all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert {tuple(voxel) for voxel in sample_locations(labels, (9,))[9]} == {tuple(voxel) for voxel in np.argwhere(labels == 9)}
    # regions are drawn from all their labels alike
    assert np.mean(labels[tuple(found[1, 2].T)] == 1) == pytest.approx(0.75, abs=0.03)
    write_locations(tmp_path / "a.npz", found)
    again = read_locations(tmp_path / "a.npz")
    assert list(again) == list(found)
    assert all(np.array_equal(again[entry], voxels) for entry, voxels in found.items())
    assert all(np.array_equal(voxels, found[entry]) for entry, voxels in sample_locations(labels, manager.sampled).items())
    (tmp_path / "a.npz").write_bytes(b"PK not an archive")
    with pytest.raises(NnRegError, match="is damaged"):
        read_locations(tmp_path / "a.npz")
