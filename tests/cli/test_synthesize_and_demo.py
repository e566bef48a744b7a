"""nnreg_synthesize and nnreg_demo: exact truth, and every command on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import tree

from nnreg.cli import demo, synthesize, verify_dataset

DEMO = ["--shape", "20", "24", "--pairs", "2", "--test_pairs", "2", "--epochs", "1", "--iterations_per_epoch", "2", "-device", "cpu"]


def test_synthesised_truth_warps_the_moving_onto_the_fixed_image_in_both_directions(tmp_path, capsys):
    """With SimpleITK alone, on anisotropic images of different size along every axis."""
    options = ["--shape", "15", "26", "21", "--spacing", "2.5", "0.8", "1.3", "--pairs", "1", "--test_pairs", "1", "--noise_std", "0", "--seed", "3"]
    assert synthesize.main(["-d", "901", "--name", "Solid", *options, "-q", "--workspace", str(tmp_path)]) == 0
    folder = tmp_path / "nnReg_raw" / "Dataset901_Solid"
    assert str(folder) in capsys.readouterr().out
    assert verify_dataset.main(["-d", "901", "-np", "1", "-q", "--workspace", str(tmp_path)]) == 0
    assert "2 training and 2 test cases are sound" in capsys.readouterr().out
    fields = sorted(folder.glob("fields*/*.nii.gz"))
    assert len(fields) == 4
    for path in fields:
        names = path.name.removesuffix(".nii.gz").split("__")
        fixed, moving = (sitk.ReadImage(str(next(folder.glob(f"images*/{name}_0000.nii.gz")))) for name in names)
        assert fixed.GetSpacing() == pytest.approx((1.3, 0.8, 2.5))
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
        warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.15))
        target, plain = sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(moving)
        inside = (slice(2, -2),) * 3
        # linear interpolation of fine texture is what remains
        assert np.abs(warped - target)[inside].mean() < 0.5 * np.abs(plain - target)[inside].mean()


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert demo.main(["-o", str(folder), *DEMO]) == 0
    return folder


def test_the_demo_leaves_its_figures_and_pictures(demonstrated):
    summary = json.loads((demonstrated / "demo_summary.json").read_text())
    evaluated = json.loads((demonstrated / "predictions" / "summary.json").read_text())
    assert {"epe_header", "epe_after", "folding_percent", "seconds"} <= summary.keys()
    assert summary["held_out_pairs"] == len(evaluated["pairs"])
    named = {"epe_header": "epe_header", "epe_after": "epe_after", "body_epe_header": "epe_labels_header", "body_epe_after": "epe_labels_after"}
    for name, evaluated_as in (named | {"folding_percent": "folding_percent"}).items():
        values = [pair["metrics"][evaluated_as] for pair in evaluated["pairs"]]
        assert summary[name] == pytest.approx(sum(values) / len(values)), name
    assert summary["epe_header"] > 0
    assert summary["seconds"] >= sum(summary["seconds_by_step"].values()) * 0.9
    pictures = [Path(path) for path in summary["pictures"]]
    assert {path.name for path in pictures} == {"overview.png", "progress.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_error_before_is_the_length_of_the_true_displacement(demonstrated):
    """Headers put both images of a pair on one grid, so the error by headers is the truth itself."""
    raw = next((demonstrated / "workspace" / "nnReg_raw").iterdir())
    evaluated = json.loads((demonstrated / "predictions" / "summary.json").read_text())
    for pair in evaluated["pairs"]:
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "fieldsTs" / f"{pair['name']}.nii.gz")))  # mm, and voxels of 1 mm
        assert pair["metrics"]["epe_header"] == pytest.approx(np.linalg.norm(truth, axis=-1).mean(), rel=1e-4)


def test_a_demo_of_another_size_does_not_mix_with_this_one(demonstrated, capsys):
    before = tree(demonstrated)
    assert demo.main(["-o", str(demonstrated), *DEMO[:-2], "--seed", "5"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert str(demonstrated) in lines[0]
    assert tree(demonstrated) == before
