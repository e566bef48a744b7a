"""Labels of training cases guide the engine where the plans say so: in predictions, and in the validation that decides what predicts."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import NO_PAIRS, QUIET, Tiny, succeeded, write_dataset

from nnreg import predict
from nnreg.api.dataset import Dataset
from nnreg.dataset.pairs import Pair
from nnreg.geometry import Space
from nnreg.geometry.transform_files import read_transforms
from nnreg.imageio import read_image, write_image
from nnreg.inference.registration.method import read_record
from nnreg.inference.registration.predict import PredictOptions

ENGINE = ("-c", "optimise", "--fixed", "x", "--moving", "y")
SPACE = Space((26, 30), (1.5, 1.5), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Tiny:
    """Four training cases and two for testing on one grid, the fold that holds out c and d trained; labels of three training cases guide the engine."""
    from nnreg.cli import plan_and_preprocess

    result = Tiny(tmp_path_factory.mktemp("guided"), "Dataset006_Level", "2d")
    write_dataset(result.raw, dict.fromkeys("abcd", SPACE), test_spaces=dict.fromkeys("xy", SPACE))
    (result.raw / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c", "d"]}]))
    succeeded(plan_and_preprocess.main, "-d", result.id, *QUIET, *NO_PAIRS, *result.where)
    result.train(0)
    for path in (result.preprocessed / "nnRegPlans.json", result.model() / "plans.json"):
        content = json.loads(path.read_text())
        content["optimisation"] |= {"guides": 3, "preset": "fast"}
        path.write_text(json.dumps(content))
    return result


@pytest.fixture
def guided(untouched: Tiny, tmp_path) -> Tiny:
    """A copy that may be changed."""
    return untouched.copy(tmp_path / "guided")


def _field(folder):
    return read_transforms([folder / "x__y" / "transform.h5"], fixed=SPACE, moving=SPACE).sampled_on(SPACE).displacement


def test_a_prediction_labels_its_images_by_training_cases_and_says_so(untouched: Tiny, tmp_path, capsys):
    content = untouched.predict(tmp_path / "out", *ENGINE, refine=True)
    assert "labels of 3 training cases guide the engine" in capsys.readouterr().out
    assert content["guides_folder"] == str(tmp_path / "out" / "guides")
    assert content["guides_fused_from"] == ["a", "c", "d"]  # evenly spaced
    assert content["without_guides"] == {}
    for case in "xy":
        truth, fused = (read_image(path).array for path in (untouched.label(case), tmp_path / "out" / "guides" / untouched.label(case).name))
        assert set(np.unique(fused)) <= {0, 3, 7}
        assert ((fused == truth) & (truth > 0)).sum() > 0.5 * (truth > 0).sum()
    without = untouched.predict(tmp_path / "alone", *ENGINE, "--guides", "none", refine=True)
    assert not {"guides_folder", "guides_fused_from", "without_guides"} & without.keys()
    assert not (tmp_path / "alone" / "guides").exists()
    assert np.abs(_field(tmp_path / "out") - _field(tmp_path / "alone")).max() > 0.05


def test_a_dry_run_a_layout_and_a_report_tell_of_them(untouched: Tiny, tmp_path, capsys):
    assert untouched.try_predict(tmp_path / "out", *ENGINE, "--dry_run", refine=True) == 0
    said = capsys.readouterr().out
    assert "labels of 3 training cases guide it" in said
    assert str(tmp_path / "out" / "guides") in said
    untouched.predict(tmp_path / "out", *ENGINE, refine=True)
    from nnreg.cli import report

    succeeded(report.main, tmp_path / "out", *untouched.where)
    assert "labels of 3 training cases" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_labels_that_are_there_are_not_fused_anew_and_ones_that_are_named_take_their_place(untouched: Tiny, tmp_path):
    first = untouched.predict(tmp_path / "out", *ENGINE, refine=True)
    path = tmp_path / "out" / "guides" / untouched.label("x").name
    made = path.stat().st_mtime_ns
    assert untouched.predict(tmp_path / "out", *ENGINE, "--continue_prediction", refine=True)["pairs"] == first["pairs"]
    assert path.stat().st_mtime_ns == made
    named = untouched.predict(tmp_path / "named", *ENGINE, "--guides", tmp_path / "out" / "guides", refine=True)
    assert (named["guides_folder"], "guides_fused_from" in named) == (str(tmp_path / "out" / "guides"), False)
    assert np.array_equal(_field(tmp_path / "named"), _field(tmp_path / "out"))


def test_training_cases_that_are_not_here_are_asked_for_in_one_line(guided: Tiny, tmp_path, capsys):
    shutil.copytree(guided.raw / "imagesTs", tmp_path / "images")
    for remove, named in ((guided.raw / "labelsTr", "0 training cases have labels"), (guided.raw, "is not here")):
        shutil.rmtree(remove)
        assert guided.try_predict(tmp_path / "out", *ENGINE, images=tmp_path / "images", refine=True) == 2
        said = capsys.readouterr().err
        assert named in said
        assert "--guides none" in said
        assert said.strip().count("\n") == 0
    assert guided.try_predict(tmp_path / "out", *ENGINE, "--guides", "none", images=tmp_path / "images", refine=True) == 0


def test_an_image_that_no_training_case_fits_is_registered_without_and_named(guided: Tiny, tmp_path, capsys):
    guided.predict(tmp_path / "out", *ENGINE, refine=True)
    assert (tmp_path / "out" / "guides" / guided.label("y").name).is_file()
    noise = np.random.default_rng(0).normal(size=(1, *SPACE.shape)).astype(np.float32)
    write_image(guided.raw / "imagesTs" / guided.image("y").name, noise, SPACE)
    content = guided.predict(tmp_path / "out", *ENGINE, refine=True)
    assert content["without_guides"].keys() == {"y"}
    assert not (tmp_path / "out" / "guides" / guided.label("y").name).exists()  # what was found in another image
    assert "pairs of y are registered without guides" in capsys.readouterr().out
    write_image(guided.raw / "imagesTs" / guided.image("x").name, noise[:, ::-1], SPACE)
    assert guided.try_predict(tmp_path / "none", *ENGINE, refine=True) == 2
    assert "onto none of the images" in capsys.readouterr().err


def test_python_takes_the_labels_of_the_workspace(untouched: Tiny, tmp_path, monkeypatch):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnReg_{kind}", str(untouched.root / f"nnReg_{kind}"))
    # a network alone has no use for labels
    for method, more, fused in (("refined", {}, True), ("refined", {"guided": False}, False), ("network", {}, False)):
        wanted, output = PredictOptions(method=method, pictures=False, **more), tmp_path / f"{method}{fused}"
        content = predict(untouched.model(), untouched.raw / "imagesTs", output, folds=["0"], device="cpu", pairs=[Pair("x", "y")], options=wanted)
        assert ("guides_fused_from" in content) == fused


def test_a_dataset_from_python_has_its_own(untouched: Tiny, tmp_path):
    dataset = Dataset.open(untouched.root, untouched.dataset)
    wanted = PredictOptions(method="refined", pictures=False)
    content = dataset.predict(untouched.raw / "imagesTs", tmp_path, folds=["0"], device="cpu", pairs=[Pair("x", "y")], options=wanted)
    assert content["guides_fused_from"] == ["a", "c", "d"]
    by_engine = dataset.predict(
        {case: untouched.image(case) for case in "xy"}, tmp_path / "engine", configuration="optimise", pairs=[Pair("x", "y")], options=wanted
    )
    assert (by_engine["model"], by_engine["guides_fused_from"]) == ("optimise__nnRegPlans", ["a", "c", "d"])


def test_a_fold_compares_with_the_engine_guided_by_cases_it_was_trained_on(guided: Tiny):
    before = read_record(guided.fold(0))
    guided.train(0, "--val")
    found = read_record(guided.fold(0))
    summary = json.loads((guided.fold(0) / "guides" / "summary.json").read_text())
    assert summary["atlases"] == ["a", "b"]  # three are not there
    assert summary["cases"].keys() == {"c", "d"}
    assert found.pairs == before.pairs
    assert found.measured["network"]["dice_after"] == before.measured["network"]["dice_after"]
    assert found.measured["engine"]["dice_after"] != before.measured["engine"]["dice_after"]


def test_a_validation_whose_cases_cannot_be_labelled_does_not_end_the_training(guided: Tiny):
    for case in "ab":
        guided.label(case).unlink()
    with pytest.warns(UserWarning, match="compared without labels that guide it: .*0 training cases have labels"):
        guided.train(0, "--val")
    assert set(read_record(guided.fold(0)).measured) == {"network", "refined", "engine"}


def test_compared_pairs_share_images_where_labels_guide():
    from nnreg.tasks.registration.validation import _drawn_pairs

    cases = [f"c{index}" for index in range(8)]
    pairs = [Pair(fixed, moving) for fixed in cases for moving in cases if fixed != moving]
    known = {pair for pair in pairs if "c3" not in (pair.fixed, pair.moving)}
    training = SimpleNamespace(validation_pairs=10, compared_pairs=6)
    for sharing in (True, False):
        registered, compared = _drawn_pairs(pairs, training, known, sharing=sharing)
        assert (len(registered), len(compared)) == (10, 6)
        assert set(compared) <= known & set(registered)
        found = {case for pair in compared for case in (pair.fixed, pair.moving)}
        assert (len(found) == 3) == sharing
