"""Bad input, command by command: one line that names file or key and the remedy, exit code 2, no traceback, nothing written.

Tests often run as root, who may write everywhere: where a folder should be that cannot be written there is a file, which nobody can write into.
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import Tiny

from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image

Spoil = Callable[[Tiny], object]


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with size and time of change; an empty folder holds no output."""
    return {name: seen for name, seen in tiny.tree(root).items() if seen != (-1, -1)}


def refused(capfd: pytest.CaptureFixture[str], place: Tiny, command: str, arguments: list[object], words: tuple[str, ...]) -> None:
    before = files(place.root)
    capfd.readouterr()
    code = importlib.import_module(f"nnreg.cli.{command}").main([str(argument) for argument in arguments])
    error = capfd.readouterr().err
    lines = error.strip().splitlines()
    assert code == 2, error
    assert "Traceback" not in error
    if command == "verify_dataset" and not lines[0].startswith("nnreg_"):
        assert "1 problem" in lines.pop()  # the command lists every problem, then counts them
    else:
        assert lines[0].startswith(f"nnreg_{command}: ")
    assert len(lines) == 1, error
    for word in words:
        assert word in lines[0], error
    assert files(place.root) == before


def arguments_of(command: str, place: Tiny) -> list[object]:
    """A call that would succeed if the dataset were sound."""
    if command == "verify_dataset":
        return ["-d", place.id, "-np", "1", "-q", *place.where]
    if command == "plan_experiment":
        return ["-d", place.id, *place.where]
    return ["-d", place.id, *tiny.QUIET, *place.where]


# -- raw datasets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A sound raw dataset of three listed pairs and two channels, with labels; measured, but not planned."""
    from nnreg.cli import extract_fingerprint

    place = Tiny(tmp_path_factory.mktemp("two_channels"), "Dataset005_Two", "2d")
    grids = dict.fromkeys(("u", "v", "w"), tiny.oblique_space((20, 23), 5))
    pairs = [{"fixed": "u", "moving": "v"}, {"fixed": "w", "moving": "v"}]
    tiny.write_dataset(place.raw, grids, channel_names={"0": "T1", "1": "T2"}, pairing="pairs", pairs=pairs)
    for case in grids:
        first = read_image(place.raw / "imagesTr" / f"{case}_0000.nii.gz")
        write_image(place.raw / "imagesTr" / f"{case}_0001.nii.gz", 500 - first.array, first.space)
    tiny.succeeded(extract_fingerprint.main, "-d", place.id, *tiny.QUIET, *place.where)
    return place


def spec(place: Tiny, **changes: object) -> None:
    path = place.raw / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def missing(name: str) -> Spoil:
    return lambda place: (place.raw / "imagesTr" / name).unlink()


def not_a_number(name: str) -> Spoil:
    def spoil(place: Tiny) -> None:
        image = read_image(place.raw / name)
        broken = image.array.astype(np.float32)
        broken[0, 2, 3] = np.nan
        write_image(place.raw / name, broken, image.space)

    return spoil


def truncated(name: str) -> Spoil:
    def spoil(place: Tiny) -> None:
        path = place.raw / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


def truncated_inside(name: str) -> Spoil:
    """A whole gzip file of half an image."""

    def spoil(place: Tiny) -> None:
        path = place.raw / name
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content[: len(content) // 2]))

    return spoil


def other_label_shape(place: Tiny) -> None:
    write_image(place.raw / "labelsTr" / "v.nii.gz", np.zeros((1, 9, 11), np.int16), Space.plain((9, 11)))


def unknown_key(place: Tiny) -> None:
    spec(place, pairng="pairs")


def no_such_case(place: Tiny) -> None:
    spec(place, pairs=[{"fixed": "u", "moving": "vv"}])


SPOILT = {
    "first channel missing": (missing("v_0000.nii.gz"), ("v_0000.nii.gz", "Add it")),
    "second channel missing": (missing("v_0001.nii.gz"), ("v_0001.nii.gz", "Add it")),
    "label of another shape": (other_label_shape, ("labelsTr/v.nii.gz",)),
    "NaN": (not_a_number("imagesTr/v_0001.nii.gz"), ("imagesTr/v_000", "NaN")),
    "unknown key": (unknown_key, ("dataset.json", "pairng", "did you mean 'pairing'")),
    "pair without a case": (no_such_case, ("dataset.json", "pairs[0].moving", "'vv'", "did you mean 'v'")),
    "truncated": (truncated("imagesTr/v_0000.nii.gz"), ("v_0000.nii.gz",)),
    "truncated inside": (truncated_inside("imagesTr/v_0000.nii.gz"), ("v_0000.nii.gz",)),
    "truncated label": (truncated("labelsTr/v.nii.gz"), ("labelsTr/v.nii.gz",)),
}
LABELS = {"label of another shape", "truncated label"}
UNREAD = {"label of another shape", "truncated label", "NaN", "truncated", "truncated inside"}  # by a command that opens no image


@pytest.mark.parametrize("what", SPOILT)
def test_verify_dataset_names_it(two_channels, tmp_path, capfd, what):
    spoil, words = SPOILT[what]
    place = two_channels.copy(tmp_path)
    spoil(place)
    refused(capfd, place, "verify_dataset", arguments_of("verify_dataset", place), words)


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("command", ["extract_fingerprint", "plan_and_preprocess"])
def test_commands_that_verify_first_name_it(two_channels, tmp_path, capfd, command, what):
    spoil, words = SPOILT[what]
    place = two_channels.copy(tmp_path)
    spoil(place)
    refused(capfd, place, command, [*arguments_of(command, place), "--verify_dataset_integrity"], words)


@pytest.mark.parametrize("what", sorted(set(SPOILT) - LABELS))
@pytest.mark.parametrize("command", ["extract_fingerprint", "plan_and_preprocess"])
def test_commands_that_read_images_name_it(two_channels, tmp_path, capfd, command, what):
    spoil, words = SPOILT[what]
    place = two_channels.copy(tmp_path)
    spoil(place)
    refused(capfd, place, command, [*arguments_of(command, place), "--clean"], words)


@pytest.mark.parametrize("what", sorted(set(SPOILT) - UNREAD))
def test_planning_names_it(two_channels, tmp_path, capfd, what):
    spoil, words = SPOILT[what]
    place = two_channels.copy(tmp_path)
    spoil(place)
    # a missing file is a change since the fingerprint was made, which is the remedy that is given
    refused(capfd, place, "plan_experiment", arguments_of("plan_experiment", place), ("nnreg_extract_fingerprint",) if "channel" in what else words)


@pytest.mark.parametrize("what", sorted(LABELS))
@pytest.mark.parametrize("command", ["plan_experiment", "preprocess"])
def test_labels_that_were_changed_since_they_were_measured_are_told(two_channels, tmp_path, capfd, command, what):
    from nnreg.cli import plan_experiment

    spoil, _ = SPOILT[what]
    place = two_channels.copy(tmp_path)
    tiny.succeeded(plan_experiment.main, *arguments_of("plan_experiment", place))
    spoil(place)
    refused(capfd, place, command, arguments_of(command, place), ("have changed",))


@pytest.mark.parametrize("command", ["extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess"])
def test_a_workspace_that_cannot_be_written_is_told(two_channels, tmp_path, capfd, command):
    place = two_channels.copy(tmp_path)
    shutil.rmtree(place.preprocessed)
    place.preprocessed.write_text("a file where the folder of the dataset should be")
    refused(capfd, place, command, arguments_of(command, place), (str(place.preprocessed), "Choose another output folder"))


def test_a_dataset_that_does_not_exist_is_told_by_every_command(two_channels, tmp_path, capfd):
    for command in ("verify_dataset", "extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess"):
        arguments = [argument if argument != two_channels.id else "77" for argument in arguments_of(command, two_channels)]
        refused(capfd, two_channels, command, arguments, ("dataset 77", two_channels.dataset))


def test_preprocess_wants_plans_made_for_this_dataset(plane, tmp_path, capfd):
    place = plane.copy(tmp_path)
    another_dataset(place.preprocessed / "nnRegPlans.json")
    refused(capfd, place, "preprocess", arguments_of("preprocess", place), ("nnRegPlans.json", "Dataset008_Other", place.dataset, "nnreg_plan_experiment"))


def test_planning_wants_a_fingerprint_made_for_this_dataset(two_channels, tmp_path, capfd):
    place = two_channels.copy(tmp_path)
    another_dataset(place.preprocessed / "dataset_fingerprint.json")
    words = ("dataset_fingerprint.json", "Dataset008_Other", place.dataset, "nnreg_extract_fingerprint")
    refused(capfd, place, "plan_experiment", arguments_of("plan_experiment", place), words)


def raw_is_incomplete(place: Tiny) -> None:
    for case in json.loads((place.preprocessed / "splits_final.json").read_text())[2]["val"]:
        (place.raw / "imagesTr" / f"{case}_0000.nii.gz").unlink()


def another_dataset(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dataset_name": "Dataset008_Other"}))


# -- synthesize and demo ----------------------------------------------------------------------------------------------


def test_synthesize_and_demo_need_a_folder_they_can_write(tmp_path, capfd):
    place = Tiny(tmp_path, "Dataset900_Ellipsoids", "2d")
    (tmp_path / "file").write_text("x")
    refused(capfd, place, "synthesize", ["-d", "900", "--workspace", tmp_path / "file", "-q"], (str(tmp_path / "file"), "folder"))
    refused(capfd, place, "demo", ["-o", tmp_path / "file"], (str(tmp_path / "file"), "folder"))


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--shape", "4", "4"], ("image_size", "at least 8")), (["--pairs", "0"], ("0 pairs",)), (["--name", "../x"], ("'../x'", "letters"))],
)
def test_synthesize_refuses_what_cannot_be_made(tmp_path, capfd, options, words):
    refused(capfd, Tiny(tmp_path, "Dataset900_Ellipsoids", "2d"), "synthesize", ["-d", "900", "--workspace", tmp_path, "-q", *options], words)


# -- training ---------------------------------------------------------------------------------------------------------


def train_arguments(place: Tiny, fold: str = "0", configuration: str = "2d", *more: object) -> list[object]:
    return [place.id, configuration, fold, "--epochs", "1", "--iterations_per_epoch", "1", "-device", "cpu", "--quiet", *place.where, *more]


@pytest.mark.parametrize(
    ("fold", "configuration", "more", "words"),
    [
        ("9", "2d", [], ("fold 9", "splits_final.json", "0, 1, 2, 3", "all")),
        ("some", "2d", [], ("'some'", "0-4")),
        ("2", "3d_fullres", [], ("3d_fullres", "2d")),
        ("2", "2d", ["-tr", "nnRegTrainr"], ("nnRegTrainr", "did you mean 'nnRegTrainer'")),
        ("2", "2d", ["-tr", "no.such.module:Trainer"], ("no.such.module:Trainer", "importable")),
        ("2", "2d", ["-p", "nnRegPlan"], ("nnRegPlan.json", "did you mean 'nnRegPlans'")),
        ("2", "2d", ["--set", "learning_rat=1"], ("learning_rat", "did you mean 'learning_rate'")),
        ("2", "2d", ["--set", "optimizer=adm"], ("adm", "did you mean 'adam'")),
        ("2", "2d", ["--set", "epochs"], ("'epochs'", "key=value")),
        ("2", "2d", ["--epochs", "0"], ("--epochs 0", "1 or more")),
        ("2", "2d", ["-device", "cuda:99"], ("cuda:99", "-device cpu")),
        ("2", "2d", ["--val"], ("checkpoint_final.pth", "Train this fold first")),
        ("2", "2d", ["-pretrained_weights", "nowhere.pth"], ("nowhere.pth",)),
        ("0", "2d", [], ("fold_0", "-c")),
    ],
)
def test_train_names_what_is_wrong_with_a_call(plane, capfd, fold, configuration, more, words):
    refused(capfd, plane, "train", train_arguments(plane, fold, configuration, *more), words)


def spoil_json(path: str, **changes: object) -> Spoil:
    def spoil(place: Tiny) -> None:
        found = place.preprocessed / path
        found.write_text(json.dumps(json.loads(found.read_text()) | changes))

    return spoil


def results_is_a_file(place: Tiny) -> None:
    place.results.rename(place.root / "elsewhere")
    place.results.write_text("a file where the results of the dataset should be")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_json("nnRegPlans.json", dataset_name="Dataset008_Other"), ("nnRegPlans.json", "Dataset008_Other", "nnreg_plan_and_preprocess -d 004")),
        (spoil_json("nnRegPlans.json", recomended="2d"), ("nnRegPlans.json", "recomended", "did you mean 'recommended'")),
        (spoil_json("dataset.json", pairng="all"), ("dataset.json", "pairng", "did you mean 'pairing'")),
        (results_is_a_file, ("nnReg_results",)),
        (raw_is_incomplete, ("nnReg_raw", "has no case")),
    ],
)
def test_train_names_what_is_wrong_with_the_files(plane, tmp_path, capfd, spoil, words):
    place = plane.copy(tmp_path)
    spoil(place)
    refused(capfd, place, "train", train_arguments(place, "2"), words)


# -- prediction -------------------------------------------------------------------------------------------------------


def predict_arguments(place: Tiny, *more: object) -> list[object]:
    images = ["-i", place.raw / "imagesTs", "-o", place.root / "out", "-d", place.id, "-c", "2d", "-device", "cpu", "--no_pictures"]
    return [*images, *place.where, *more]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-f", "9"], ("fold_9",)),
        (["-chk", "checkpoint_lost.pth"], ("checkpoint_lost.pth", "another checkpoint")),
        (["-tr", "nnRegTrainr"], ("nnRegTrainr", "did you mean 'nnRegTrainer'")),
        (["-tr", "sgd"], ("sgd__nnRegPlans__2d", "Train first")),
        (["-c", "3d_fullres"], ("3d_fullres", "Train first")),
        (["--fixed", "s4_c"], ("s4_c", "s4_a")),
        (["--fixed", "s4_a", "--moving", "s4_c"], ("s4_c",)),
        (["--moving", "s4_a"], ("--moving", "--fixed")),
        (["--learn2reg"], ("--learn2reg",)),
        (["-m", "nowhere"], ("nowhere", "Train first")),
    ],
)
def test_predict_names_what_is_wrong_with_a_call(plane, tmp_path, capfd, more, words):
    place = plane.copy(tmp_path)
    refused(capfd, place, "predict", predict_arguments(place, *more), words)


def pair_that_names_no_case(place: Tiny) -> list[object]:
    (place.root / "pairs.json").write_text(json.dumps([["s4_a", "nobody"]]))
    return ["--pairs", place.root / "pairs.json"]


def rename_channel(place: Tiny) -> None:
    folder = place.raw / "imagesTs"
    (folder / "s4_b_0000.nii.gz").rename(folder / "s4_b_0001.nii.gz")


def model_of_another_dataset(place: Tiny) -> None:
    another_dataset(next(place.root.glob("nnReg_results/*/nnRegTrainer__nnRegPlans__2d/plans.json")))


def output_is_a_file(place: Tiny) -> None:
    (place.root / "out").write_text("x")


def other_test_label_shape(place: Tiny) -> None:
    write_image(place.raw / "labelsTs" / "s4_b.nii.gz", np.zeros((1, 9, 11), np.int16), Space.plain((9, 11)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (rename_channel, ("s4_b", "channel")),
        (not_a_number("imagesTs/s4_b_0000.nii.gz"), ("s4_b_0000.nii.gz", "NaN")),
        (truncated("imagesTs/s4_b_0000.nii.gz"), ("s4_b_0000.nii.gz",)),
        (truncated_inside("imagesTs/s4_b_0000.nii.gz"), ("s4_b_0000.nii.gz",)),
        (truncated("labelsTs/s4_b.nii.gz"), ("labelsTs/s4_b.nii.gz",)),
        (other_test_label_shape, ("labelsTs/s4_b.nii.gz",)),
        (output_is_a_file, ("out", "Choose another output folder")),
        (pair_that_names_no_case, ("nobody", "s4_a")),
        (model_of_another_dataset, ("plans.json", "was made for")),
    ],
)
def test_predict_names_what_is_wrong_with_the_files(plane, tmp_path, capfd, spoil, words):
    place = plane.copy(tmp_path)
    more = spoil(place)
    chosen = more if isinstance(more, list) else ["--fixed", "s4_a", "--moving", "s4_b"]
    refused(capfd, place, "predict", predict_arguments(place, *chosen), words)


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (missing, "{}_0000.nii.gz", ("prediction.json", "does not have")),
        (not_a_number, "imagesTr/{}_0000.nii.gz", ("NaN",)),
        (truncated, "imagesTr/{}_0000.nii.gz", ()),
        (truncated, "labelsTr/{}.nii.gz", ()),
        (lambda name: unknown_key, "dataset.json", ("pairng", "did you mean 'pairing'")),
    ],
)
def test_evaluate_names_what_is_wrong_with_the_dataset(plane, tmp_path, capfd, spoil, name, words):
    place = plane.copy(tmp_path)
    predictions = place.fold(0) / "validation_raw"
    case = json.loads((predictions / "prediction.json").read_text())["pairs"][0]["moving"]
    spoil(name.format(case))(place)
    named = (case,) if spoil is missing else (name.format(case),)
    refused(capfd, place, "evaluate", [predictions, "-d", place.id, "-np", "1", *place.where], named + words)
