"""A folder of predictions against a dataset, and nnreg_evaluate on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnreg.cli.evaluate import main
from nnreg.dataset import RawDataset, write_synthetic_dataset
from nnreg.evaluation import evaluate_folder
from nnreg.geometry import FieldMap, Transform
from nnreg.geometry.itk import read_itk, write_itk

SHARE = 0.75  # of the true displacement: what is left is a quarter of it everywhere


def predict(raw: RawDataset, folder: Path) -> Path:
    """What nnreg_predict would leave: three quarters of the truth."""
    pairs = []
    for pair in raw.test_pairs():
        truth = read_itk(raw.field_path(pair)).stages[0]
        (folder / pair.name).mkdir(parents=True)
        write_itk(folder / pair.name / "transform.h5", Transform((FieldMap(SHARE * truth.displacement, truth.space),), truth.ndim))
        write_itk(folder / pair.name / "alignment.h5", Transform.identity(truth.ndim))
        pairs.append({"name": pair.name, "fixed": pair.fixed, "moving": pair.moving, "fixed_images": [], "moving_images": [], "seconds": 0.5})
    (folder / "prediction.json").write_text(json.dumps({"schema_version": 1, "dataset": raw.name, "model": "none", "pairs": pairs}))
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    raw = write_synthetic_dataset(
        tmp_path / "nnReg_raw" / "Dataset007_Ellipsoids", pairs=1, test_pairs=2, shape=(24, 30), spacing=(1.5, 0.8), seed=1, keypoints=8
    )
    predict(raw, tmp_path / "predictions")
    return tmp_path


@pytest.fixture
def raw(workspace: Path) -> RawDataset:
    return RawDataset.open(workspace / "nnReg_raw" / "Dataset007_Ellipsoids")


def run(workspace: Path, *more: str) -> int:
    return main([str(workspace / "predictions"), "-d", "7", "--workspace", str(workspace), "-np", "1", *more])


def test_a_known_share_of_the_truth_leaves_the_known_rest(workspace, raw):
    seen = []
    summary = evaluate_folder(workspace / "predictions", raw, on_progress=lambda done, total, what: seen.append((done, total)))
    assert [pair["name"] for pair in summary["pairs"]] == sorted(pair.name for pair in raw.test_pairs())
    assert seen[-1] == (2, 2)
    for pair in summary["pairs"]:
        figures = pair["metrics"]
        assert figures["epe_after"] == pytest.approx((1 - SHARE) * figures["epe_aligned"], rel=1e-3)
        assert figures["tre_mm_after"] == pytest.approx((1 - SHARE) * figures["tre_mm_aligned"], rel=0.1)
        assert figures["dice_after"] > figures["dice_aligned"] == figures["dice_header"]
        assert set(pair["labels"]) == {str(label) for label in raw.label_values}
    assert summary["dataset"] == raw.name
    assert summary["mean"]["seconds"] == 0.5


def test_labels_and_surfaces_can_be_left_out(workspace, raw):
    names = evaluate_folder(workspace / "predictions", raw, surface=False, with_labels=False)["mean"].keys()
    assert not any(name.startswith(("dice", "hd95")) for name in names)
    assert "epe_after" in names


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(workspace, raw):
    assert evaluate_folder(workspace / "predictions", raw, processes=2) == evaluate_folder(workspace / "predictions", raw, processes=1)


def test_the_command_writes_the_summary_and_prints_the_table(workspace, capsys):
    assert run(workspace) == 0
    content = json.loads((workspace / "predictions" / "summary.json").read_text())
    assert content["counts"]["pairs"] == 2
    printed = capsys.readouterr().out
    assert f"{content['mean']['dice_after']:.4f}" in printed
    assert "summary.json" in printed


def test_the_summary_goes_where_it_is_wanted(workspace):
    assert run(workspace, "-o", str(workspace / "a.json"), "--no_surface") == 0
    assert run(workspace, "-o", str(workspace / "reports"), "--no_surface") == 0
    assert json.loads((workspace / "a.json").read_text()) == json.loads((workspace / "reports" / "summary.json").read_text())
    assert not (workspace / "predictions" / "summary.json").exists()


def _remove(*parts: str):
    def spoil(workspace: Path) -> None:
        next(workspace.glob("/".join(parts))).unlink()

    return spoil


def _truncate(workspace: Path) -> None:
    path = next((workspace / "predictions").glob("*/transform.h5"))
    path.write_bytes(path.read_bytes()[:200])


def _rename_case(workspace: Path) -> None:
    path = workspace / "predictions" / "prediction.json"
    content = json.loads(path.read_text())
    content["pairs"][0]["fixed"] = "ellipsoids_001_fixd"
    path.write_text(json.dumps(content))


def _older_schema(workspace: Path) -> None:
    path = workspace / "predictions" / "prediction.json"
    path.write_text(json.dumps({"schema_version": 0, "pairs": []}))


def _no_pairs(workspace: Path) -> None:
    path = workspace / "predictions" / "prediction.json"
    path.write_text(json.dumps({"schema_version": 1, "pairs": []}))


def _shape_of_labels(workspace: Path) -> None:
    from nnreg.geometry import Space
    from nnreg.imageio import write_image

    path = next(workspace.glob("nnReg_raw/*/labelsTs/ellipsoids_001_fixed*"))
    write_image(path, np.zeros((1, 5, 6), np.int16), Space.plain((5, 6)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_remove("predictions", "prediction.json"), ("prediction.json", "nnreg_predict")),
        (_remove("predictions", "*", "transform.h5"), ("transform.h5", "Predict it again")),
        (_remove("predictions", "*", "alignment.h5"), ("alignment.h5", "Predict it again")),
        (_remove("nnReg_raw", "*", "labelsTs", "*001_moving*"), ("ellipsoids_001_moving", "no label file", "--no_labels")),
        (_remove("nnReg_raw", "*", "keypointsTs", "*001_moving*"), ("ellipsoids_001_moving", "no keypoints")),
        (_remove("nnReg_raw", "*", "imagesTs", "*001_fixed*"), ("ellipsoids_001_fixed", "does not have")),
        (_truncate, ("transform.h5", "not a transform")),
        (_rename_case, ("ellipsoids_001_fixd", "did you mean 'ellipsoids_001_fixed'")),
        (_older_schema, ("prediction.json", "schema_version")),
        (_no_pairs, ("prediction.json", "names no pair")),
        (_shape_of_labels, ("ellipsoids_001_fixed", "labelsTs")),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(workspace, capfd, spoil, words):
    spoil(workspace)
    assert run(workspace) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    message = lines[0]
    assert all(word in message for word in words), message
    assert message.startswith("nnreg_evaluate: ")
    assert not (workspace / "predictions" / "summary.json").exists()


def test_wrong_options_are_one_line(workspace, capsys):
    assert main([str(workspace / "predictions"), "-d", "99", "--workspace", str(workspace)]) == 2
    with pytest.raises(SystemExit, match="2"):
        run(workspace, "-np", "0")
    (workspace / "file").write_text("x")
    assert run(workspace, "-o", str(workspace / "file" / "a.json")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("nnreg_evaluate: ") for line in lines)


def test_help_needs_no_torch():
    code = "import sys\nfrom nnreg.cli.evaluate import main\ntry: main(['-h'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--no_surface" in result.stdout
