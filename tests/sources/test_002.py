"""Segmentation described by a graph of nodes (JSON): every printed example trains, typed as printed; sizes and epochs are lowered."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnreg.architecture import build_dense_network, build_network
from nnreg.architecture.custom import transformers
from nnreg.cli import import_, train
from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.training.configs import TRAINER_CONFIGS
from nnreg.training.importers import read_run

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ["--epochs", "1", "--iterations_per_epoch", "1", "--set", "validation_iterations=1", "-device", "cpu", "-q"]


def write_cases(folder: Path, shape: tuple[int, ...], ending: str, *, label: int = 1, cases: int = 5) -> None:
    """Bright boxes in noise, and where they are."""
    rng = np.random.default_rng(len(shape))
    for case in range(cases):
        truth = np.zeros((1, *shape), np.uint8)
        truth[(0, *(slice(size // 4 + case % 2, 3 * size // 4) for size in shape))] = label
        image = (150 * (truth > 0) + rng.integers(0, 60, truth.shape)).astype(np.uint8)
        for kind, array in (("images", image), ("labels", truth)):
            write_image(folder / kind / f"case{case}{ending}", array, Space.plain(shape))


@dataclass(frozen=True)
class Bench:
    """A workspace with an imported dataset of tiny slices and a narrow network, and what a file trains on it."""

    root: Path

    def train(self, text: str, name: str, *more: str) -> tuple[dict[str, Any], Path]:
        """Resolved configuration and folder of a training with the recipe of a file that holds `text`."""
        (self.root / f"{name}.json").write_text(text)
        words = ["1", "2d", "0", "--from_config", str(self.root / f"{name}.json"), *SHORT, "--workspace", str(self.root)]
        assert train.main([*words, *more]) == 0
        return results(self.root, name)


def results(root: Path, name: str) -> tuple[dict[str, Any], Path]:
    """The configuration of a finished training and its folder."""
    # the folder of a file that is called like a recipe of nnReg's says so
    folder = next(fold for recipe in (name, f"{name}.yaml") for fold in (root / "nnReg_results").glob(f"*/{recipe}__*/fold_0"))
    assert (folder / "validation_summary.json").is_file()
    return read_json(folder / "debug.json")["configuration"], folder


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ and labels/."""
    folder = tmp_path_factory.mktemp("slices")
    write_cases(folder, (24, 32), ".png")
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, slices: Path) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    (root / "loader.json").write_text(json.dumps({"type": "MedicalSegmentationLoader", "name": "data_loader", "config": {"data_dir": str(slices)}}))
    assert import_.main([str(root / "loader.json"), "-np", "1", "--workspace", str(root)]) == 0
    plans = next(root.glob("nnReg_preprocessed/*/nnRegPlans.json"))
    content = read_json(plans)
    network = content["configurations"]["2d"]["architecture"]
    network["features_per_stage"] = [4, 8, 16]
    write_json(plans, content)
    return Bench(root)


# -- the printed nodes and the insides of nodes -------------------------------------------------------------------------------------

SNIPPETS: dict[str, tuple[str, dict[str, Any]]] = {
    "dice_loss": ('{"type": "LossFunction", "name": "dice_loss", "config": {"loss_type": "dice", "smooth": "1.0"}}', {}),
    "ce_loss": ('{"type": "LossFunction", "name": "ce_loss", "config": {"loss_type": "cross_entropy", "class_weights": "[0.3, 0.7]"}}', {}),
    "focal_loss": ('{"type": "LossFunction", "name": "focal_loss", "config": {"loss_type": "focal", "alpha": "0.25", "gamma": "2.0"}}', {}),
    "combined_loss": (
        '{"type": "LossFunction", "name": "combined_loss", "config": {"loss_type": "combined", "dice_weight": "0.5", "ce_weight": "0.5"}}',
        {},
    ),
    "combined_boundary": (
        '{"type": "LossFunction", "name": "combined_boundary", "config": '
        '{"loss_type": "combined", "dice_weight": "0.4", "ce_weight": "0.4", "boundary_weight": "0.2"}}',
        {},
    ),
    "adam": (
        '{"type": "Optimizer", "name": "adam", "config": {"optimizer_type": "Adam", "learning_rate": "0.0001", '
        '"betas": "[0.9, 0.999]", "eps": "1e-8", "weight_decay": "0.00001"}}',
        {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 1e-5, "optimizer_kwargs": {"betas": [0.9, 0.999], "eps": 1e-8}},
    ),
    "adamw": (
        '{"type": "Optimizer", "name": "adamw", "config": {"optimizer_type": "AdamW", "learning_rate": "0.0001", '
        '"betas": "[0.9, 0.999]", "weight_decay": "0.0001"}}',
        {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "optimizer_kwargs": {"betas": [0.9, 0.999]}},
    ),
    "sgd": (
        '{"type": "Optimizer", "name": "sgd", "config": {"optimizer_type": "SGD", "learning_rate": "0.01", '
        '"momentum": "0.9", "weight_decay": "0.0001", "nesterov": "true"}}',
        {"optimizer": "sgd", "learning_rate": 1e-2, "optimizer_kwargs": {"momentum": 0.9, "nesterov": True}},
    ),
    "step": (
        '{"lr_schedule": "step", "step_size": "50", "gamma": "0.1"}',
        {"lr_schedule": "step", "lr_schedule_kwargs": {"step_size": 50, "gamma": 0.1}},
    ),
    "cosine": (
        '{"lr_schedule": "cosine", "T_max": "200", "eta_min": "1e-6"}',
        {"lr_schedule": "cosine", "lr_schedule_kwargs": {"T_max": 200, "eta_min": 1e-6}},
    ),
    "plateau": (
        '{"lr_schedule": "plateau", "patience": "10", "factor": "0.5"}',
        {"lr_schedule": "plateau", "lr_schedule_kwargs": {"patience": 10, "factor": 0.5}},
    ),
    "accumulation": ('{"batch_size": "2", "gradient_accumulation_steps": "4"}', {"batch_size": 2, "gradient_accumulation_steps": 4}),
    "stopping": (
        '{"epochs": "300", "early_stopping": "true", "patience": "30", "min_delta": "0.001"}',
        {"early_stopping": {"patience": 30, "min_delta": 0.001}},
    ),
    "mixed": ('{"type": "Trainer", "name": "trainer", "config": {"mixed_precision": "true"}}', {"mixed_precision": "auto"}),
    "clip": ('{"gradient_clip": "1.0", "gradient_clip_type": "norm"}', {"gradient_clip": 1.0, "gradient_clip_type": "norm"}),
    "warmup": ('{"warmup_epochs": "10", "warmup_type": "linear"}', {"warmup_epochs": 10}),
    "checkpoints": (
        '{"checkpoint_dir": "checkpoints/", "save_frequency": "10", "save_best_only": "true", "monitor": "val_dice"}',
        {"monitor": "val_dice", "checkpoints": {"every": 10, "keep_last": 0, "best_only": True, "latest_every": 1, "delete_latest": False}},
    ),
    "nan": ('{"learning_rate": "0.00001", "gradient_clip": "1.0"}', {"learning_rate": 1e-5, "gradient_clip": 1.0}),
    "decay": ('{"weight_decay": "0.001"}', {"weight_decay": 0.001}),
    "strong": ('{"augmentation": "true", "augmentation_strength": "strong"}', {}),
    "patience": ('{"early_stopping": "true", "patience": "20"}', {"early_stopping": {"patience": 20, "min_delta": 0.0}}),
    "only_dice": ('{"loss_type": "dice"}', {}),
    "weighted": ('{"loss_type": "cross_entropy", "class_weights": "[0.1, 0.9]"}', {}),
    "only_focal": ('{"loss_type": "focal", "alpha": "0.25", "gamma": "2.0"}', {}),
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_printed_snippet_trains(bench: Bench, name: str) -> None:
    text, expected = SNIPPETS[name]
    configuration, folder = bench.train(text, name)
    for key, value in expected.items():
        found = configuration["training"][key]
        assert ({name: found[name] for name in value} if isinstance(value, dict) else found) == value
    assert (folder / "checkpoint_final.pth").is_file()
    assert (folder / "checkpoint_latest.pth").is_file() == (name != "checkpoints")


def test_strong_augmentation_is_pose_intensity_and_elastic_deformation(bench: Bench) -> None:
    configuration, _ = bench.train(SNIPPETS["strong"][0], "all_kinds")
    found = configuration["training"]["augmentation"]
    assert found["pose"]["rotation_probability"] == found["elastic"]["probability"] == 0.4
    assert found["pose"]["mirror_axes"] == [0, 1]  # the rest is the plan's
    assert found["intensity"]["gamma_probability"] == 0.5


def test_the_printed_dropout_is_a_layer_of_the_network(bench: Bench) -> None:
    _, folder = bench.train('{"weight_decay": "0.001"}', "printed_layer", "--set", "architecture.dropout=0.5")
    assert sum(line.strip().endswith("Dropout(p=0.5, inplace=False)") for line in read_json(folder / "debug.json")["network"]) > 2


class Own(nn.Module):
    """A network of a user, with the printed layer."""

    def __init__(self, *, channels: int, outputs: int, ndim: int, **plan: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.Dropout(p=0.5), nn.ReLU(), nn.Conv2d(4, outputs, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.layers(images)]


def test_the_printed_dropout_in_a_network_of_ones_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = ["1", "2d", "0", "-tr", f"{Path(__file__).stem}:Own", *SHORT, "--workspace", str(bench.root)]
    assert train.main(words) == 0


def test_curves_go_to_tensorboard(bench: Bench) -> None:
    pytest.importorskip("tensorboard")
    _, folder = bench.train('{"weight_decay": "0.001"}', "curves")
    assert any((folder / "tensorboard").iterdir())


# -- normalisation and dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["dropout", "batch_norm", "group_norm", "dropout+group_norm+cnn_preset", "resenc_m+batch_norm", "deeplab_preset"])
def test_choices_of_a_network_train(bench: Bench, recipe: str) -> None:
    words = ["1", "2d", "0", "-tr", recipe, *SHORT, "--workspace", str(bench.root)]
    assert train.main(words) == 0
    configuration, folder = results(bench.root, recipe)
    network = "\n".join(read_json(folder / "debug.json")["network"])
    assert ("BatchNorm" in network, "GroupNorm" in network) == ("batch_norm" in recipe, "group_norm" in recipe)
    assert ("InstanceNorm" in network) == ("_norm" not in recipe)
    if "preset" in recipe:
        training = configuration["training"]
        assert (training["optimizer"], training["learning_rate"]) == (("adam", 1e-4) if "cnn" in recipe else ("sgd", 1e-2))


def dense(name: str = "plain_unet", **options: Any) -> nn.Module:
    stages: dict[str, Any] = {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3),) * 2, "features_per_stage": (6, 12), "blocks_per_stage": (1, 1)}
    return build_dense_network(name, channels=1, outputs=2, ndim=2, **stages, **options)


@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet"])
def test_dropout_works_in_training_alone_and_every_normalisation_takes_any_number_of_features(name: str) -> None:
    images = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    for kind in ("instance", "batch", "group"):
        network = dense(name, normalization=kind, dropout=0.5)
        assert not torch.equal(network(images)[0], network(images)[0])
        network.eval()
        assert torch.equal(network(images)[0], network(images)[0])
    # group normalisation sees one sample: its neighbours in the batch do not matter
    network = dense(name, normalization="group").eval()
    torch.testing.assert_close(network(images)[0][:1], network(images[:1])[0])


def test_networks_for_registration_have_the_same_choices() -> None:
    stages: dict[str, Any] = {"strides": ((1, 1), (2, 2), (2, 2)), "kernel_sizes": ((3, 3),) * 3, "features_per_stage": (4, 6, 8), "blocks_per_stage": (1,) * 3}
    for kind, layer in (("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)):
        network = build_network("plain_unet", channels=1, ndim=2, **stages, normalization=kind, dropout=0.2)
        layers = list(network.modules())
        assert any(isinstance(module, layer) for module in layers)
        assert any(isinstance(module, nn.Dropout) for module in layers)
        images = torch.rand(2, 1, 16, 20, generator=torch.Generator().manual_seed(1))
        assert network(fixed=images, moving=images)[0].shape == (2, 2, 16, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "groups"}, "did you mean 'group'"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": "half"}, "below 1"),
        ({"dropuot": 0.5}, "did you mean 'dropout'"),
    ],
)
def test_a_wrong_choice_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NnRegError, match=message):
        dense(**options)


def test_the_recipe_of_the_transformer_brings_its_training() -> None:
    training = TRAINER_CONFIGS["swin_unetr"].training
    assert (training["optimizer"], training["learning_rate"], training["weight_decay"]) == ("adamw", 1e-4, 1e-4)
    assert (training["warmup_epochs"], training["gradient_clip"], training["lr_schedule"]) == (10, 1.0, "cosine")


# -- metrics ------------------------------------------------------------------------------------------------------------------------


def test_an_epoch_and_the_validation_measure_precision_recall_and_accuracy(bench: Bench) -> None:
    _, folder = bench.train('{"learning_rate": "0.001"}', "metrics")
    log = (folder / "training_log.txt").read_text()
    assert all(f"val_{name} = " in log for name in ("dice", "iou", "precision", "recall", "accuracy"))
    summary = read_json(folder / "validation_summary.json")
    for case in summary["metric_per_case"]:
        found = case["metrics"]["1"]
        voxels = found["TP"] + found["FP"] + found["FN"] + found["TN"]
        assert found["Accuracy"] == pytest.approx((found["TP"] + found["TN"]) / voxels)
        assert found["Recall"] == pytest.approx(found["TP"] / found["n_ref"])
        assert found["Precision"] is None if not found["n_pred"] else found["Precision"] == pytest.approx(found["TP"] / found["n_pred"])
    assert 0 <= summary["foreground_mean"]["Accuracy"] <= 1


# -- the complete configurations ----------------------------------------------------------------------------------------------------

CONFIGURATION_1 = """{
  "workflow": "U-Net Training",
  "nodes": [
    {"type": "MedicalSegmentationLoader", "name": "data_loader",
     "config": {"data_dir": "data/medical", "batch_size": "8", "image_size": "256", "augmentation": "true"}},
    {"type": "UNet2D", "name": "model", "config": {"in_channels": "1", "out_channels": "2", "base_channels": "4"}},
    {"type": "LossFunction", "name": "loss", "config": {"loss_type": "combined", "dice_weight": "0.5", "ce_weight": "0.5"}},
    {"type": "Optimizer", "name": "optimizer", "config": {"optimizer_type": "Adam", "learning_rate": "0.0001", "weight_decay": "0.00001"}},
    {"type": "Trainer", "name": "trainer",
     "config": {"epochs": "100", "device": "cuda", "checkpoint_dir": "checkpoints/unet", "save_best_only": "true", "early_stopping": "true", "patience": "20"}}
  ]
}"""
CONFIGURATION_2 = """{
  "workflow": "Swin-UNETR Training",
  "nodes": [
    {"type": "MedicalSegmentationLoader", "name": "data_loader",
     "config": {"data_dir": "data/3d_volumes", "batch_size": "2", "image_size": "96", "augmentation": "true"}},
    {"type": "SwinUNETR", "name": "model", "config": {"img_size": "96", "in_channels": "1", "out_channels": "2", "embed_dim": "12"}},
    {"type": "LossFunction", "name": "loss", "config": {"loss_type": "combined", "dice_weight": "0.5", "focal_weight": "0.5"}},
    {"type": "Optimizer", "name": "optimizer", "config": {"optimizer_type": "AdamW", "learning_rate": "0.0001", "weight_decay": "0.0001"}},
    {"type": "Trainer", "name": "trainer",
     "config": {"epochs": "200", "device": "cuda", "mixed_precision": "true", "gradient_clip": "1.0", "warmup_epochs": "10", "lr_schedule": "cosine",
                "checkpoint_dir": "checkpoints/swin_unetr"}}
  ]
}"""
CONFIGURATION_3 = """{
  "workflow": "Small Dataset Training",
  "nodes": [
    {"type": "MedicalSegmentationLoader", "name": "data_loader",
     "config": {"data_dir": "data/small", "batch_size": "4", "image_size": "256", "augmentation": "true", "augmentation_strength": "strong"}},
    {"type": "UNet2D", "name": "model", "config": {"in_channels": "1", "out_channels": "2", "base_channels": "4"}},
    {"type": "LossFunction", "name": "loss", "config": {"loss_type": "dice"}},
    {"type": "Optimizer", "name": "optimizer", "config": {"optimizer_type": "Adam", "learning_rate": "0.0001", "weight_decay": "0.0001"}},
    {"type": "Trainer", "name": "trainer", "config": {"epochs": "300", "device": "cuda", "early_stopping": "true", "patience": "50"}}
  ]
}"""


def from_file(root: Path, text: str, *more: str) -> int:
    (root / "my_run.json").write_text(text)
    return train.main(["--from_config", str(root / "my_run.json"), *SHORT, "--workspace", str(root), *more])


def test_configuration_1_a_unet_on_a_moderate_dataset(tmp_path: Path, slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(slices, tmp_path / "data" / "medical")
    assert from_file(tmp_path, CONFIGURATION_1) == 0
    configuration, folder = results(tmp_path, "myrun")
    training = configuration["training"]
    assert (training["optimizer"], training["learning_rate"], training["weight_decay"], training["batch_size"]) == ("adam", 1e-4, 1e-5, 8)
    assert (training["early_stopping"]["patience"], training["checkpoints"]["best_only"]) == (20, True)
    assert configuration["architecture"]["features_per_stage"][:2] == [4, 8]
    assert not (folder / "checkpoint_latest.pth").exists()
    said = capsys.readouterr().out
    for key in ("image_size 256", "in_channels 1, out_channels 2", "device cuda", "checkpoint_dir checkpoints/unet", "epochs 100"):
        assert f"\n{key}: " in f"\n{said}"


class StandIn(nn.Module):
    """In place of MONAI's network where MONAI is not installed."""

    def __init__(self, *, in_channels: int, feature_size: int, spatial_dims: int, **_: Any) -> None:
        super().__init__()
        self.layer = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(in_channels, feature_size, 1)
        self.out: nn.Module = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(images))


def test_configuration_2_a_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("monai") is None:
        monkeypatch.setattr(transformers, "_swin_unetr", lambda: StandIn)
    write_cases(tmp_path / "data" / "3d_volumes", (32, 32, 32), ".nii.gz")
    assert from_file(tmp_path, CONFIGURATION_2) == 0
    configuration, _ = results(tmp_path, "myrun")
    training = configuration["training"]
    assert (configuration["architecture"]["name"], configuration["architecture"]["kwargs"]) == ("swin_unetr", {"feature_size": 12})
    assert (training["optimizer"], training["gradient_clip"], training["warmup_epochs"], training["lr_schedule"]) == ("adamw", 1.0, 10, "cosine")
    assert len(configuration["patch_size"]) == 3
    said = capsys.readouterr().out
    assert "\nmixed_precision true: " in f"\n{said}"
    assert "\nimg_size 96: not used" in f"\n{said}"


def test_configuration_3_a_small_dataset_with_heavy_augmentation(tmp_path: Path, slices: Path) -> None:
    shutil.copytree(slices, tmp_path / "data" / "small")
    assert from_file(tmp_path, CONFIGURATION_3, "--iterations_per_epoch", "3") == 0
    configuration, _ = results(tmp_path, "myrun")
    training = configuration["training"]
    assert (training["batch_size"], training["early_stopping"]["patience"], training["weight_decay"]) == (4, 50, 1e-4)
    assert training["augmentation"]["elastic"]["probability"] == 0.4


def test_a_network_of_slices_trains_on_the_slices_of_volumes(tmp_path: Path) -> None:
    write_cases(tmp_path / "data" / "medical", (6, 18, 20), ".nii.gz")
    assert from_file(tmp_path, CONFIGURATION_1) == 0
    configuration, folder = results(tmp_path, "myrun")
    assert folder.parent.name.endswith("__2d")
    assert len(configuration["patch_size"]) == 2


# -- what does not work as printed is told, before anything is written --------------------------------------------------------------


def changed(text: str, **configs: Any) -> dict[str, Any]:
    """A configuration with values of its nodes replaced."""
    content = json.loads(text)
    for node in content["nodes"]:
        node["config"] |= configs.get(node["name"], {})
    return content


def twice(content: dict[str, Any], name: str) -> dict[str, Any]:
    return content | {"nodes": [*content["nodes"], *(node for node in content["nodes"] if node["name"] == name)]}


def another_type(content: dict[str, Any], kind: str) -> dict[str, Any]:
    return content | {"nodes": [node | {"type": kind} if node["name"] == "model" else node for node in content["nodes"]]}


ONE = json.loads(CONFIGURATION_1)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a class too few": (changed(CONFIGURATION_1, loss={"loss_type": "combined", "ce_weight": "1", "class_weights": "[1, 2, 3]"}), "class_weights"),
    "a word for a number": (changed(CONFIGURATION_1, data_loader={"batch_size": "many"}), "batch_size: expected int"),
    "a number for a truth": (changed(CONFIGURATION_1, trainer={"save_best_only": "3"}), "best_only: expected bool"),
    "a rate of zero": (changed(CONFIGURATION_1, optimizer={"learning_rate": "0"}), "learning_rate is 0"),
    "other channels": (changed(CONFIGURATION_1, model={"in_channels": "3"}), "has 1 channels, the network's in_channels is 3"),
    "two losses": (twice(ONE, "loss"), "2 nodes of a kind"),
    "two rates": (changed(CONFIGURATION_1, trainer={"learning_rate": "0.1"}), "another node says 0.0001"),
    "a monitor": (changed(CONFIGURATION_1, trainer={"monitor": "val_dise"}), "did you mean 'val_dice'"),
    "a device": (changed(CONFIGURATION_1, trainer={"device": "tpu"}), "device 'tpu' is unknown"),
    "a network for volumes": (another_type(ONE, "UNet3D"), "Use UNet2D"),
    "a network we do not have": (another_type(ONE, "DeepLabV3+"), "The nearest is plain_unet with -tr deeplab_preset"),
    "a misspelt node": (another_type(ONE, "UNet2d"), "did you mean 'UNet2D'"),
    "a misspelt config": ({"nodes": [{"type": "Trainer", "confg": {}}]}, "did you mean 'config'"),
    "a strength": (changed(CONFIGURATION_1, data_loader={"augmentation_strength": "strongest"}), "did you mean 'strong'"),
    "an embedding": (another_type(changed(CONFIGURATION_2, model={"embed_dim": "10"}), "SwinUNETR"), "multiple of 12"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_train_is_refused_before_anything_is_written(tmp_path: Path, slices: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, message = REFUSED[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "medical").symlink_to(slices)
    assert from_file(tmp_path, json.dumps(content)) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.glob("nnReg_*/*"))


def test_labels_beyond_the_outputs_are_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "medical"
    write_cases(folder, (24, 32), ".png")
    write_image(folder / "labels" / "case3.png", np.tile(np.arange(4, dtype=np.uint8), (1, 24, 8)), Space.plain((24, 32)))
    assert from_file(tmp_path, CONFIGURATION_1) == 2
    assert f"{folder / 'labels' / 'case3.png'}: holds the " in capsys.readouterr().err
    assert not list(tmp_path.glob("nnReg_*/*"))


def test_without_monai_the_transformer_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "monai.networks.nets", None)
    write_cases(tmp_path / "data" / "3d_volumes", (12, 14, 10), ".nii.gz", cases=2)
    assert from_file(tmp_path, CONFIGURATION_2) == 2
    assert "pip install 'nnreg[monai]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("nnReg_*/*"))


NOTED: dict[str, tuple[dict[str, Any], str]] = {
    "image_size": ({"type": "MedicalSegmentationLoader", "config": {"image_size": "256"}}, "image_size 256: not used"),
    "spacing": ({"type": "MedicalSegmentationLoader", "config": {"spacing": "[1, 1, 1]"}}, "spacing [1, 1, 1]: not used"),
    "no_folder": ({"type": "MedicalSegmentationLoader", "config": {"data_dir": "nowhere"}}, "does not exist; name a dataset"),
    "strength": ({"augmentation": "false", "augmentation_strength": "strong"}, "augmentation is off"),
    "patience": ({"early_stopping": "false", "patience": "20", "min_delta": "0.1"}, "patience 20: not used, early_stopping is not on"),
    "delta": ({"min_delta": "0.1"}, "min_delta 0.1: not used, early_stopping is not on"),
    "both": ({"early_stopping": "true", "patience": "30", "lr_schedule": "plateau"}, "patience 30: of early stopping"),
    "frequency": ({"save_frequency": "10", "save_best_only": "true"}, "save_frequency 10: not used with save_best_only"),
    "smooth": ({"loss_type": "combined", "ce_weight": "1", "smooth": "1"}, "smooth 1: not used, there is no dice_weight"),
    "edges": ({"workflow": "w", "nodes": [{"type": "Trainer", "config": {}}], "edges": []}, "edges: not used"),
    "position": ({"nodes": [{"type": "Trainer", "config": {}, "position": [1, 2]}]}, "position of Trainer: not used"),
}


@pytest.mark.parametrize("name", NOTED)
def test_a_key_that_is_not_used_is_told_with_the_reason(tmp_path: Path, name: str) -> None:
    content, note = NOTED[name]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert any(note in found for found in read_run(tmp_path / "run.json").notes)


@pytest.mark.parametrize(
    ("content", "check"),
    [
        ({"type": "MedicalSegmentationLoader", "config": {"num_workers": "3"}}, lambda run: run.workers == 3),
        ({"lr_schedule": "polynomial"}, lambda run: run.recipe.training["lr_schedule"] == "poly"),
        ({"augmentation": "false"}, lambda run: run.recipe.training == {"augmentation": {}}),
        ({"augmentation_strength": "medium"}, lambda run: run.recipe.training == {}),
        ({"workflow": "U-Net Training", "nodes": []}, lambda run: run.recipe.description == "U-Net Training"),
    ],
)
def test_further_keys_arrive(tmp_path: Path, content: dict[str, Any], check: Callable[[Any], bool]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert check(read_run(tmp_path / "run.json"))
