"""Label maps against the truth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nnreg.cli import evaluate_simple
from nnreg.errors import NnRegError
from nnreg.evaluation.dense_prediction import values as dense_values
from nnreg.evaluation.dense_prediction.case import evaluate_label_files, evaluate_labels, label_files
from nnreg.evaluation.dense_prediction.values import ValueMeasure
from nnreg.geometry import Space
from nnreg.imageio import Image, write_image
from nnreg.imageio.lazy import boxes


def image(array, **space):
    array = np.asarray(array, dtype=np.int16)
    return Image(array[None], Space.plain(array.shape, **space))


def wave(frequency):
    return np.sin(frequency * np.arange(729)).reshape(9, 9, 9)


def test_counts_are_nnunets():
    """Made with nnunetv2 2.8.1: TP, FP, FN, TN of these two masks."""
    found = evaluate_labels(reference=image(wave(0.3) > 0), prediction=image(wave(0.31) > 0), labels=[1])["1"]
    assert [found[name] for name in ("TP", "FP", "FN", "TN")] == [201, 163, 166, 199]
    assert found["Dice"] == pytest.approx(2 * 201 / (2 * 201 + 163 + 166))
    assert found["IoU"] == pytest.approx(201 / (201 + 163 + 166))
    assert (found["n_pred"], found["n_ref"]) == (364, 367)
    assert [found[name] for name in ("Precision", "Recall", "Accuracy")] == pytest.approx([201 / 364, 201 / 367, 400 / 729])


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 4)])
def test_every_label_is_counted_as_if_it_were_alone(shape):
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, shape), rng.integers(0, 6, shape)
    labels = [3, 1, 4, (1, 3), (2,), (4, 2, 1)]
    scores = evaluate_labels(reference=image(truth), prediction=image(found), labels=labels, ignore=2)
    scored = truth != 2
    for label in labels:
        values = label if isinstance(label, tuple) else (label,)
        one, other = np.isin(truth, values) & scored, np.isin(found, values) & scored
        counts = [(one & other).sum(), (~one & other).sum(), (one & ~other).sum(), (~one & ~other & scored).sum()]
        assert [scores[str(label)][name] for name in ("TP", "FP", "FN", "TN")] == counts


def test_a_label_that_is_nowhere_has_no_dice_and_is_in_no_mean(tmp_path):
    truth, found = np.zeros((4, 5), int), np.zeros((4, 5), int)
    truth[1], found[1, :3] = 1, 1
    for folder, array in (("truth", truth), ("found", found)):
        write_image(tmp_path / folder / "a.nii.gz", array[None].astype(np.int16), Space.plain((4, 5)))
    summary = evaluate_label_files(label_files(tmp_path / "truth"), label_files(tmp_path / "found"), labels=[1, 2])
    assert all(math.isnan(summary["mean"]["2"][name]) for name in ("Dice", "Precision", "Recall"))
    assert summary["foreground_mean"]["Dice"] == summary["mean"]["1"]["Dice"] == pytest.approx(6 / 8)
    assert set(summary["metric_per_case"][0]) >= {"metrics", "reference_file", "prediction_file"}


def test_surfaces_are_as_far_apart_as_the_masks_were_moved():
    truth, found = np.zeros((12, 12, 12), int), np.zeros((12, 12, 12), int)
    truth[2:6, 2:6, 2:6], found[4:8, 2:6, 2:6] = 1, 1
    scores = evaluate_labels(reference=image(truth, spacing=(3, 1, 1)), prediction=image(found, spacing=(3, 1, 1)), labels=[1], surface=True)["1"]
    assert scores["HD95"] == pytest.approx(6)
    assert 0 < scores["ASD"] < 6


def test_what_cannot_be_compared_is_named(tmp_path):
    write_image(tmp_path / "truth" / "a.nii.gz", np.ones((1, 4, 5), np.int16), Space.plain((4, 5)))
    write_image(tmp_path / "found" / "a.nii.gz", np.ones((1, 4, 5), np.int16), Space.plain((4, 5), (1.0, 2.0)))
    truth, found = label_files(tmp_path / "truth"), label_files(tmp_path / "found")
    with pytest.raises(NnRegError, match="lies elsewhere"):
        evaluate_label_files(truth, found, labels=[1])
    with pytest.raises(NnRegError, match="no labels of case 'a'"):
        evaluate_label_files({}, found, labels=[1])
    with pytest.raises(NnRegError, match="no prediction"):
        evaluate_label_files(truth, {}, labels=[1])


def test_two_folders_are_compared_by_the_command(tmp_path, capsys):
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        for folder in ("truth", "found"):
            write_image(tmp_path / folder / f"{name}.nii.gz", rng.integers(0, 3, (1, 6, 7, 5)).astype(np.uint8), Space.plain((6, 7, 5)))
    (tmp_path / "found" / "b.nii.gz").unlink()
    command = [str(tmp_path / "truth"), str(tmp_path / "found"), "-l", "1", "1,2", "-np", "1", "-q"]
    assert evaluate_simple.main(command) == 2
    assert "'b'" in capsys.readouterr().err
    assert evaluate_simple.main([*command, "--chill"]) == 0
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert list(summary["mean"]) == ["1", "(1, 2)"]
    assert [case["case"] for case in summary["metric_per_case"]] == ["a"]


@pytest.mark.parametrize("shape", [(13, 24, 17), (4, 26, 31), (23, 30)])
def test_values_by_parts_are_measured_as_whole(tmp_path, monkeypatch, shape):
    """Windows reach across the blocks; what is unknown, flat or equal is told as it is of the whole."""
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    truth, found = rng.normal(900, 3, (4, *shape)).astype(np.float32), rng.normal(900, 3, (4, *shape)).astype(np.float32)
    truth[1, ..., :3, :4] = np.nan
    truth[2], found[3] = 5, truth[3]
    paths = tmp_path / "truth.zarr", tmp_path / "found.zarr"
    for path, values in zip(paths, (truth, found), strict=True):
        write_image(path, values, Space.plain(shape))
    measure = ValueMeasure(4)
    whole = measure(*paths)
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    monkeypatch.setattr(dense_values, "boxes", lambda size, chunks, inside, most: boxes(size, (5, 7, 6)[-len(size) :], inside, 1))
    for key, figures in measure(*paths).items():
        assert figures == pytest.approx(whole[key], rel=1e-9, nan_ok=True)
    assert np.isnan(whole["channel 2"]["PSNR"])
    assert np.isinf(whole["channel 3"]["PSNR"])
    with pytest.raises(NnRegError, match="has 4 channels, the target 1"):
        ValueMeasure(1)(*paths)


@pytest.mark.parametrize(("value", "words"), [(0.5, "holds 0.5"), (np.nan, "NaN")])
def test_label_maps_that_are_no_whole_numbers_are_not_scored(tmp_path, capsys, value, words):
    for folder, worst in (("truth", 1.0), ("found", value)):
        array = np.ones((1, 4, 5, 6), np.float32)
        array[0, 0, 0, 0] = worst
        write_image(tmp_path / folder / "a.nii.gz", array, Space.plain((4, 5, 6)))
    assert evaluate_simple.main([str(tmp_path / "truth"), str(tmp_path / "found"), "-l", "1", "-np", "1", "-q"]) == 2
    assert words in capsys.readouterr().err
