"""Models of several targets compared, joined and postprocessed: labels, regions and values, on predictions made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnreg.cli import apply_postprocessing, determine_postprocessing, ensemble, find_best_configuration
from nnreg.dataset import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import NnRegError
from nnreg.evaluation.dense_prediction.crossval import accumulate, score_of
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.imageio.lazy import boxes
from nnreg.inference.dense_prediction import ensemble as ensemble_module
from nnreg.inference.dense_prediction.ensemble import ensemble_folders
from nnreg.inference.dense_prediction.probabilities import write_probabilities

NAME = "Dataset007_Several"
TARGETS: dict[str, Any] = {
    "organs": {},
    "ink": {"labels": {"background": 0, "ink": 1}, "activation": "sigmoid"},
    "height": {"kind": "regression", "out_channels": 2},
}
SPEC = DatasetSpec({"0": "MR"}, 4, ".nii.gz", labels={"background": 0, "a": 1, "b": 2}, task="dense_prediction", targets=TARGETS)
SPACE = Space.plain((6, 14, 9), (2.0, 1.0, 1.0))
CASES = ("c0", "c1", "c2_x", "c3")
FOLDS = {"0": CASES[:2], "1": CASES[2:]}
HALF = np.indices(SPACE.shape)[1] % 2 == 0


def organs(case: str) -> np.ndarray:
    found = np.zeros(SPACE.shape, np.uint8)
    start = CASES.index(case)
    found[1:4, 1:5, start : start + 3], found[2:5, 9:13, 2:6] = 1, 2
    return found


def height(case: str) -> np.ndarray:
    return np.stack([np.sin(np.indices(SPACE.shape).sum(axis=0) + CASES.index(case)), 5.0 * organs(case)]).astype(np.float32)


def truth(case: str) -> dict[str, np.ndarray]:
    return {"organs": organs(case)[None], "ink": (organs(case) == 2).astype(np.uint8)[None], "height": height(case)}


def probabilities(labels: np.ndarray, classes: tuple[int, ...], sure: np.ndarray) -> np.ndarray:
    return np.stack([np.where(labels == value, sure, (1 - sure) / 2) for value in classes])


@pytest.fixture
def raw(tmp_path: Path) -> RawDataset:
    folder = tmp_path / "nnReg_raw" / NAME
    for case in CASES:
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", np.ones((1, *SPACE.shape), np.int16), SPACE)
        for target, values in truth(case).items():
            write_image(folder / "labelsTr" / f"{case}_{target}.nii.gz", values, SPACE)
    SPEC.write(folder / "dataset.json")
    return RawDataset.open(folder)


def predict(folder: Path, case: str, mistaken: np.ndarray, off: float, stray: bool = False) -> None:
    """What a model that takes `mistaken` voxels, unsurely, for background would write; its values are `off` too high."""
    for target, values in truth(case).items():
        if target == "height":
            write_image(folder / f"{case}_height.nii.gz", values + np.float32(off), SPACE)
            continue
        found = np.where(mistaken, 0, values[0]).astype(np.uint8)
        found[5, 0, 8] = stray and target == "ink"
        sure = np.where(mistaken, 0.45, 0.9)
        classes = (1,) if target == "ink" else (0, 1, 2)
        write_image(folder / f"{case}_{target}.nii.gz", found[None], SPACE)
        write_probabilities(folder / f"{case}_{target}.npz", iter(probabilities(found, classes, sure)), (len(classes), *SPACE.shape))
    (folder / "prediction.json").write_text(json.dumps({"task": "dense_prediction", "cases": [{"name": name} for name in CASES]}))
    SPEC.write(folder / "dataset.json")


def model(tmp_path: Path, configuration: str, mistaken: np.ndarray, off: float, *, stray: bool = False) -> Path:
    folder = tmp_path / "nnReg_results" / NAME / f"nnRegTrainer__nnRegPlans__{configuration}"
    for fold, cases in FOLDS.items():
        for case in cases:
            predict(folder / f"fold_{fold}" / "validation_raw", case, mistaken, off, stray)
    SPEC.write(folder / "dataset.json")
    (folder / "plans.json").write_text(json.dumps({"configurations": {}}))
    return folder


def test_models_of_several_targets_are_compared_and_joined(tmp_path: Path, raw: RawDataset) -> None:
    """Where one errs it is unsure, so the other decides; the values of two that are off to either side are right on average."""
    model(tmp_path, "2d", HALF, 0.5)
    model(tmp_path, "3d_fullres", ~HALF, -0.5, stray=True)
    command = [NAME[7:10], "-c", "2d", "3d_fullres", "-f", "0", "1", "-np", "1", "-q", "--workspace", str(tmp_path)]
    assert find_best_configuration.main(command) == 0
    results = tmp_path / "nnReg_results" / NAME
    information = json.loads((results / "inference_information.json").read_text())
    (name,) = (name for name in information["all_results"] if name.startswith("ensemble"))
    assert information["all_results"][name] > max(value for other, value in information["all_results"].items() if other != name)
    joined = results / "ensembles" / name
    for case in CASES:
        np.testing.assert_array_equal(read_image(joined / f"{case}_organs.nii.gz").array, truth(case)["organs"])
        np.testing.assert_allclose(read_image(joined / f"{case}_height.nii.gz").array, truth(case)["height"], atol=1e-6)
    assert [entry["name"] for entry in json.loads((joined / "prediction.json").read_text())["cases"]] == sorted(CASES)


def test_each_target_has_postprocessing_of_its_own(tmp_path: Path, raw: RawDataset) -> None:
    folder = model(tmp_path, "2d", np.zeros(SPACE.shape, bool), 0.0, stray=True)
    joined = accumulate(folder, raw, ("0", "1"), processes=1)
    assert len(joined.label_maps) == 3 * len(CASES)
    assert determine_postprocessing.main(["-i", str(joined.folder), "-ref", str(raw.folder / "labelsTr"), "-np", "1"]) == 0
    steps = json.loads((joined.folder / "postprocessing.json").read_text())["steps"]
    assert steps == [{"name": "keep_largest_component", "labels": [1], "target": "ink"}]
    output = tmp_path / "better"
    assert apply_postprocessing.main(["-i", str(joined.folder), "-o", str(output), "-pp_json", str(joined.folder / "postprocessing.json"), "-np", "1"]) == 0
    for case in CASES:
        for target, values in truth(case).items():
            np.testing.assert_array_equal(read_image(output / f"{case}_{target}.nii.gz").array, values)


def test_the_score_is_the_mean_of_targets_and_psnr_without_labels() -> None:
    both = {"foreground_mean": {"Dice": 0.9, "PSNR": 20.0}, "foreground_mean_per_target": {"a": {"Dice": 0.5}, "b": {"Dice": 1.0}, "c": {"PSNR": 20.0}}}
    assert score_of(both) == 0.75
    assert score_of({"foreground_mean": {"MAE": 1.0, "PSNR": 20.0}}) == 20
    assert score_of({"foreground_mean": {"Dice": None}}) == 0


def test_a_file_of_no_target_is_named(tmp_path: Path, raw: RawDataset) -> None:
    for name in ("one", "two"):
        predict(tmp_path / name, "c0", HALF, 0.0)
        write_image(tmp_path / name / "c0_paper.nii.gz", np.zeros((1, *SPACE.shape), np.uint8), SPACE)
    with pytest.raises(NnRegError, match=r"c0_paper.* is of none of the targets organs, ink, height"):
        ensemble_folders([tmp_path / "one", tmp_path / "two"], tmp_path / "both", processes=1)
    assert ensemble.main(["-i", str(tmp_path / "one"), str(tmp_path / "two"), "-o", str(tmp_path / "both"), "-np", "1"]) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_values_larger_than_memory_are_averaged_box_by_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    """As whole: integers are rounded, 254 and 255 do not wrap, what one member does not know is unknown."""
    pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    spec = DatasetSpec({"0": "MR"}, 2, ".zarr", task="dense_prediction", targets={"height": {"kind": "regression", "out_channels": 2}})
    members = [rng.uniform(0, 255, (2, *SPACE.shape)).astype(dtype) for _ in range(3)]
    if dtype is np.float32:
        members[1][1, 2, 3] = np.nan
    for index, values in enumerate(members):
        write_image(tmp_path / f"m{index}" / "c0.zarr", values, SPACE)
        spec.write(tmp_path / f"m{index}" / "dataset.json")
    folders = [tmp_path / f"m{index}" for index in range(3)]
    ensemble_folders(folders, tmp_path / "whole", processes=1)
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    monkeypatch.setattr(ensemble_module, "boxes", lambda shape, chunks: boxes(shape, (4, 5, 6), most=1))
    monkeypatch.setattr(ensemble_module, "read_image", None)  # nothing may be read whole
    ensemble_folders(folders, tmp_path / "parts", processes=1)
    whole, parts = (read_image(tmp_path / name / "c0.zarr") for name in ("whole", "parts"))
    np.testing.assert_array_equal(parts.array, whole.array)
    assert parts.array.dtype == dtype
    np.testing.assert_allclose(whole.array, np.mean(members, axis=0), atol=0.5 if dtype is np.uint8 else 1e-4)
    write_image(tmp_path / "m1" / "c0.zarr", members[1][:1], SPACE)
    with pytest.raises(NnRegError, match=r"m1.*has 1 channels, the target 2"):
        ensemble_folders(folders, tmp_path / "third", processes=1)
    assert not (tmp_path / "third" / "c0.zarr").exists()
