"""Several targets per image and masks, from the dataset's folder to the evaluated label maps of its validation cases."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as tiny_datasets
import torch

from nnreg.dataset import RawDataset
from nnreg.errors import NnRegError
from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder, names_of
from nnreg.imageio import read_image, write_image
from nnreg.preprocessing import plan_and_preprocess
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.tasks.dense_prediction.samples import Annotation, PatchSamples
from nnreg.training.execution.run import build_trainer
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

NAME = "Dataset032_Two"
CASES = [f"case_{i}" for i in range(5)]
SMALL = {
    "epochs": 2,
    "iterations_per_epoch": 3,
    "validation_iterations": 2,
    "batch_size": 2,
    "architecture.base_features": 4,
    "learning_rate": 0.003,
    "optimizer": "adam",
}
TARGETS: dict[str, Any] = {
    "organs": {},
    "body": {
        "labels": {"background": 0, "inside": 1},
        "activation": "sigmoid",
        "loss_weight": 0.5,
        "losses": [{"name": "SoftDiceLoss"}, {"name": "bce", "start_epoch": 1}],
    },
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Five planes with organs 3 and 7 and, as another target, the body that they lie in; the first two say where the organs are annotated."""
    root = tmp_path_factory.mktemp("targets")
    raw = root / "nnReg_raw" / NAME
    auxiliary = {"distance": {"type": "distance_transform", "source_target": "body"}}
    tiny_datasets.write_dataset(raw, tiny_datasets.spaces((22, 26), CASES), task="dense_prediction", targets=TARGETS, auxiliary_tasks=auxiliary)
    for case in CASES:
        image = read_image(raw / "imagesTr" / f"{case}_0000.nii.gz")
        labels = raw / "labelsTr" / f"{case}.nii.gz"
        labels.rename(raw / "labelsTr" / f"{case}_organs.nii.gz")
        write_image(raw / "labelsTr" / f"{case}_body.nii.gz", (image.array > 0).astype(np.int16), image.space)
        if case in CASES[:2]:
            mask = np.zeros_like(image.array, dtype=np.int16)
            mask[:, :, :14] = 1
            write_image(raw / "masksTr" / f"{case}_organs.nii.gz", mask, image.space)
    workspace = Workspace.resolve(root)
    plan_and_preprocess(workspace, NAME, processes=1)
    return workspace


def make(workspace: Workspace, **overrides: Any) -> nnRegTrainer:
    trainer = build_trainer(workspace, NAME, "2d", overrides.pop("fold", 0), device="cpu")
    return type(trainer)(
        plans=trainer.plans,
        configuration="2d",
        spec=trainer.spec,
        fold=trainer.fold,
        folders=trainer.folders,
        name=trainer.name,
        recipe=trainer.recipe,
        overrides=SMALL | overrides,
    )


def arrays(workspace: Workspace) -> Path:
    return workspace.preprocessed / NAME / "nnRegPlans_2d"


def test_arrays_hold_every_target_and_its_mask(workspace: Workspace) -> None:
    data = DenseDataset(arrays(workspace))
    labels = np.asarray(data.open(CASES[0]).labels[:])
    assert labels.shape[0] == 2
    assert set(np.unique(labels[0])) <= {-1, 0, 3, 7}
    assert set(np.unique(labels[1])) <= {-1, 0, 1}
    mask = np.asarray(data.mask(CASES[0])[:])  # type: ignore[index]
    assert mask.shape == labels.shape
    assert 0 < mask[0].mean() < 1
    assert mask[1].all()
    assert data.mask(CASES[4]) is None
    locations = data.locations(CASES[0])
    assert {1, 3, 7} < set(locations)
    for label in (3, 7):
        assert mask[0][tuple(locations[label].T)].all()
    assert set(labels[1][tuple(locations[1].T)]) == {1}


def samples(workspace: Workspace, *, augment: bool = False, cases: list[str] = CASES, **annotation: Any) -> PatchSamples:
    configuration = make(workspace).configuration
    told = Annotation(**{"label_only": (False, False), "ignore": (None, None)} | annotation)
    return PatchSamples(arrays(workspace), cases, configuration, 8, "train", augment, annotation=told)


def test_masks_go_through_augmentation_with_the_labels(workspace: Workspace) -> None:
    for augment in (False, True):
        for sample in (samples(workspace, augment=augment)[index] for index in range(8)):
            assert sample["mask"].shape == sample["labels"].shape
            assert sample["mask"].dtype == torch.bool
            assert sample["labels"].shape[0] == 2
    assert "mask" not in samples(workspace, cases=CASES[2:])[0]


def test_labels_alone_are_learnt_within_masks(workspace: Workspace) -> None:
    only = samples(workspace, cases=CASES[2:], label_only=(True, False))
    for index in range(4):
        sample = only[index]
        assert torch.equal(sample["mask"][0], sample["labels"][0] > 0)
        assert sample["mask"][1].all()
    plain, masked = (samples(workspace, cases=CASES[:1], label_only=(only, False))[1] for only in (False, True))
    assert masked["mask"][0].any()
    assert torch.equal(masked["mask"][0], plain["mask"][0] & (masked["labels"][0] > 0))
    assert torch.equal(masked["mask"][1], plain["mask"][1])


def test_patches_are_drawn_until_they_show_enough(workspace: Workspace) -> None:
    plain, chosen = samples(workspace, cases=CASES[2:]), samples(workspace, cases=CASES[2:], min_labeled_ratio=0.3)
    easy = samples(workspace, cases=CASES[2:], min_labeled_ratio=1e-6)
    shares = [[float((made[index]["labels"] > 0).any(dim=0).float().mean()) for index in range(8)] for made in (plain, chosen)]
    assert all(after >= min(before, 0.3) for before, after in zip(*shares, strict=True))
    for index in range(8):
        if shares[0][index] > 0:
            assert torch.equal(easy[index]["image"], plain[index]["image"])
    assert Annotation(min_bbox_percent=0.5).sufficiency(np.eye(4, dtype=bool)) == 2
    assert Annotation(min_labeled_ratio=0.5).sufficiency(np.eye(4, dtype=bool)) == 0.5
    assert Annotation(min_labeled_ratio=0.5).sufficiency(np.zeros((4, 4), bool)) == 0


def test_training_to_evaluation(workspace: Workspace) -> None:
    trainer = make(workspace)
    trainer.run_training()
    values = trainer.history.values
    assert {"val_dice", "val_dice_organs", "val_dice_body", "val_dice_organs_3", "val_dice_body_1", "train_body_bce_loss", "train_distance_loss"} <= set(values)
    means = np.nanmean([values["val_dice_organs"], values["val_dice_body"]], axis=0)
    np.testing.assert_allclose(values["val_dice"], means, rtol=1e-5)
    folder = trainer.output_folder / "validation_raw"
    cases = [entry["name"] for entry in json.loads((folder / "prediction.json").read_text())["cases"]]
    raw = RawDataset.open(workspace.raw / NAME)
    for case in cases:
        space = raw.read_image(case).space
        for target, allowed in (("organs", {0, 3, 7}), ("body", {0, 1})):
            found = read_image(folder / f"{case}_{target}.nii.gz")
            assert found.space.shape == space.shape
            assert set(np.unique(found.array)) <= allowed
    summary = evaluate_dense_folder(folder, raw, surface=False)
    assert set(summary["mean"]) == {"organs: 3", "organs: 7", "body: 1"}
    assert len(summary["metric_per_case"]) == len(cases)
    assert summary["foreground_mean_per_target"]["body"]["Dice"] == pytest.approx(summary["mean"]["body: 1"]["Dice"], nan_ok=True)
    assert names_of(raw.spec)["body: 1"] == "body inside"
    (folder / f"{cases[0]}_body.nii.gz").unlink()
    with pytest.raises(NnRegError, match=f"{cases[0]}_body"):
        evaluate_dense_folder(folder, raw, surface=False)


def test_memory_counts_every_decoder(workspace: Workspace) -> None:
    trainer = make(workspace)

    def peak(**spec: Any) -> float:
        given = {"plans": trainer.plans, "spec": dataclasses.replace(trainer.spec, **spec), "configuration": trainer.configuration}
        found = trainer.task.memory_gb(build=lambda: trainer.task.network(**given, recipe=trainer.recipe), **given)
        assert found is not None
        return found

    assert peak() > peak(auxiliary_tasks={}) > peak(auxiliary_tasks={}, targets={})


def test_a_mask_of_another_shape_is_refused(workspace: Workspace) -> None:
    raw = workspace.raw / NAME
    path = raw / "masksTr" / f"{CASES[3]}.nii.gz"
    smaller = read_image(raw / "imagesTr" / f"{CASES[3]}_0000.nii.gz").array[:, 1:].astype(np.int16)
    write_image(path, smaller, tiny_datasets.oblique_space(smaller.shape[1:], 0))
    try:
        with pytest.raises(NnRegError, match=rf"masksTr.{CASES[3]}\.nii\.gz: has shape"):
            plan_and_preprocess(workspace, NAME, processes=1)
    finally:
        path.unlink()
