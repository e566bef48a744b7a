"""Targets of continuous values, alone and beside labels, from the dataset's folder to the evaluation of what was predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as tiny_datasets
import torch

from nnreg.cli import evaluate, predict, train
from nnreg.dataset import RawDataset, verify_dataset
from nnreg.errors import NnRegError
from nnreg.imageio import read_image, write_image
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Plans
from nnreg.preprocessing import plan_and_preprocess
from nnreg.preprocessing.dense_prediction.maps import normalise_maps, resample_maps, restore_values
from nnreg.preprocessing.dense_prediction.restore import restore_maps
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.task import task_named
from nnreg.tasks.dense_prediction.samples import Annotation, PatchSamples
from nnreg.tasks.dense_prediction.target_objective import TargetObjective
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.workspace import Workspace

CASES = [f"case_{i}" for i in range(5)]
ALONE, MIXED = "Dataset041_Alone", "Dataset042_Mixed"
TARGETS: dict[str, dict[str, Any]] = {
    ALONE: {"height": {"kind": "regression", "out_channels": 2}},
    MIXED: {"height": {"activation": "none", "channels": 2, "losses": [{"name": "masked_mse"}], "loss_weight": 0.5}, "organs": {}},
}
SMALL = ["--set", "architecture.base_features=4", "--set", "validation_iterations=2", "--set", "batch_size=2", "-device", "cpu", "--quiet"]
pytestmark = pytest.mark.usefixtures("one_thread")


def height(image: np.ndarray) -> np.ndarray:
    """Two channels of values that an image determines, far from mean 0 and deviation 1."""
    return np.concatenate([1000 - 0.5 * image, 0.01 * image - 7]).astype(np.float32)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Planes with two values per voxel, alone and beside organs; of the second case a corner is unknown."""
    root = tmp_path_factory.mktemp("continuous")
    for name, targets in TARGETS.items():
        raw = root / "nnReg_raw" / name
        given = tiny_datasets.spaces((22, 26), CASES), tiny_datasets.spaces((22, 26), ["new"], first=50)
        labels = {"background": 0, "left": 3, "right": 7} if name == MIXED else {}
        tiny_datasets.write_dataset(raw, given[0], test_spaces=given[1], task="dense_prediction", targets=targets, labels=labels)
        for path in sorted(raw.glob("images*/*.nii.gz")):
            case, folder = path.name.removesuffix("_0000.nii.gz"), path.parent.with_name(path.parent.name.replace("images", "labels"))
            image = read_image(path)
            values = height(image.array)
            if case == CASES[1]:
                values[1, :9, :9] = np.nan
            whole = folder / f"{case}.nii.gz"
            if name == MIXED:
                whole.rename(folder / f"{case}_organs.nii.gz")
            write_image(whole if name == ALONE else folder / f"{case}_height.nii.gz", values, image.space)
    return Workspace.resolve(root)


@pytest.fixture(scope="module", params=[ALONE, MIXED])
def planned(workspace: Workspace, request: pytest.FixtureRequest) -> str:
    plan_and_preprocess(workspace, request.param, processes=1)
    return str(request.param)


def plans_of(workspace: Workspace, name: str) -> DensePlans:
    found = Plans.read(workspace.preprocessed / name / "nnRegPlans.json")
    assert isinstance(found, DensePlans)
    return found


def test_plans_know_the_values_and_arrays_are_normalised_by_them(workspace: Workspace, planned: str) -> None:
    plans, raw = plans_of(workspace, planned), RawDataset.open(workspace.raw / planned)
    target = "height" if planned == MIXED else None
    files = [raw.label_path(case, target or "") for case in CASES]
    maps = [read_image(path).array.astype(np.float64) for path in files if path is not None]
    known = [np.isfinite(values) for values in maps]
    for channel, found in enumerate(plans.targets["height"]):
        inside = [values[channel][mask[channel]] for values, mask in zip(maps, known, strict=True)]
        mean = np.mean([values.mean() for values in inside])
        assert found.mean == pytest.approx(mean)
        assert found.std == pytest.approx(np.sqrt(np.mean([np.mean((values - mean) ** 2) for values in inside])), rel=1e-4)
        assert found.outside == pytest.approx((1000, -7)[channel])  # where the image is 0
    assert plans.configurations["2d"].training.monitor == ("mae" if planned == ALONE else None)
    data = DenseDataset(workspace.preprocessed / planned / "nnRegPlans_2d")
    stored = [np.asarray(data.maps(case)[:]) for case in CASES]  # type: ignore[index]
    assert abs(np.nanmean([np.nanmean(array) for array in stored])) < 1
    assert np.isnan(stored[1]).any()
    assert not np.isnan(stored[0]).any()
    labels = np.asarray(data.open(CASES[1]).labels[:])
    assert len(labels) == len(TARGETS[planned])
    assert set(np.unique(labels[0])) <= {-1, 0, 1}


def test_samples_move_values_with_the_image(workspace: Workspace, planned: str) -> None:
    """Values that an image determines are still determined by it after a turn; what is unknown grows, nothing is made up."""
    plans, raw = plans_of(workspace, planned), RawDataset.open(workspace.raw / planned)
    configuration = plans.configurations["2d"]
    turned = {"pose": {"rotation_probability": 1.0, "scaling_probability": 1.0, "mirror_axes": [0, 1]}}
    object.__setattr__(configuration.training, "augmentation", turned)
    folder = workspace.preprocessed / planned / configuration.data_identifier
    samples = PatchSamples(folder, CASES, configuration, 8, "train", True, annotation=Annotation.of(raw.spec, configuration.training))
    for sample in (samples[index] for index in range(8)):
        known = sample["maps"].isfinite()
        assert known.any()
        assert sample["maps"].shape[1:] == sample["labels"].shape[1:]
        first, second = (sample["maps"][channel][known.all(dim=0)] for channel in (0, 1))
        # both channels are linear in one image, so in one another
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1]) + 1) < 0.02  # up to the interpolation of the one that has unknown parts


def objective(workspace: Workspace, name: str, recipe: TrainerConfig | None = None) -> tuple[TargetObjective, DensePlans, Any]:
    plans, spec = plans_of(workspace, name), RawDataset.open(workspace.raw / name).spec
    made = task_named("dense_prediction").objective(plans=plans, spec=spec, configuration=plans.configurations["2d"], recipe=recipe or TrainerConfig())
    assert isinstance(made, TargetObjective)
    return made, plans, spec


def test_loss_and_error_see_what_is_known_alone(workspace: Workspace, planned: str) -> None:
    part = objective(workspace, planned)[0].parts["height"]
    torch.manual_seed(0)
    truth, outputs = torch.randn(2, 2, 16, 12), [torch.randn(2, 2, 16 // step, 12 // step).requires_grad_() for step in (1, 2)]
    truth[0, 1, :4, :5] = torch.nan
    mask = torch.ones(2, len(TARGETS[planned]), 16, 12, dtype=torch.bool)
    mask[1, part.channel, 8:] = False
    part.planned_weights = (0.75, 0.25)
    batch = {"maps": truth, "mask": mask}
    loss, terms = part.score(outputs, batch)
    known = truth.isfinite().all(dim=1, keepdim=True) & mask[:, part.channel : part.channel + 1]
    difference = torch.where(known, outputs[0] - truth.nan_to_num(), 0.0).abs()
    per_voxel = difference.square() if planned == MIXED else torch.where(difference < 1, difference.square() / 2, difference - 0.5)
    name = "masked_mse_loss" if planned == MIXED else "smooth_l1_loss"
    torch.testing.assert_close(terms[name], (per_voxel.sum() / (2 * known.sum())).detach())
    (gradient,) = torch.autograd.grad(loss, outputs[0])
    assert not gradient.masked_select(~known.expand_as(gradient)).any()
    assert gradient.masked_select(known.expand_as(gradient)).all()
    counted = part.counted(outputs[0].detach(), batch)
    deviation = torch.tensor([values.std for values in plans_of(workspace, planned).targets["height"]])
    torch.testing.assert_close(counted[:, 0], difference.sum(dim=(0, 2, 3)).detach() * deviation)
    assert (counted[:, 1] == known.sum()).all()
    # a coarse level learns the mean of its voxels: predicting that costs nothing
    mean = torch.nn.functional.avg_pool2d(torch.where(known, truth.nan_to_num(), 0.0), 2)
    perfect = [torch.where(known, truth, 0.0), mean]
    everything = {"maps": torch.where(known, truth, 0.0)}
    assert float(part.score(perfect, everything)[0]) == pytest.approx(0, abs=1e-9)


def test_losses_of_labels_are_refused_where_there_are_values_alone(workspace: Workspace) -> None:
    plan_and_preprocess(workspace, ALONE, processes=1)
    with pytest.raises(NnRegError, match=r"'dice_ce'? is no loss of continuous values"):
        objective(workspace, ALONE, TrainerConfig(loss="dice_ce"))
    assert objective(workspace, ALONE, TrainerConfig(loss="masked_mse"))[0].parts["height"]


def test_commands_from_training_to_evaluation(workspace: Workspace, planned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--workspace", str(workspace.raw.parent)]
    assert train.main([planned, "2d", "0", "--epochs", "2", "--iterations_per_epoch", "2", *SMALL, *where]) == 0
    said = capsys.readouterr().out
    assert "val_mae" in said
    assert ("val_dice" in said) == (planned == MIXED)
    images = workspace.raw / planned / "imagesTs"
    assert predict.main(["-i", str(images), "-o", str(tmp_path), "-d", planned, "-c", "2d", "-f", "0", "-device", "cpu", *where]) == 0
    stem = "new_height" if planned == MIXED else "new"
    found, image = read_image(tmp_path / f"{stem}.nii.gz"), read_image(images / "new_0000.nii.gz")
    assert found.array.shape == (2, *image.space.shape)
    assert found.array.dtype == np.float32
    assert found.space.same_as(image.space)
    assert (tmp_path / "overview" / f"{stem}.png").is_file()
    assert evaluate.main([str(tmp_path), "-d", planned, "-np", "1", *where]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    key = "height: channel 0" if planned == MIXED else "channel 0"
    figures = summary["metric_per_case"][0]["metrics"][key]
    truth = height(image.array)[0]
    assert figures["MAE"] == pytest.approx(np.abs(found.array[0].astype(np.float64) - truth).mean(), rel=1e-5)
    assert set(figures) == {"MAE", "RMSE", "PSNR", "SSIM"}
    assert ("Dice" in summary["foreground_mean"]) == (planned == MIXED)
    assert "height 0" in capsys.readouterr().out


def test_values_come_back_from_any_grid(workspace: Workspace) -> None:
    """Normalising and its inverse; a plane on another grid is the same plane; unknown stays unknown."""
    values = [MapValues(1000, 12.5, 0, 2000, 3, "float32"), MapValues(-7, 0.02, -9, 0, 4, "float32")]
    maps = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32) * 30
    np.testing.assert_allclose(restore_values(normalise_maps(maps, values), values), maps, rtol=1e-5, atol=1e-4)
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[None, None, None], (1, 4, 30, 40)).copy()
    finer = resample_maps(ramp, (4, 30, 80), (5, 1, 1), (5, 1, 0.5), Resampling())
    np.testing.assert_allclose(finer[0, 0, 0, 10:70], ((np.arange(80) + 0.5) / 2 - 0.5)[10:70] / 39, atol=1e-4)
    holed = ramp.copy()
    holed[:, :, :9] = np.nan
    coarse = resample_maps(holed, (4, 15, 20), (5, 1, 1), (5, 2, 2), Resampling())
    assert np.isnan(coarse[:, :, :4]).all()
    np.testing.assert_allclose(coarse[0, 0, 6], (2 * np.arange(20) + 0.5) / 39, atol=1e-5)


def test_a_prediction_of_another_number_of_channels_is_refused(workspace: Workspace) -> None:
    plan_and_preprocess(workspace, ALONE, processes=1)
    plans = plans_of(workspace, ALONE)
    properties = DenseDataset(workspace.preprocessed / ALONE / "nnRegPlans_2d").properties(CASES[0])
    with pytest.raises(NnRegError, match=r"expected \(2, D, H, W\)"):
        restore_maps(np.zeros((3, 1, 4, 4), np.float32), properties, plans, plans.configurations["2d"], plans.targets["height"])


def test_bad_targets_are_told_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    raw = tmp_path / "nnReg_raw" / "Dataset043_Bad"
    grids = tiny_datasets.spaces((12, 14), CASES[:2])
    tiny_datasets.write_dataset(raw, grids, task="dense_prediction", labels={}, targets={"height": {"kind": "regression"}})
    bad = Workspace.resolve(tmp_path)

    def put(values: np.ndarray, case: str = CASES[0]) -> None:
        write_image(raw / "labelsTr" / f"{case}.nii.gz", values.astype(np.float32), grids[case])

    shape = grids[CASES[0]].shape
    for case in CASES[:2]:
        put(np.zeros((1, *grids[case].shape)), case)
    with pytest.raises(NnRegError, match=r"'height' has one value everywhere"):
        plan_and_preprocess(bad, "Dataset043_Bad", processes=1)
    for values, message in (
        (np.full((1, *shape), np.inf), "holds infinite values"),
        (np.full((1, *shape), np.nan), "nothing but NaN"),
        (np.ones((2, *shape)), "has 2 channels, the target 1"),
    ):
        put(values)
        with pytest.raises(NnRegError, match=rf"case_0\.nii\.gz: .*{message}"):
            plan_and_preprocess(bad, "Dataset043_Bad", processes=1)
        (problem,) = verify_dataset(RawDataset.open(raw)).problems
        assert message in problem
    write_image(raw / "labelsTr" / f"{CASES[0]}.nii.gz", np.ones((1, 5, 5), np.float32), tiny_datasets.oblique_space((5, 5), 0))
    with pytest.raises(NnRegError, match=r"has shape \(5, 5\), its image"):
        plan_and_preprocess(bad, "Dataset043_Bad", processes=1)
