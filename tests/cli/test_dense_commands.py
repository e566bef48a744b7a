"""A tiny segmentation by the commands, as users run them: train, predict, evaluate, choose the best, postprocess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny as tiny_datasets

from nnreg.cli import apply_postprocessing, evaluate, find_best_configuration, plan_and_preprocess, predict, train
from nnreg.files import read_json
from nnreg.imageio import read_image

NAME = "Dataset032_Flat"
SMALL = ("--epochs", "1", "--iterations_per_epoch", "2", "--set", "validation_iterations=1", "--set", "architecture.base_features=4", "--set", "batch_size=2")


class Flat:
    """A workspace with one 2D dataset, trained on two folds with probabilities."""

    def __init__(self, root: Path) -> None:
        self.root, self.where = root, ["--workspace", str(root)]
        self.raw, self.results = root / "nnReg_raw" / NAME, root / "nnReg_results" / NAME
        self.model = self.results / "nnRegTrainer__nnRegPlans__2d"

    def predict(self, output: Path, *more: str) -> int:
        given = ["-i", str(self.raw / "imagesTs"), "-o", str(output), "-d", "32", "-device", "cpu", "-q", "--no_pictures"]
        return predict.main([*given, *more, *self.where])


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Flat:
    result = Flat(tmp_path_factory.mktemp("flat_dense"))
    tests = tiny_datasets.spaces((20, 24), ["x", "y"], first=50)
    tiny_datasets.write_dataset(result.raw, tiny_datasets.spaces((20, 24), list("abcde")), test_spaces=tests, task="dense_prediction")
    folds = [{"train": list("cde"), "val": list("ab")}, {"train": list("ab"), "val": list("cde")}]
    (result.raw / "splits_final.json").write_text(json.dumps(folds))
    tiny_datasets.succeeded(plan_and_preprocess.main, "-d", "32", "-np", "1", "--no_pbar", *result.where)
    tiny_datasets.succeeded(train.main, "32", "2d", "0-1", *SMALL, "--npz", "-device", "cpu", "-q", *result.where)
    return result


def test_a_fold_keeps_its_validation(flat: Flat) -> None:
    folder = flat.model / "fold_1" / "validation_raw"
    assert {path.name for path in folder.glob("?.n*")} == {f"{case}.{ending}" for case in "cde" for ending in ("nii.gz", "npz")}
    summary = read_json(flat.model / "fold_1" / "validation_summary.json")
    assert [case["case"] for case in summary["metric_per_case"]] == list("cde")
    assert set(summary["mean"]) == {"3", "7"}


def test_folds_are_averaged_and_evaluated(flat: Flat, tmp_path: Path) -> None:
    assert flat.predict(tmp_path / "both", "--save_probabilities") == 0
    for fold in "01":
        assert flat.predict(tmp_path / fold, "-c", "2d", "-f", fold, "--save_probabilities", "--disable_tta", "-npp", "0", "-nps", "0") == 0
    assert evaluate.main([str(tmp_path / "both"), "-d", "32", "-np", "1", "-q", *flat.where]) == 0
    summary = read_json(tmp_path / "both" / "summary.json")
    assert [case["case"] for case in summary["metric_per_case"]] == ["x", "y"]
    overlap = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref", "Precision", "Recall", "Accuracy"}
    assert overlap | {"HD95", "ASD"} == set(summary["mean"]["3"])
    for case in "xy":
        native = read_image(flat.raw / "imagesTs" / f"{case}_0000.nii.gz").space
        assert read_image(tmp_path / "both" / f"{case}.nii.gz").space.same_as(native)
        assert np.load(tmp_path / "0" / f"{case}.npz")["probabilities"].shape == (3, *native.shape)


def test_the_best_configuration_says_what_to_run(flat: Flat, tmp_path: Path) -> None:
    tiny_datasets.succeeded(find_best_configuration.main, "32", "-f", "0", "1", "-np", "1", "-q", *flat.where)
    information = read_json(flat.results / "inference_information.json")
    assert information["best_model_or_ensemble"]["selected_model_or_models"] == [
        {"configuration": "2d", "trainer": "nnRegTrainer", "plans_identifier": "nnRegPlans"}
    ]
    commands = [line.split() for line in (flat.results / "inference_instructions.txt").read_text().splitlines() if line.startswith("nnreg_")]
    places = {"INPUT_FOLDER": str(flat.raw / "imagesTs"), "OUTPUT_FOLDER": str(tmp_path / "out"), "OUTPUT_FOLDER_PP": str(tmp_path / "better")}
    told = {
        "nnreg_predict": (predict.main, ["-device", "cpu", "-q", "--no_pictures", *flat.where]),
        "nnreg_apply_postprocessing": (apply_postprocessing.main, ["-np", "1", "-q"]),
    }
    for command in commands:
        main, more = told[command[0]]
        assert main([*(places.get(word, word) for word in command[1:]), *more]) == 0
    assert sorted(path.name for path in (tmp_path / "better").glob("*.nii.gz")) == ["x.nii.gz", "y.nii.gz"]


@pytest.mark.parametrize("option", [["--no_refinement"], ["--fixed", "x"], ["-l", "labels"]])
def test_options_of_registration_are_refused(flat: Flat, tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert flat.predict(tmp_path / "out", "-c", "2d", *option) == 2
    assert f"{option[0]}: belongs to the task registration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["-step_size", "0"], "-step_size 0"),
        (["-prev_stage_predictions", "somewhere"], "is no second stage"),
        (["-num_parts", "2", "-part_id", "2"], "-part_id 2"),
        (["-f", "7"], "fold_7"),
    ],
)
def test_options_that_make_no_sense_are_refused(flat: Flat, tmp_path: Path, option: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert flat.predict(tmp_path / "out", "-c", "2d", *option) == 2
    assert said in capsys.readouterr().err


def test_an_image_with_another_number_of_channels_is_refused(flat: Flat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = flat.raw / "imagesTs" / "x_0000.nii.gz"
    for channel in (0, 1):
        target = tmp_path / "images" / f"x_{channel:04d}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    assert predict.main(["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-m", str(flat.model), "-device", "cpu", "-q"]) == 2
    assert "trained with 1" in capsys.readouterr().err
