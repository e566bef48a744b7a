"""Dice and surface distances against brute force, scipy and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from nnreg import metrics
from nnreg.errors import GeometryError

LABELS = [1, 2, 3]


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A label map with 0 to 3, smooth regions."""
    rng = np.random.default_rng(seed)
    layers = np.stack([gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(4)])
    return layers.argmax(axis=0).astype(np.int16)


def spacing_of(shape: tuple[int, ...]) -> tuple[float, ...]:
    return (2.5, 0.8, 1.3)[: len(shape)]


# -- dice -------------------------------------------------------------------------------------------------------------------------


def test_a_map_overlaps_itself(shape):
    labels = blobs(shape, 0)
    scores = metrics.dice(labels, labels, [*LABELS, 9])
    assert all(scores[label] == 1 for label in LABELS)
    assert np.isnan(scores[9])


def test_dice_is_twice_the_common_voxels_over_the_sum(shape):
    one, other = blobs(shape, 0), blobs(shape, 1)
    for label, score in metrics.dice(one, other, LABELS).items():
        expected = 2 * np.sum((one == label) & (other == label)) / (np.sum(one == label) + np.sum(other == label))
        assert score == pytest.approx(expected)


def test_dice_agrees_with_simpleitk(shape):
    one, other = blobs(shape, 0), blobs(shape, 1)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(one), sitk.GetImageFromArray(other))
    for label, score in metrics.dice(one, other, LABELS).items():
        assert score == pytest.approx(overlap.GetDiceCoefficient(label))


def test_large_label_values_score_as_small_ones(shape):
    one, other = blobs(shape, 0), blobs(shape, 1)
    values = np.array([0, 17, 2**30, -5])
    small, large = metrics.dice(one, other, LABELS), metrics.dice(values[one], values[other], values[1:].tolist())
    assert {int(values[label]): score for label, score in small.items()} == large


def test_tensors_score_as_arrays(shape):
    one, other = blobs(shape, 0), blobs(shape, 1)
    assert metrics.dice(torch.from_numpy(one)[None], torch.from_numpy(other)[None], LABELS) == metrics.dice(one, other, LABELS)


def test_a_label_thrown_out_of_the_image_scores_zero_and_an_absent_one_nothing():
    fixed = np.array([[1, 1, 2, 3]])
    moving, warped = np.array([[1, 2, 2]]), np.array([[1, 0, 0, 0]])
    scores = metrics.dice(fixed, warped, [1, 2, 3, 4], moving=moving)
    assert scores[1] == pytest.approx(2 / 3)
    assert scores[2] == 0, "moving has it: it was lost on the way"
    assert np.isnan(scores[3]), "moving never had it"
    assert np.isnan(scores[4])


def test_other_grids_are_refused():
    with pytest.raises(GeometryError, match="fixed grid"):
        metrics.dice(np.zeros((3, 4), int), np.zeros((4, 3), int), [1])


# -- surfaces ---------------------------------------------------------------------------------------------------------------------


def brute_force(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All distances between surface voxels (those that an erosion takes away), both ways."""
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing) for mask in (one, other)]
    distances = cdist(*surfaces)
    return distances.min(axis=1), distances.min(axis=0)


def test_surface_distances_agree_with_brute_force(shape):
    one, other, spacing = blobs(shape, 0), blobs(shape, 1), spacing_of(shape)
    result = metrics.surface_distances(one, other, LABELS, spacing)
    hausdorff, average = metrics.hausdorff95(one, other, LABELS, spacing), metrics.average_surface_distance(one, other, LABELS, spacing)
    within = metrics.nsd(one, other, LABELS, spacing, tolerance=2.0)
    for label in LABELS:
        there, back = brute_force(one == label, other == label, spacing)
        assert np.allclose(np.sort(result[label].to_warped), np.sort(there))
        assert np.allclose(np.sort(result[label].to_fixed), np.sort(back))
        assert hausdorff[label] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
        assert average[label] == pytest.approx(np.concatenate([there, back]).mean())
        assert within[label] == pytest.approx((np.concatenate([there, back]) <= 2.0).mean())


def test_surface_distances_agree_with_simpleitks_distance_map(shape):
    one, other, spacing = blobs(shape, 2), blobs(shape, 3), spacing_of(shape)
    # a border of background: SimpleITK's contour does not count the end of the image
    one, other = np.pad(one, 1), np.pad(other, 1)
    result = metrics.surface_distances(one, other, [1], spacing)[1]
    images = [sitk.GetImageFromArray((array == 1).astype(np.uint8)) for array in (one, other)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    contours = [sitk.LabelContour(image, fullyConnected=False) for image in images]
    maps = [sitk.GetArrayFromImage(sitk.Abs(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True))) for c in contours]
    masks = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    assert np.allclose(np.sort(result.to_warped), np.sort(maps[1][masks[0]]), atol=1e-4)
    assert np.allclose(np.sort(result.to_fixed), np.sort(maps[0][masks[1]]), atol=1e-4)


def test_a_shifted_box_is_as_far_away_as_it_was_shifted():
    spacing = (3.0, 0.7, 1.1)
    for axis, step in enumerate(spacing):
        box = np.zeros((20, 22, 24), np.uint8)
        box[6:12, 6:12, 6:12] = 1
        distances = metrics.surface_distances(box, np.roll(box, 2, axis), [1], spacing)[1]
        assert distances.hausdorff(100) == pytest.approx(2 * step)
        assert 0 < distances.average < 2 * step


def test_equal_maps_are_no_distance_apart_and_order_does_not_matter(shape):
    one, other, spacing = blobs(shape, 0), blobs(shape, 1), spacing_of(shape)
    assert set(metrics.hausdorff95(one, one, LABELS, spacing).values()) == {0.0}
    assert metrics.hausdorff95(one, other, LABELS, spacing) == metrics.hausdorff95(other, one, LABELS, spacing)
    assert metrics.hausdorff95(one[None], other, LABELS, spacing) == metrics.hausdorff95(one, other, LABELS, spacing)


def test_one_slice_of_a_volume_measures_as_an_image():
    one, other = blobs((17, 24), 0), blobs((17, 24), 1)
    flat, volume = metrics.hausdorff95(one, other, LABELS, (0.8, 1.3)), metrics.hausdorff95(one[:, None], other[:, None], LABELS, (0.8, 5.0, 1.3))
    assert flat == volume


def test_surfaces_of_lost_and_absent_labels():
    fixed, moving, warped = np.array([[1, 1, 2, 3, 0]]), np.array([[1, 2, 0, 0, 0]]), np.array([[1, 1, 0, 0, 0]])
    distances = metrics.hausdorff95(fixed, warped, [1, 2, 3], (1, 1), moving=moving)
    assert distances[1] == 0
    assert np.isinf(distances[2])
    assert np.isnan(distances[3])
    assert metrics.nsd(fixed, warped, [2], (1, 1), tolerance=9, moving=moving)[2] == 0


def test_more_tolerance_never_lowers_the_surface_dice(shape):
    one, other, spacing = blobs(shape, 0), blobs(shape, 1), spacing_of(shape)
    values = [metrics.nsd(one, other, [2], spacing, tolerance=tolerance)[2] for tolerance in (0, 1, 2, 4, 1000)]
    assert values == sorted(values)
    assert values[-1] == 1


def test_spacing_must_fit():
    with pytest.raises(GeometryError, match="spacings"):
        metrics.hausdorff95(np.zeros((3, 4, 5), int), np.zeros((3, 4, 5), int), [1], (1.0, 1.0))
    with pytest.raises(GeometryError, match="positive"):
        metrics.hausdorff95(np.zeros((3, 4), int), np.zeros((3, 4), int), [1], (1.0, 0.0))
