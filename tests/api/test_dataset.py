"""A dataset from arrays: written, planned, trained, applied, evaluated, with no environment variable and no command."""

from __future__ import annotations

import numpy as np
import pytest

import nnreg
from nnreg.errors import DatasetError, ImageError, NnRegError
from tests.engine.pairs import halves, textured

SHAPE = (24, 28)


@pytest.fixture(scope="module")
def arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    images = {f"p{number}": np.roll(textured(SHAPE, seed=0), number % 3, axis=2)[0] for number in range(6)}
    return images, {case: np.roll(halves(SHAPE), number % 3, axis=2)[0] for number, case in enumerate(images)}


def test_arrays_become_a_dataset_that_is_planned_trained_applied_and_evaluated(tmp_path, arrays, monkeypatch):
    for variable in ("nnReg_raw", "nnReg_preprocessed", "nnReg_results"):
        monkeypatch.delenv(variable, raising=False)
    images, labels = arrays
    dataset = nnreg.Dataset.from_images(tmp_path, images, labels=labels, spacing=(1.5, 1.0), name="Arrays")
    assert dataset.raw.spec.labels == {"background": 0, "label_1": 1, "label_2": 2, "label_3": 3}
    assert np.array_equal(dataset.raw.read_image("p1").array[0], images["p1"])
    assert dataset.raw.read_image("p1").space.spacing == (1.5, 1.0)
    assert dataset.plan(processes=1, pair_budget=0) == dataset.plans
    summary = dataset.train(epochs=1, overrides={"iterations_per_epoch": 1, "validation_iterations": 1, "compared_pairs": 0}, device="cpu")
    assert 0 < summary["mean"]["dice_after"] <= 1
    content = dataset.predict(dataset.raw.folder / "imagesTr", tmp_path / "out", folds=["0"], pairs=[nnreg.Pair("p0", "p1")], device="cpu")
    assert [pair["name"] for pair in content["pairs"]] == ["p0__p1"]
    again = dataset.predict({case: images[case] for case in ("p0", "p1")}, tmp_path / "arrays", spacing=(1.5, 1.0), folds=["0"], device="cpu")
    assert sorted(pair["name"] for pair in again["pairs"]) == ["p0__p1", "p1__p0"]
    assert dataset.evaluate(tmp_path / "out", surface=False)["mean"]["dice_after"] > 0
    assert nnreg.Dataset.open(tmp_path, 1) == dataset
    with pytest.raises(DatasetError, match="exists"):
        nnreg.Dataset.from_images(tmp_path, images, spacing=(1.5, 1.0), name="Arrays")


def test_what_makes_no_dataset_is_told_and_leaves_nothing(tmp_path, arrays):
    images, labels = arrays
    with pytest.raises(ImageError, match=r"case p0: is an array .* without spacing"):
        nnreg.Dataset.from_images(tmp_path, images)
    with pytest.raises(DatasetError, match="labels: case 'q' has no image"):
        nnreg.Dataset.from_images(tmp_path, images, labels={"q": labels["p0"]}, spacing=(1, 1))
    with pytest.raises(DatasetError, match="has 1 channels, channel_names has 2"):
        nnreg.Dataset.from_images(tmp_path, images, spacing=(1, 1), channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(NnRegError, match="pairing"):
        nnreg.Dataset.from_images(tmp_path, images, spacing=(1, 1), pairing="every")
    assert not list(tmp_path.rglob("*.nii.gz"))
