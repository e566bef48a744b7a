"""nnreg_train, nnreg_predict and nnreg_evaluate on a tiny dataset, as users run them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import tree

from nnreg.cli import evaluate, plan_and_preprocess, predict, train
from nnreg.geometry import resample_image
from nnreg.geometry.itk import read_itk
from nnreg.imageio import read_image, write_image
from nnreg.training.configs import TrainerConfig
from nnreg.training.trainer.trainer import nnRegTrainer

SCRAMBLED = ["-chk", "checkpoint_scrambled.pth"]


class ConstantRate(nnRegTrainer):
    """As documentation/training.md shows it: a constant learning rate."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2), None


class Shift(torch.nn.Module):
    """A network of one's own: one learned displacement for all voxels."""

    def __init__(self, *, ndim: int, **planned: object) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(ndim))

    def forward(self, *, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        return [self.shift.reshape(1, -1, *(1,) * (fixed.ndim - 2)).expand(len(fixed), -1, *fixed.shape[2:])]


SHIFT = TrainerConfig(architecture=Shift, loss="mse", training={"optimizer": "sgd", "learning_rate": 0.5, "regularisation": ()})


def test_training_leaves_what_the_documentation_promises(plane):
    fold = plane.fold(0)
    for name in ("checkpoint_best.pth", "checkpoint_latest.pth", "checkpoint_final.pth", "progress.png", "debug.json", "training_log.txt"):
        assert (fold / name).stat().st_size > 0, name
    summary = json.loads((fold / "validation_summary.json").read_text())
    split = json.loads((plane.preprocessed / "splits_final.json").read_text())[0]
    held_out = split["val"]
    assert not {case.split("_")[0] for case in held_out} & {case.split("_")[0] for case in split["train"]}  # no subject on both sides
    assert {(pair["fixed"], pair["moving"]) for pair in summary["pairs"]} == {(a, b) for a in held_out for b in held_out if a != b}
    for pair in summary["pairs"]:
        assert (fold / "validation_raw" / pair["name"] / "transform.h5").is_file()
    model = plane.model()
    assert (model / "plans.json").read_text() == (plane.preprocessed / "nnRegPlans.json").read_text()
    assert (model / "dataset.json").is_file()


def test_dry_runs_name_pairs_folds_and_files(plane, tmp_path, capsys):
    place, there = ["--workspace", str(plane.root)], plane.fold(1).exists()
    images = str(plane.raw / "imagesTr")
    commands = (
        (predict, ["-i", images, "-o", str(tmp_path / "out"), "-d", plane.dataset, "-c", "2d"], tmp_path / "out" / "prediction.json"),
        (train, [plane.dataset, "2d", "1"], plane.fold(1)),
        (plan_and_preprocess, ["-d", plane.dataset], plane.preprocessed / "dataset_fingerprint.json"),
        (evaluate, [str(plane.fold(0) / "validation_raw"), "-d", plane.dataset], plane.fold(0) / "validation_raw" / "summary.json"),
    )
    for command, arguments, written in commands:
        assert command.main([*arguments, *place, "--dry_run", "json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert str(written) in [entry["path"] for entry in told["writes"]]
        assert told["reads"]
    assert not (tmp_path / "out").exists()
    assert plane.fold(1).exists() == there


def test_debug_json_holds_the_resolved_configuration(plane):
    debug = json.loads((plane.fold(0) / "debug.json").read_text())
    plans = json.loads((plane.preprocessed / "nnRegPlans.json").read_text())["configurations"]["2d"]
    assert debug["overrides"] == {"epochs": 2, "iterations_per_epoch": 2}
    assert debug["configuration"]["training"] == plans["training"] | debug["overrides"]
    assert (debug["trainer"], debug["fold"], debug["dataset"]) == ("nnRegTrainer", 0, plane.dataset)
    weights = torch.load(plane.fold(0) / "checkpoint_final.pth", weights_only=True)["network_weights"]
    unique = {value.data_ptr(): value.numel() for value in weights.values()}  # some weights have two names
    assert debug["parameters"] == sum(unique.values())


def test_predicting_training_cases_equals_the_validation_of_their_fold(plane, tmp_path):
    """The same pair through stored arrays (validation) and through its raw files (prediction)."""
    pair = json.loads((plane.fold(0) / "validation_summary.json").read_text())["pairs"][0]
    plane.predict(tmp_path, "-f", "0", "--fixed", pair["fixed"], "--moving", pair["moving"], images=plane.raw / "imagesTr")
    stored = read_image(plane.fold(0) / "validation_raw" / pair["name"] / "warped.nii.gz").array
    np.testing.assert_allclose(read_image(tmp_path / pair["name"] / "warped.nii.gz").array, stored, atol=1e-3 * np.ptp(stored))


def test_prediction_lists_its_pairs_and_the_evaluation_averages_them(plane, tmp_path):
    content = plane.predict(tmp_path, *SCRAMBLED)
    assert [pair["name"] for pair in content["pairs"]] == ["s4_a__s4_b", "s4_b__s4_a"]  # pairing 'groups': both orders of the subject
    assert content["dataset"] == plane.dataset
    assert evaluate.main([str(tmp_path), "-d", plane.id, "-np", "1", *plane.where]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["counts"]["pairs"] == len(content["pairs"])
    for name, mean in summary["mean"].items():
        if name == "seconds":
            continue
        values = [pair["metrics"][name] for pair in summary["pairs"]]
        assert mean == pytest.approx(sum(values) / len(values)), name
    for pair in summary["pairs"]:
        for name in ("dice_aligned", "dice_after", "hd95_mm_after"):
            scores = [label[name] for label in pair["labels"].values() if label[name] is not None and math.isfinite(label[name])]
            assert pair["metrics"][name] == pytest.approx(sum(scores) / len(scores)), name
    moved = {pair["name"]: pair["metrics"]["dice_after"] - pair["metrics"]["dice_aligned"] for pair in summary["pairs"]}
    assert any(abs(value) > 1e-3 for value in moved.values())  # a random network moves labels


def test_the_inverse_is_written_and_the_field_left_out_where_asked(plane, tmp_path):
    plane.predict(tmp_path, *SCRAMBLED, "--fixed", "s4_b", "--moving", "s4_a", "--inverse", "--no_field", "--method", "network")
    folder = tmp_path / "s4_b__s4_a"
    assert not list(folder.glob("field.*"))
    space = read_image(plane.image("s4_b")).space
    points = space.to_world(np.random.default_rng(0).uniform(4, np.array(space.shape) - 5, (20, 2)))
    forward, back = (read_itk(folder / name) for name in ("transform.h5", "inverse_transform.h5"))
    assert np.abs(forward.map_points(points) - points).max() > 1
    assert np.abs(back.map_points(forward.map_points(points)) - points).max() < 0.2  # a sixth of a voxel, of a rough field


def test_a_page_is_made_at_the_end_of_the_training_the_prediction_and_the_evaluation(plane, tmp_path):
    copy = plane.copy(tmp_path / "copy")
    given = ["-d", copy.id, *copy.where, "-q"]
    assert train.main([copy.id, copy.configuration, "0", "--val", "-device", "cpu", "-q", *copy.where]) == 0
    assert "Decisions and their reasons" in (copy.fold(0) / "report.html").read_text(encoding="utf-8")
    out = tmp_path / "out"
    options = ["-c", copy.configuration, "-device", "cpu", "--no_refinement", "--no_pictures"]
    assert predict.main(["-i", str(copy.raw / "imagesTs"), "-o", str(out), *options, *given]) == 0
    before = (out / "report.html").read_text(encoding="utf-8")
    assert "Means over all pairs" not in before
    assert evaluate.main([str(out), "-np", "1", "--no_surface", *given]) == 0
    after = (out / "report.html").read_text(encoding="utf-8")
    assert "Means over all pairs" in after
    assert "linear alignment" in after
    assert "pre_alignment" in after  # the plans of the model, from the workspace


def test_warped_labels_keep_their_values_and_lie_on_the_fixed_grid(plane, tmp_path):
    plane.predict(tmp_path, *SCRAMBLED)
    for fixed, moving in (("s4_a", "s4_b"), ("s4_b", "s4_a")):
        warped = read_image(tmp_path / f"{fixed}__{moving}" / "warped_labels.nii.gz")
        original = read_image(plane.label(moving))
        assert warped.array.dtype.kind in "iu"
        assert set(np.unique(warped.array)) == set(np.unique(original.array))
        assert warped.space.same_as(read_image(plane.image(fixed)).space)


def test_an_identity_network_leaves_the_alignment_alone(flat, tmp_path):
    """Heads of zero: the transform is the alignment, and the warped image is the moving one resampled through it."""
    content = torch.load(flat.fold("all") / "checkpoint_final.pth", weights_only=True)
    for key, value in content["network_weights"].items():
        if ".head." in key:
            value.zero_()
    twin = flat.copy(tmp_path / "twin")
    torch.save(content, twin.fold("all") / "checkpoint_final.pth")
    predicted = twin.predict(tmp_path / "out")
    for pair in predicted["pairs"]:
        folder = tmp_path / "out" / pair["name"]
        fixed = read_image(flat.image(pair["fixed"]))
        moving = read_image(flat.image(pair["moving"]))
        alignment = read_itk(folder / "alignment.h5")
        corners = fixed.space.corners()
        np.testing.assert_allclose(read_itk(folder / "transform.h5").map_points(corners), alignment.map_points(corners), atol=1e-6)
        expected = resample_image(moving.array, moving=moving.space, fixed=fixed.space, transform=alignment)
        np.testing.assert_allclose(read_image(folder / "warped.nii.gz").array, expected, atol=1e-3 * np.ptp(moving.array))
        assert np.abs(alignment.map_points(corners) - corners).max() > 1.0  # the images lie apart: there was something to align


def test_the_atlas_of_the_training_data_is_fixed_in_every_pair(flat, tmp_path):
    content = flat.predict(tmp_path, "-f", "all")
    assert {(pair["fixed"], pair["moving"]) for pair in content["pairs"]} == {("f1", "g0"), ("f1", "g1")}
    assert content["pairs"][0]["fixed_images"] == [flat.image("f1").name]


def test_pairs_can_be_chosen(plane, tmp_path):
    images = plane.raw / "imagesTr"
    (tmp_path / "pairs.json").write_text(json.dumps([{"fixed": "s0_a", "moving": "s1_b"}, ["s1_a", "s0_b"]]))
    content = plane.predict(tmp_path / "listed", "--pairs", tmp_path / "pairs.json", images=images)
    assert [pair["name"] for pair in content["pairs"]] == ["s0_a__s1_b", "s1_a__s0_b"]
    content = plane.predict(tmp_path / "one", "--fixed", "s4_b", "--moving", "s4_a")
    assert [pair["name"] for pair in content["pairs"]] == ["s4_b__s4_a"]
    content = plane.predict(tmp_path / "others", "--fixed", "s4_b")
    assert [pair["name"] for pair in content["pairs"]] == ["s4_b__s4_a"]


def test_the_field_of_an_ensemble_is_the_mean_of_its_folds(plane, tmp_path):
    fields = {}
    for name, folds in (("0", ["0"]), ("1", ["1"]), ("both", ["0", "1"]), ("default", [])):
        plane.predict(tmp_path / name, *SCRAMBLED, *(["-f", *folds] if folds else []), "--fixed", "s4_a", "--moving", "s4_b", "--field")
        fields[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "s4_a__s4_b" / "field.mha")))
    middle = tuple(slice(size // 4, -(size // 4)) for size in fields["0"].shape[:-1])  # around the working grid fields fade out, each at its own pace
    assert np.abs(fields["0"] - fields["1"])[middle].max() > 0.1
    np.testing.assert_allclose(fields["both"][middle], (fields["0"] + fields["1"])[middle] / 2, atol=1e-3)
    np.testing.assert_array_equal(fields["both"], fields["default"])  # all trained folds


def test_finished_pairs_are_kept_on_request(plane, tmp_path):
    first = plane.predict(tmp_path)
    done, lost = (tmp_path / pair["name"] / "transform.h5" for pair in first["pairs"])
    before = done.stat().st_mtime_ns
    lost.unlink()
    again = plane.predict(tmp_path, "--continue_prediction")
    assert done.stat().st_mtime_ns == before
    assert lost.is_file()
    assert [pair["name"] for pair in again["pairs"]] == [pair["name"] for pair in first["pairs"]]


def test_a_pair_whose_image_changed_is_not_kept(plane, tmp_path):
    twin = plane.copy(tmp_path / "twin")
    first = twin.predict(tmp_path / "out", "--fixed", "s4_a")
    (name,) = (pair["name"] for pair in first["pairs"])
    image = read_image(twin.image("s4_b"))
    write_image(twin.image("s4_b"), image.array[:, ::-1], image.space)
    again = twin.predict(tmp_path / "out", "--fixed", "s4_a", "--continue_prediction")
    assert again["pairs"][0]["digests"][0] == first["pairs"][0]["digests"][0]
    assert again["pairs"][0]["digests"][1] != first["pairs"][0]["digests"][1]
    fresh = twin.predict(tmp_path / "fresh", "--fixed", "s4_a")
    assert fresh["pairs"][0]["digests"] == again["pairs"][0]["digests"]
    warped = [(tmp_path / folder / name / "warped.nii.gz").read_bytes() for folder in ("out", "fresh")]
    assert warped[0] == warped[1]


def test_a_trainer_of_ones_own_is_found_by_its_module(plane, tmp_path):
    twin = plane.copy(tmp_path)
    twin.train(0, "-tr", f"{__name__}:ConstantRate", epochs=2)
    fold = twin.results / f"{__name__}.ConstantRate__nnRegPlans__2d" / "fold_0"
    history = torch.load(fold / "checkpoint_final.pth", weights_only=True)["logging"]["values"]
    assert history["learning_rate"] == [1e-3, 1e-3]
    # the folder carries the name, and prediction finds it by the same option
    assert twin.predict(tmp_path / "out", "-tr", f"{__name__}:ConstantRate", "--fixed", "s4_a", "--moving", "s4_b")["pairs"]


def test_a_network_and_loss_of_ones_own_are_trained_and_predict(plane, tmp_path):
    twin = plane.copy(tmp_path)
    option = ["-tr", f"{__name__}:SHIFT"]
    twin.train("all", *option, iterations=3)
    fold = twin.fold("all", f"{__name__}.SHIFT")
    shift = torch.load(fold / "checkpoint_final.pth", weights_only=True)["network_weights"]["shift"]
    assert shift.abs().max() > 0
    log = (fold / "training_log.txt").read_text()
    assert "train_mse" in log
    assert "Network Shift: 2 parameters" in log
    twin.predict(tmp_path / "out", *option, "--fixed", "s4_a", "--moving", "s4_b")
    stages = read_itk(tmp_path / "out" / "s4_a__s4_b" / "transform.h5").stages
    field = next(stage.displacement for stage in stages if hasattr(stage, "displacement"))
    middle = field[:, 4:-4, 4:-4]  # the border fades out
    np.testing.assert_allclose(middle, np.broadcast_to(shift.numpy().reshape(2, 1, 1), middle.shape), atol=1e-3)  # as rounded
    # without the option nothing that a file names is imported
    assert twin.try_predict(tmp_path / "other", "-m", twin.model(f"{__name__}.SHIFT"), "--fixed", "s4_a", "--moving", "s4_b") == 2


@pytest.mark.parametrize("recipe", ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("unetreg_velocity", "inverse_consistent"))])
def test_recipes_by_name_train(plane, tmp_path, recipe):
    twin = plane.copy(tmp_path)
    twin.train(1, "-tr", recipe, "--set", "learning_rate=1e-4", "--set", "augmentation.intensity.probability=0")
    debug = json.loads((twin.fold(1, recipe) / "debug.json").read_text())
    assert debug["configuration"]["training"]["learning_rate"] == 1e-4  # the command line wins over the recipe
    assert debug["configuration"]["training"]["augmentation"]["intensity"]["probability"] == 0
    assert debug["trainer"] == recipe


def test_a_recipe_file_names_the_results(plane, tmp_path):
    twin = plane.copy(tmp_path)
    (tmp_path / "short.yaml").write_text("loss: ncc\ntraining: {learning_rate: 5e-4, gradient_clip: 0.5}\n")
    twin.train(0, "-tr", tmp_path / "short.yaml")
    training = json.loads((twin.fold(0, "short") / "debug.json").read_text())["configuration"]["training"]
    assert (training["learning_rate"], training["gradient_clip"]) == (5e-4, 0.5)
    assert "train_ncc" in (twin.fold(0, "short") / "training_log.txt").read_text()


def test_a_finished_training_is_not_overwritten_but_can_be_continued_and_validated(plane, tmp_path, capsys):
    twin = plane.copy(tmp_path)
    fold = twin.fold(0)
    before = (fold / "checkpoint_final.pth").read_bytes()
    assert twin.try_train(0, epochs=2, iterations=2) == 2
    assert "-c" in capsys.readouterr().err
    assert (fold / "checkpoint_final.pth").read_bytes() == before
    (fold / "validation_summary.json").unlink()
    twin.train(0, "--val", epochs=2, iterations=2)
    assert json.loads((fold / "validation_summary.json").read_text())["counts"]["pairs"] == 2
    twin.train(0, "-c", epochs=3, iterations=2)
    assert torch.load(fold / "checkpoint_final.pth", weights_only=True)["current_epoch"] == 3


def test_pretrained_weights_are_the_start(plane, tmp_path):
    """With a learning rate of (almost) nothing, the trained weights are the given ones."""
    twin = plane.copy(tmp_path)
    source = twin.fold(1) / "checkpoint_scrambled.pth"
    twin.train("all", "-pretrained_weights", source, "--set", "learning_rate=1e-12")
    given, trained = (torch.load(path, weights_only=True)["network_weights"] for path in (source, twin.fold("all") / "checkpoint_final.pth"))
    for key, value in given.items():
        torch.testing.assert_close(trained[key], value, atol=1e-6, rtol=0)


def test_weights_of_a_network_of_another_shape_are_refused_by_its_layers(plane, tmp_path, capsys):
    twin = plane.copy(tmp_path)
    source = twin.fold(1) / "checkpoint_scrambled.pth"
    before = tree(twin.results)
    assert twin.try_train("all", "-tr", "50epochs", "-pretrained_weights", source, "--set", "architecture.base_features=4") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    given = torch.load(source, weights_only=True)["network_weights"]
    name, value = next(iter(given.items()))
    assert f"layers have another shape: {name!r} is {'x'.join(map(str, value.shape))}, here 4x" in said
    assert "nnreg_move_plans_between_datasets" in said
    assert tree(twin.results) == before
