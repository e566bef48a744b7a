"""Training of dense prediction on a tiny real dataset: samples, epochs, resuming, cascade, recipes."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as tiny_datasets
import torch

from nnreg.errors import TrainingError
from nnreg.files import read_json
from nnreg.planning.plans import Plans
from nnreg.preprocessing import plan_and_preprocess
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.preprocessing.registration.storage import write_array
from nnreg.tasks.dense_prediction.cascade import FOLDER, PreviousStage
from nnreg.tasks.dense_prediction.samples import PatchSamples
from nnreg.training.execution.run import build_trainer
from nnreg.training.trainer.checkpoint import LATEST
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

NAME = "Dataset031_Organs"
SMALL = {
    "epochs": 3,
    "iterations_per_epoch": 3,
    "validation_iterations": 2,
    "batch_size": 2,
    "architecture.base_features": 4,
    "learning_rate": 0.003,
    "optimizer": "adam",
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Six volumes of about 16 x 20 x 18 voxels with labels 3 and 7, planned and preprocessed in 2D and 3D."""
    root = tmp_path_factory.mktemp("dense")
    tiny_datasets.write_dataset(root / "nnReg_raw" / NAME, tiny_datasets.spaces((16, 20, 18), [f"case_{i}" for i in range(6)]), task="dense_prediction")
    workspace = Workspace.resolve(root)
    plan_and_preprocess(workspace, NAME, processes=1)
    return workspace


def make(workspace: Workspace, configuration: str = "3d_fullres", **overrides: Any) -> nnRegTrainer:
    trainer = build_trainer(workspace, NAME, configuration, overrides.pop("fold", 0), trainer=overrides.pop("trainer", "nnRegTrainer"), device="cpu")
    return type(trainer)(
        plans=trainer.plans,
        configuration=configuration,
        spec=trainer.spec,
        fold=trainer.fold,
        folders=trainer.folders,
        name=trainer.name,
        recipe=trainer.recipe,
        overrides=SMALL | overrides,
    )


def trained(trainer: nnRegTrainer) -> nnRegTrainer:
    """All epochs, without the validation on native grids, which has its own tests."""
    trainer.perform_actual_validation = lambda: {}  # type: ignore[method-assign]
    trainer.run_training()
    return trainer


@pytest.mark.parametrize(("configuration", "recipe"), [("2d", "dice_ce"), ("3d_fullres", "nnRegTrainer")])
def test_training_learns_and_says_what_it_reached(workspace: Workspace, configuration: str, recipe: str) -> None:
    trainer = trained(make(workspace, configuration, epochs=4, iterations_per_epoch=6, trainer=recipe))
    values = trainer.history.values
    assert values["train_loss"][-1] < values["train_loss"][0]
    assert all(value <= 0 for name, series in values.items() if "dice_loss" in name for value in series)
    assert all(0 <= value <= 1 for name in ("val_dice", "val_dice_3", "val_dice_7") for value in values[name] if np.isfinite(value))
    assert " waiting)" in (trainer.output_folder / "training_log.txt").read_text()
    saved = torch.load(trainer.output_folder / "checkpoint_best.pth", weights_only=True)
    assert saved["init"]["configuration"]["patch_size"] == list(trainer.configuration.patch_size)  # type: ignore[attr-defined]


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(workspace: Workspace) -> None:
    whole = trained(make(workspace, fold=1))
    expected = whole.network.state_dict()
    first = make(workspace, fold=2)
    first.fold, first.output_folder = 1, first.folders.fold("resumed")
    first.num_epochs = 3

    def stop() -> None:
        if first.current_epoch == 2:
            raise KeyboardInterrupt

    start = first.on_epoch_start
    first.on_epoch_start = lambda: (stop(), start())[1]  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trained(first)
    second = make(workspace, fold=1)
    second.output_folder = first.output_folder
    second.load_checkpoint(first.output_folder / LATEST)
    assert second.current_epoch == 2
    torch.rand(3)
    trained(second)
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for name, series in whole.history.values.items():
        if name != "epoch_seconds":
            np.testing.assert_array_equal(series, second.history.values[name], err_msg=name)


def samples(workspace: Workspace, configuration: str, split: str = "train", **options: Any) -> PatchSamples:
    trainer = make(workspace, configuration)
    cases = options.pop("cases", None) or trainer.split()[split == "val"]
    arrays = trainer.folders.preprocessed / trainer.configuration.data_identifier
    return PatchSamples(arrays, cases, trainer.configuration, 8, split, split == "train", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_sample_is_a_function_of_its_index_alone(workspace: Workspace, configuration: str) -> None:
    drawn = samples(workspace, configuration)
    forwards = [drawn[index] for index in range(6)]
    again = pickle.loads(pickle.dumps(samples(workspace, configuration)))
    for index in reversed(range(6)):
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        sample = again[index]
        assert all(torch.equal(sample[name], forwards[index][name]) for name in ("image", "labels"))
    patch = tuple(make(workspace, configuration).configuration.grid)
    for sample in forwards:
        assert (sample["image"].dtype, tuple(sample["image"].shape)) == (torch.float32, (1, *patch))
        assert set(sample["labels"].unique().tolist()) <= {0, 3, 7}
    assert any(not torch.equal(forwards[0]["image"], other["image"]) for other in forwards[1:])
    # the second of every batch of two is forced to show a label
    assert all((sample["labels"] > 0).any() for sample in [samples(workspace, configuration, "val")[index] for index in (1, 3, 5, 7)])


def test_pictures_and_dice_of_regions_are_of_label_values(workspace: Workspace) -> None:
    plain = make(workspace, "2d", fold=4)
    regions = dataclasses.replace(plain.spec, labels={"background": 0, "both": (3, 7), "right": 7}, regions_class_order=(3, 7))
    terms = [{"name": "negative_dice"}, {"name": "binary_cross_entropy", "kwargs": {"sum_channels_of_masked": True}}]
    settings = SMALL | {"epochs": 1, "supervision": terms, "tracking.picture": True}
    trainer = nnRegTrainer(plans=plain.plans, configuration="2d", spec=regions, fold=4, folders=plain.folders, name="Regions", overrides=settings)
    trainer.output_folder = plain.folders.fold("regions")
    trained(trainer)
    assert {"val_dice_3+7", "val_dice_7"} <= set(trainer.history.values)
    assert (trainer.output_folder / "debug.png").is_file()
    batch = next(iter(trainer.get_dataloaders()[1]))
    shown = trainer.task.pictures(network=trainer.network.eval(), objective=trainer.objective, batch=batch)
    assert {value.shape for value in shown.values()} == {batch["image"].shape[2:]}
    assert set(shown["prediction"].unique().tolist()) <= {0, 3, 7}


def test_recipes_leave_augmentation_out(workspace: Workspace) -> None:
    assert make(workspace, trainer="no_augmentation").configuration.training.augmentation == {}
    upright = make(workspace, trainer="no_mirroring").configuration.training.augmentation
    assert upright["pose"]["mirror_axes"] == []
    assert upright["pose"]["rotation"] == [-30.0, 30.0]


def test_a_recipe_deforms_patches(workspace: Workspace) -> None:
    plain = make(workspace).configuration.training.augmentation
    trainer = make(workspace, trainer="elastic_deformation", epochs=2, **{"augmentation.elastic.scale": [0.1, 0.2]})
    assert trainer.configuration.training.augmentation == {**plain, "elastic": {"probability": 0.2, "scale": [0.1, 0.2]}}
    values = trained(trainer).history.values
    assert np.isfinite(values["train_loss"]).all()
    assert len(values["val_dice"]) == 2


def test_without_augmentation_a_patch_is_cut_from_the_stored_arrays(workspace: Workspace) -> None:
    drawn = samples(workspace, "3d_fullres", "val")
    stored = DenseDataset(drawn.data.folder)
    for index in range(4):
        sample = drawn[index]
        inside = sample["labels"][0] > 0
        values = {float(value) for value in sample["image"][0][inside].flatten()[:5]}
        assert values
        assert any(values <= set(np.asarray(stored.open(case).image[:]).ravel().tolist()) for case in drawn.cases)


def test_a_cascade_sees_what_the_stage_before_predicted(workspace: Workspace, tmp_path: Path) -> None:
    plain = samples(workspace, "3d_fullres", "val")
    folder = tmp_path / "nnRegTrainer__nnRegPlans__3d_lowres" / FOLDER / "3d_fullres"
    folder.mkdir(parents=True)
    with pytest.raises(TrainingError, match="Train every fold of 3d_lowres first"):
        samples(workspace, "3d_fullres", "val", previous=PreviousStage(folder, ((3, 7),)))
    cases = make(workspace).split()
    for case in (*cases[0], *cases[1]):
        write_array(folder / f"{case}.b2nd", np.asarray(plain.data.open(case).labels[:]).clip(min=0))
    for split in ("val", "train"):
        cascade = samples(workspace, "3d_fullres", split, previous=PreviousStage(folder, ((3, 7),)))
        for index in range(3):
            sample = cascade[index]
            assert sample["image"].shape[0] == 3
            assert set(sample["image"][1:].unique().tolist()) <= {0.0, 1.0}
            if split == "val":
                assert torch.equal(sample["image"][1:], torch.cat([sample["labels"] == 3, sample["labels"] == 7]).float())
                assert torch.equal(sample["image"][:1], plain[index]["image"])


def test_a_cascade_sees_every_target_of_the_stage_before(tmp_path: Path) -> None:
    labels = torch.randint(-1, 8, (4, 5, 6)).to(torch.int16)
    image = torch.randn(1, 5, 6)
    found, kept = PreviousStage(tmp_path, ((3, 7), (2,))).onto(image, labels, None)
    assert torch.equal(kept, labels[:2])
    assert torch.equal(found, torch.stack([image[0], *(plane.float() for plane in (labels[2] == 3, labels[2] == 7, labels[3] == 2))]))
    damaged, _ = PreviousStage(tmp_path, ((3, 7), (2,))).onto(image, labels, np.random.default_rng(0))
    assert damaged.shape == found.shape
    assert torch.equal(damaged[0], image[0])


def test_auxiliary_targets_are_learnt_beside_the_labels(workspace: Workspace) -> None:
    auxiliary = {
        "distance": {"type": "distance_transform", "source_target": "organs", "losses": [{"name": "SignedDistanceLoss", "kwargs": {"rho": 6}}]},
        "normals": {"type": "surface_normals", "losses": [{"name": "cosine", "start_epoch": 1}]},
    }
    plain = make(workspace, "2d", fold=3)
    spec = dataclasses.replace(plain.spec, auxiliary_tasks=auxiliary)
    trainer = nnRegTrainer(
        plans=plain.plans,
        configuration="2d",
        spec=spec,
        fold=3,
        folders=plain.folders,
        name="Auxiliary",
        overrides=SMALL | {"epochs": 5, "iterations_per_epoch": 8},
    )
    trainer.output_folder = plain.folders.fold("auxiliary")
    values = trained(trainer).history.values
    assert values["train_distance_loss"][-1] < values["train_distance_loss"][0]
    assert values["train_normals_loss"][0] == 0 < values["train_normals_loss"][1]
    assert len(values["val_dice"]) == 5


def test_plans_say_how_patches_are_augmented(workspace: Workspace) -> None:
    plans = Plans.read(workspace.preprocessed / NAME / "nnRegPlans.json")
    for name, configuration in plans.configurations.items():
        pose = configuration.training.augmentation["pose"]
        assert pose["mirror_axes"] == list(range(configuration.ndim))
        assert "training.augmentation" in configuration.because, name
    assert read_json(workspace.preprocessed / NAME / "splits_final.json", TrainingError)
