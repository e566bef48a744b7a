"""Cross-validations joined and compared, on predictions made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnreg.cli import accumulate_crossval_results, find_best_configuration
from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import NnRegError
from nnreg.evaluation.dense_prediction.crossval import accumulate
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.inference.dense_prediction.probabilities import write_probabilities

NAME = "Dataset006_Joined"
SPEC = DatasetSpec({"0": "MR"}, 4, ".nii.gz", labels={"background": 0, "a": 1, "b": 2}, task="dense_prediction")
SPACE = Space.plain((6, 14, 9), (2.0, 1.0, 1.0))
CASES = ("c0", "c1", "c2", "c3")
FOLDS = {"0": CASES[:2], "1": CASES[2:]}


def truth_of(case):
    truth = np.zeros(SPACE.shape, np.uint8)
    start = CASES.index(case)
    truth[1:4, 1:5, start : start + 3], truth[2:5, 9:13, 2:6] = 1, 2
    return truth


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "nnReg_raw" / NAME
    for case in CASES:
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", np.ones((1, *SPACE.shape), np.int16), SPACE)
        write_image(folder / "labelsTr" / f"{case}.nii.gz", truth_of(case)[None], SPACE)
    SPEC.write(folder / "dataset.json")
    return RawDataset.open(folder)


def model(tmp_path, configuration, mistaken, *, sure, probabilities=True):
    """A trained model whose validations are right but for the voxels where `mistaken`, which it takes for background, less or more `sure`."""
    folder = tmp_path / "nnReg_results" / NAME / f"nnRegTrainer__nnRegPlans__{configuration}"
    SPEC.write(folder / "dataset.json")
    content = {"configurations": {}}
    (folder / "plans.json").write_text(json.dumps(content))
    for fold, cases in FOLDS.items():
        for case in cases:
            predicted = np.where(mistaken, 0, truth_of(case))
            where = folder / f"fold_{fold}" / "validation_raw"
            write_image(where / f"{case}.nii.gz", predicted[None].astype(np.uint8), SPACE)
            if probabilities:
                confidence = np.where(mistaken, sure, 0.9)
                classes = np.stack([np.where(predicted == label, confidence, (1 - confidence) / 2) for label in (0, 1, 2)])
                write_probabilities(where / f"{case}.npz", iter(classes), classes.shape)
    return folder


HALF = np.indices(SPACE.shape)[1] % 2 == 0
OTHER_HALF = ~HALF & (np.indices(SPACE.shape)[0] % 2 == 0)


def best(tmp_path, *more):
    configurations = ["-c", "2d", "3d_fullres"]
    command = [NAME[7:10], *configurations, "-f", "0", "1", "-np", "1", "-q", "--workspace", str(tmp_path), *more]
    assert find_best_configuration.main(command) == 0
    results = tmp_path / "nnReg_results" / NAME
    return json.loads((results / "inference_information.json").read_text()), (results / "inference_instructions.txt").read_text()


def test_two_models_that_are_wrong_in_different_places_win_together(tmp_path, raw):
    """Where one errs it is unsure, so the other decides."""
    model(tmp_path, "2d", HALF, sure=0.5)
    model(tmp_path, "3d_fullres", OTHER_HALF, sure=0.5)
    information, instructions = best(tmp_path)
    names = list(information["all_results"])
    assert len(names) == 3
    assert information["best_model_or_ensemble"]["result_on_crossval_pre_pp"] == information["all_results"][names[2]] == 1
    assert [one["configuration"] for one in information["best_model_or_ensemble"]["selected_model_or_models"]] == ["2d", "3d_fullres"]
    assert instructions.count("nnreg_predict") == instructions.count("--save_probabilities") == 2
    assert "nnreg_ensemble -i OUTPUT_FOLDER_MODEL_1 OUTPUT_FOLDER_MODEL_2 -o OUTPUT_FOLDER" in instructions
    joined = tmp_path / "nnReg_results" / NAME / "ensembles" / names[2]
    for case in CASES:
        np.testing.assert_array_equal(read_image(joined / f"{case}.nii.gz").array[0], truth_of(case))


def test_among_equals_the_simpler_one_wins(tmp_path, raw):
    for configuration in ("2d", "3d_fullres"):
        model(tmp_path, configuration, HALF, sure=0.9)
    information, instructions = best(tmp_path)
    assert [one["configuration"] for one in information["best_model_or_ensemble"]["selected_model_or_models"]] == ["2d"]
    assert "--save_probabilities" not in instructions
    assert "-f 0 1" in instructions
    assert len(set(information["all_results"].values())) == 1


def test_without_probabilities_no_ensemble_is_tried_and_it_is_said(tmp_path, raw, capsys):
    model(tmp_path, "2d", HALF, sure=0.5)
    model(tmp_path, "3d_fullres", OTHER_HALF, sure=0.5, probabilities=False)
    information, _ = best(tmp_path)
    assert len(information["all_results"]) == 2
    assert "--npz" in capsys.readouterr().out


def test_postprocessing_is_found_on_the_joined_folds(tmp_path, raw):
    folder = model(tmp_path, "2d", np.zeros(SPACE.shape, bool), sure=0.9)
    model(tmp_path, "3d_fullres", HALF, sure=0.9)
    for fold, cases in FOLDS.items():
        for case in cases:
            stray = truth_of(case)
            stray[5, 0, 8] = 2
            write_image(folder / f"fold_{fold}" / "validation_raw" / f"{case}.nii.gz", stray[None], SPACE)
    information, _ = best(tmp_path, "--disable_ensembling")
    found = information["best_model_or_ensemble"]
    assert found["result_on_crossval_pre_pp"] < found["result_on_crossval_post_pp"] == 1
    steps = json.loads((folder / "crossval_results_folds_0_1" / "postprocessing.json").read_text())["steps"]
    assert steps == [{"name": "keep_largest_component", "labels": [2]}]
    assert found["postprocessing_file"] == str(folder / "crossval_results_folds_0_1" / "postprocessing.json")


def test_what_a_fold_lacks_is_named(tmp_path, raw):
    folder = model(tmp_path, "2d", HALF, sure=0.9)
    assert accumulate_crossval_results.main(["-d", "6", "-c", "2d", "-f", "0", "1", "-np", "1", "-q", "--workspace", str(tmp_path)]) == 0
    with pytest.raises(NnRegError, match=r"fold_2.*nnreg_train \.\.\. --val"):
        accumulate(folder, raw, ("0", "2"))
    again = folder / "fold_1" / "validation_raw" / "c0.nii.gz"
    write_image(again, truth_of("c0")[None], SPACE)
    with pytest.raises(NnRegError, match="'c0' was validated in fold_0 too"):
        accumulate(folder, raw, ("0", "1"))
    # left by an earlier split: the validation names its own cases
    (again.parent / "prediction.json").write_text(json.dumps({"task": "dense_prediction", "cases": [{"name": case} for case in FOLDS["1"]]}))
    assert list(accumulate(folder, raw, ("0", "1")).label_maps) == list(CASES)
