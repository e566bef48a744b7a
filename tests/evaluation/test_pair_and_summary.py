"""What is measured of a pair, and how pairs are joined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnreg.errors import EvaluationError
from nnreg.evaluation import Case, evaluate_pair, summarise, table, write_summary
from nnreg.evaluation.summary import worst_mean
from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.itk import place, to_itk
from nnreg.imageio import Image

LABELS = [1, 2, 3]


def case_on(space: Space, seed: int, channels: int = 1, keypoints: int = 5) -> Case:
    """Smooth image, blobs as labels, keypoints inside."""
    rng = np.random.default_rng(seed)
    image = np.stack([gaussian_filter(rng.normal(size=space.shape), 1.5) for _ in range(channels)]).astype(np.float32)
    labels = np.stack([gaussian_filter(rng.normal(size=space.shape), 1.5) for _ in range(4)]).argmax(axis=0)[None].astype(np.int16)
    points = rng.uniform(0, np.array(space.shape) - 1, (keypoints, space.ndim))[:, ::-1]
    return Case(Image(image, space), Image(labels, space), points)


def moved(case: Case, matrix: np.ndarray) -> tuple[Case, Transform]:
    """The same voxels lying elsewhere in the world, and the map there."""
    space = Space.from_matrix(case.image.space.shape, matrix @ case.image.space.matrix)
    transform = Transform.affine(matrix)
    return Case(Image(case.image.array, space), Image(case.labels.array, space), case.keypoints_voxel), transform


def rigid(space: Space, shift: float) -> np.ndarray:
    """A turn about the middle of the grid and a shift (mm) along every axis."""
    matrix = np.eye(space.ndim + 1)
    matrix[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    matrix[:-1, -1] = space.centre - matrix[:-1, :-1] @ space.centre + shift
    return matrix


def test_a_case_matches_itself(shape, rotated_space):
    case = case_on(rotated_space(shape), 0)
    identity = Transform.identity(len(shape))
    truth = FieldMap(np.zeros((len(shape), *shape), np.float32), case.image.space)
    result = evaluate_pair(fixed=case, moving=case, transform=identity, aligned=identity, truth=truth)
    metrics = result["metrics"]
    assert {metrics[f"dice_{stage}"] for stage in ("header", "aligned", "after")} == {1.0}
    assert metrics["ncc_after"] == pytest.approx(1)
    for name in ("hd95_mm_after", "asd_mm_after", "tre_mm_after", "epe_after", "epe_mm_aligned", "sdlogj", "folding_percent", "ndv_percent", "grad_l2"):
        assert metrics[name] == pytest.approx(0, abs=1e-5), name


def test_the_three_stages_are_told_apart(shape, rotated_space):
    """Header alone, an incomplete alignment, and the exact map between two oblique anisotropic grids."""
    fixed = case_on(rotated_space(shape), 0)
    moving, exact = moved(fixed, rigid(fixed.image.space, 3.0))
    partial = Transform.affine(rigid(fixed.image.space, 1.8))
    result = evaluate_pair(fixed=fixed, moving=moving, transform=exact, aligned=partial, truth=exact.sampled_on(fixed.image.space))
    metrics = result["metrics"]
    assert metrics["dice_after"] == 1
    assert metrics["hd95_mm_after"] == 0
    assert metrics["dice_header"] < metrics["dice_aligned"] < 1
    assert metrics["ncc_header"] < metrics["ncc_aligned"] < metrics["ncc_after"]
    # the alignment is 1.2 mm off along every axis
    off = 1.2 * math.sqrt(len(shape))
    assert metrics["tre_mm_aligned"] == pytest.approx(off)
    assert metrics["tre_median_mm_aligned"] == pytest.approx(off)
    assert metrics["tre_mm_after"] == pytest.approx(0, abs=1e-6)
    assert metrics["epe_mm_aligned"] == pytest.approx(off, rel=1e-4)
    assert metrics["epe_after"] == pytest.approx(0, abs=1e-5)
    assert metrics["epe_header"] > metrics["epe_aligned"] > 0
    assert metrics["folding_percent"] == 0


def test_dice_is_that_of_labels_that_simpleitk_warps(shape, rotated_space, smooth_field):
    fixed, moving = case_on(rotated_space(shape, 1), 0), case_on(rotated_space(shape, 2), 1)
    field = FieldMap(smooth_field(shape, 2.0)[0].numpy(), fixed.image.space)
    transform = Transform((field, *Transform.affine(rigid(fixed.image.space, 1.0)).stages), len(shape))
    result = evaluate_pair(fixed=fixed, moving=moving, transform=transform, aligned=Transform.identity(len(shape)), surface=False)
    images = [place(sitk.GetImageFromArray(case.labels.array[0]), case.labels.space) for case in (fixed, moving)]
    warped = sitk.Resample(images[1], images[0], to_itk(transform), sitk.sitkNearestNeighbor, 0)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(images[0], warped)
    for label in LABELS:
        assert result["labels"][str(label)]["dice_after"] == pytest.approx(overlap.GetDiceCoefficient(label), abs=0.01)
    assert "hd95_mm_after" not in result["metrics"]


def test_only_what_is_given_is_measured(shape, rotated_space):
    case = case_on(rotated_space(shape), 0)
    bare, identity = Case(case.image), Transform.identity(len(shape))
    result = evaluate_pair(fixed=bare, moving=case, transform=identity, aligned=identity)
    assert result["labels"] == {}
    assert set(result["metrics"]) == {"ncc_header", "ncc_aligned", "ncc_after", "sdlogj", "folding_count", "folding_percent", "ndv_percent", "grad_l2"}


def test_images_of_other_channels_are_not_correlated(shape, rotated_space):
    space, identity = rotated_space(shape), Transform.identity(len(shape))
    case = case_on(space, 0)
    colour = Case(Image(np.repeat(case.image.array, 3, axis=0), space), case.labels)
    result = evaluate_pair(fixed=colour, moving=case, transform=identity, aligned=identity, surface=False)
    assert "ncc_after" not in result["metrics"]
    assert result["metrics"]["dice_after"] == 1


def test_the_mask_of_the_fixed_image_restricts_similarity_and_truth(shape, rotated_space):
    space = rotated_space(shape)
    case, identity = case_on(space, 0), Transform.identity(len(shape))
    half = np.zeros((1, *shape), np.uint8)
    half[:, : shape[0] // 2] = 1
    other = Image(np.where(half, case.image.array, -3 * case.image.array), space)
    wrong = np.zeros((len(shape), *shape), np.float32)
    wrong[0] = np.where(half[0], 0, 5)
    masked = Case(case.image, mask=Image(half, space))
    arguments = {"moving": Case(other), "transform": identity, "aligned": identity, "truth": FieldMap(wrong, space)}
    assert evaluate_pair(fixed=masked, **arguments)["metrics"]["ncc_after"] == pytest.approx(1)
    assert evaluate_pair(fixed=masked, **arguments)["metrics"]["epe_after"] == pytest.approx(0, abs=1e-9)
    assert evaluate_pair(fixed=Case(case.image), **arguments)["metrics"]["ncc_after"] < 0.9
    assert evaluate_pair(fixed=Case(case.image), **arguments)["metrics"]["epe_after"] > 1
    # labels say where the anatomy is: what is wrong elsewhere is in `epe` alone
    labelled = evaluate_pair(fixed=Case(case.image, labels=Image(half, space)), **arguments)["metrics"]
    assert labelled["epe_labels_after"] == pytest.approx(0, abs=1e-9)
    assert labelled["epe_after"] > 1
    assert "epe_labels_after" not in evaluate_pair(fixed=Case(case.image), **arguments)["metrics"]


def test_a_label_pushed_out_of_the_image_is_lost_and_an_absent_one_is_nothing(rotated_space):
    space, far = rotated_space((17, 24)), np.eye(3)
    far[:2, 2] = 1000
    fixed = case_on(space, 0)
    labels = np.where(fixed.labels.array == 3, 0, fixed.labels.array)
    moving = Case(fixed.image, Image(labels, space))
    result = evaluate_pair(fixed=fixed, moving=moving, transform=Transform.affine(far), aligned=Transform.identity(2), labels=[1, 2, 3])
    assert result["labels_lost"] == [1, 2]
    assert result["metrics"]["dice_after"] == 0
    assert math.isnan(result["metrics"]["hd95_mm_after"])
    assert math.isnan(result["labels"]["3"]["dice_after"])
    assert result["labels"]["1"]["dice_aligned"] == 1


def test_labels_stored_as_floats_count_and_fractions_are_refused(rotated_space):
    space, identity = rotated_space((17, 24)), Transform.identity(2)
    case = case_on(space, 0)
    floats = Case(case.image, Image(case.labels.array.astype(np.float32), space))
    assert evaluate_pair(fixed=case, moving=floats, transform=identity, aligned=identity)["metrics"]["dice_after"] == 1
    halves = Case(case.image, Image(case.labels.array + 0.5, space))
    with pytest.raises(EvaluationError, match="whole numbers"):
        evaluate_pair(fixed=case, moving=halves, transform=identity, aligned=identity)


def test_a_volume_of_one_slice_can_be_evaluated(rotated_space):
    space, identity = rotated_space((1, 17, 24)), Transform.identity(3)
    case = case_on(space, 0)
    result = evaluate_pair(fixed=case, moving=case, transform=identity, aligned=identity)
    assert result["metrics"]["dice_after"] == 1
    assert math.isnan(result["metrics"]["folding_percent"])


def test_what_does_not_fit_is_refused(rotated_space):
    flat, identity = case_on(rotated_space((17, 24)), 0), Transform.identity(2)
    with pytest.raises(EvaluationError, match="moving image 3D"):
        evaluate_pair(fixed=flat, moving=case_on(rotated_space((5, 6, 7)), 0), transform=identity, aligned=identity)
    with pytest.raises(EvaluationError, match="found 5 in the fixed and 4"):
        evaluate_pair(fixed=flat, moving=Case(flat.image, keypoints_voxel=flat.keypoints_voxel[:4]), transform=identity, aligned=identity)


# -- summary ----------------------------------------------------------------------------------------------------------------------


def result_of(name: str, dice: dict[str, float], **metrics: float) -> dict:
    labels = {label: {"dice_aligned": value / 2, "dice_after": value} for label, value in dice.items()}
    finite = [value for value in dice.values() if not math.isnan(value)]
    mean = sum(finite) / len(finite) if finite else math.nan
    figures = {"dice_aligned": mean / 2, "dice_after": mean, **metrics}
    return {"name": name, "fixed": name[0], "moving": name[-1], "seconds": 2.0, "metrics": figures, "labels": labels, "labels_lost": []}


def test_means_are_over_labels_and_then_over_pairs():
    results = [result_of("a__b", {"1": 0.5, "2": 0.7}), result_of("a__c", {"1": 0.9, "2": math.nan})]
    summary = summarise(results, {"dataset": "Dataset001_X"})
    assert summary["mean"]["dice_after"] == pytest.approx((0.6 + 0.9) / 2)
    assert summary["mean"]["dice_aligned"] == pytest.approx((0.6 + 0.9) / 4)
    assert summary["labels"]["1"] == {"dice_aligned": pytest.approx(0.35), "dice_after": pytest.approx(0.7), "pairs": 2}
    assert summary["labels"]["2"]["dice_after"] == pytest.approx(0.7)
    assert summary["labels"]["2"]["pairs"] == 1
    assert summary["counts"] == {"pairs": 2, "labels": 2, "labels_lost": 0}
    assert summary["mean"]["seconds"] == 2


def test_the_order_of_results_does_not_matter():
    results = [result_of(f"a__{letter}", {"1": value}) for letter, value in (("b", 0.2), ("c", 0.4), ("d", 0.9))]
    assert summarise(results, {}) == summarise(results[::-1], {})


def test_the_worst_are_the_lowest_scores_and_the_highest_errors():
    values = [float(value) for value in range(10)]
    assert worst_mean("dice_after", values) == pytest.approx((0 + 1 + 2) / 3)
    assert worst_mean("ncc_aligned", values) == pytest.approx(1)
    assert worst_mean("tre_mm_after", values) == pytest.approx(8)
    assert worst_mean("folding_percent", values) == pytest.approx(8)
    assert worst_mean("hd95_mm_after", [3.0, math.nan, math.inf]) == 3
    assert math.isnan(worst_mean("dice_after", [math.nan]))


def test_a_figure_that_some_pairs_lack_is_the_mean_of_those_that_have_it():
    summary = summarise([result_of("a__b", {"1": 0.5}, tre_mm_after=3.0), result_of("a__c", {"1": 0.5})], {})
    assert summary["mean"]["tre_mm_after"] == 3


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    result = result_of("a__b", {"1": 0.5, "2": math.nan}, ndv_percent=math.nan)
    result["labels"]["1"]["hd95_mm_after"] = math.inf
    write_summary(tmp_path / "summary.json", summarise([result], {}))
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["labels"]["2"]["dice_after"] is None
    assert content["mean"]["ndv_percent"] is None
    assert content["pairs"][0]["labels"]["1"]["hd95_mm_after"] is None
    assert content["mean"]["dice_after"] == 0.5


def test_the_table_says_the_means():
    results = [result_of("a__b", {"1": 0.5}, folding_percent=0.25, epe_aligned=2.0, epe_after=0.75)]
    results[0]["labels_lost"] = [1]
    text = table(summarise(results, {}))
    line = next(line for line in text.splitlines() if line.startswith("Dice"))
    assert line.split() == ["Dice", "-", "0.2500", "0.5000", "0.5000"]
    assert "0.750" in text
    assert "folding (%)" in text
    assert "TRE" not in text
    assert "1 times a label had nothing left" in text
