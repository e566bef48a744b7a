"""Files and folders of other programs: what they say arrives, numbers written as text are numbers, and a mistake is told by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nnreg.cli import train as train_command
from nnreg.dataset import RawDataset
from nnreg.errors import ConfigurationError, NnRegError
from nnreg.files import read_json
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.planning.plans import Plans
from nnreg.training.configs import TRAINER_CONFIGS, resolve_trainer
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.importers import import_run, plan_run, read_run
from nnreg.training.importers.dense_prediction.folders import labelled_folder
from nnreg.training.importers.values import values_of
from nnreg.workspace import Workspace

SYNTHETIC: dict[str, Any] = {
    "project": "monai-3d-registration",
    "image_size": [64, 64, 64],
    "wandb": {"enabled": True, "project": "usregistrator", "run_name": "globalnet3d", "offline": False},
    "train_dataset": {"name": "synthetic_ellipsoids", "image_size": [64] * 3, "num_samples": 4000, "noise_std": 0.03, "smooth": True, "seed": 123},
    "val_dataset": {"name": "synthetic_ellipsoids", "image_size": [64] * 3, "num_samples": 200, "noise_std": 0.03, "smooth": True, "seed": 999},
    "model": {"name": "globalnet3d", "num_channel_initial": 16, "depth": 3, "warp_mode": "bilinear", "warp_padding_mode": "border"},
    "loss": {"name": "lncc", "kernel_size": 9, "smooth_nr": "1e-4", "smooth_dr": "1e-2"},
    "optimizer": {"name": "Adam", "lr": "1e-4", "weight_decay": "1e-5"},
    "training": {"epochs": 50, "batch_size": 2, "num_workers": 4, "amp": True, "val_every": 1, "seed": 42},
}


def written(folder: Path, content: Any, name: str = "my_run.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content).replace("'", ""))
    return path


def node(kind: str, **config: Any) -> dict[str, Any]:
    return {"type": kind, "name": kind.lower(), "config": {key: str(value) for key, value in config.items()}}


def test_text_that_looks_like_a_value_is_one():
    given = {"a": "1e-4", "b": "[0.3, 0.7]", "c": "true", "d": "False", "e": "100", "f": "0.00001", "g": "1e3", "h": ".5", "i": "-2"}
    assert values_of(given) == {"a": 1e-4, "b": [0.3, 0.7], "c": True, "d": False, "e": 100, "f": 1e-5, "g": 1000.0, "h": 0.5, "i": -2}
    for text in ("Adam", "1.2.3", "checkpoints/", "nan", "inf", "[a", "3d_fullres"):
        assert values_of(text) == text


# -- synthetic pairs ----------------------------------------------------------------------------------------------------------------


def test_the_template_of_the_synthetic_tutorial(tmp_path):
    run = read_run(written(tmp_path, SYNTHETIC))
    training = run.recipe.training
    assert (run.recipe.architecture, run.recipe.architecture_kwargs) == ("globalnet", {"num_channel_initial": 16, "depth": 3})
    assert training["similarity"] == [{"name": "lncc", "weight": 1.0, "kwargs": {"window": 9, "smooth_nr": 1e-4, "smooth_dr": 1e-2}}]
    assert (training["optimizer"], training["learning_rate"], training["weight_decay"]) == ("adam", 1e-4, 1e-5)
    assert (training["epochs"], training["batch_size"], training["iterations_per_epoch"], training["seed"]) == (50, 2, 2000, 42)
    assert (training["gradient_clip"], training["validate_every"], training["mixed_precision"]) == (1.0, 1, "auto")
    assert (training["tracking.wandb"], training["tracking.wandb_project"], training["tracking.wandb_run"]) == ("on", "usregistrator", "globalnet3d")
    assert training["synthetic"]["train"]["num_samples"] == 4000
    assert (training["synthetic"]["val"]["num_samples"], training["synthetic"]["val"]["seed"]) == (200, 999)
    assert (run.dataset.name, run.dataset.spec.pairing) == ("MyRun", "pairs")


def test_what_a_short_file_leaves_out_is_the_templates(tmp_path):
    whole, short = read_run(written(tmp_path, SYNTHETIC)), read_run(written(tmp_path, {"loss": {"name": "lncc", "kernel_size": 9}}))
    assert {**short.recipe.training, "tracking.wandb": "on", "tracking.wandb_run": "globalnet3d"} == whole.recipe.training
    assert read_run(written(tmp_path, {"loss": {"name": "mse"}})).recipe.training["similarity"] == [{"name": "mse", "weight": 1.0, "kwargs": {}}]


def test_a_true_field_is_an_objective_beside_the_similarity(tmp_path):
    loss = {"name": "lncc_dvf", "image_weight": 2, "dvf_weight": "5e-1", "kernel_size": 5}
    training = read_run(written(tmp_path, {"train_dataset": {"name": "deepreg_synthetic"}, "loss": loss})).recipe.training
    assert training["similarity"] == [{"name": "lncc", "weight": 2, "kwargs": {"window": 5, "smooth_nr": 1e-4, "smooth_dr": 1e-2}}]
    assert training["supervision"] == [{"name": "dvf", "weight": 0.5}]


@pytest.mark.parametrize(("wandb", "mode"), [({"enabled": False}, "off"), ({"enabled": True, "offline": True}, "offline"), ({"enabled": True}, "on")])
def test_tracking_is_off_on_or_offline(tmp_path, wandb, mode):
    assert read_run(written(tmp_path, {"wandb": wandb})).recipe.training["tracking.wandb"] == mode


def test_the_other_models_of_the_tutorial(tmp_path):
    local = read_run(written(tmp_path, {"model": {"name": "localnet3d", "num_channel_initial": 16, "depth": 3}})).recipe
    assert (local.architecture, local.architecture_kwargs["depth"]) == ("localnet", 3)
    model = {"name": "unetreg3d", "channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2], "num_res_units": 2}
    unet = read_run(written(tmp_path, {"model": model})).recipe
    assert (unet.architecture, unet.architecture_kwargs) == ("unetreg_original", {"num_res_units": 2})
    assert unet.training["architecture.features_per_stage"] == [16, 32, 64, 128, 256]
    assert unet.training["architecture.strides"] == [[1] * 3, *[[2] * 3] * 4]


def test_a_network_of_nnregs_own_name_keeps_the_planned_stages(tmp_path):
    recipe = read_run(written(tmp_path, {"model": {"name": "dual_pyramid", "field_resolution": 2}})).recipe
    assert (recipe.architecture, recipe.architecture_kwargs) == ("dual_pyramid", {"field_resolution": 2})
    assert not any(key.startswith("architecture") for key in recipe.training)


def test_true_displacements_are_in_voxels(tmp_path):
    run = read_run(written(tmp_path, {"image_size": [41] * 3, "train_dataset": {"name": "deepreg_synthetic", "max_disp": 0.2}}))
    assert run.recipe.training["synthetic"]["train"]["max_displacement"] == pytest.approx(0.2 * 20)  # 0.2 of half the grid


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trainng": {"epochs": 3}, "model": {"name": "globalnet3d"}}, "did you mean 'training'"),
        ({"training": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"optimizer": {"lr": "fast"}}, "lr: expected float"),
        ({"model": {"name": "globlnet3d"}}, "globalnet3d"),
        ({"model": {"name": "globalnet3d", "dept": 3}}, "did you mean 'depth'"),
        ({"model": {"name": "dual_pyramid", "field_resolutoin": 2}}, "model: network 'dual_pyramid' takes no option .* did you mean 'field_resolution'"),
        ({"model": {"name": "kiunet", "pool": "max"}}, "'pool_type'"),
        ({"model": {"name": "globalnet3d", "warp_padding_mode": "zeros"}}, "border"),
        ({"loss": {"name": "lncc", "kernel": 9}}, "kernel_size"),
        ({"loss": {"name": "lncc", "dvf_weight": 1}}, "dvf_weight is unknown for lncc"),
        ({"loss": {"name": "lncc_dvf"}}, "deepreg_synthetic"),
        ({"image_size": [64] * 3, "train_dataset": {"image_size": [128] * 3}}, "Give both the same"),
    ],
)
def test_a_mistake_in_a_synthetic_run_is_told(tmp_path, content, message):
    with pytest.raises(ConfigurationError, match=message):
        read_run(written(tmp_path, content))


@pytest.mark.slow  # a training at the size that the file names
def test_a_synthetic_run_trains_from_its_file(tmp_path, capsys, one_thread):
    content = {
        "image_size": [16, 20, 18],
        "train_dataset": {"name": "deepreg_synthetic", "num_samples": 4},
        "val_dataset": {"name": "deepreg_synthetic", "num_samples": 3},
        "model": {"name": "unetreg3d", "channels": [4, 4], "strides": [2], "num_res_units": 1},
        "training": {"epochs": 2, "batch_size": 2, "val_every": 1},
    }
    source = written(tmp_path, content)
    assert train_command.main(["--from_config", str(source), "-device", "cpu", "-q", "--workspace", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for line in ("Device: cpu\n", "AMP: False\n", "Train samples: 4, Val samples: 3\n", "[Epoch 001/002] train_loss = ", ", val_grad_l2 = "):
        assert line in said
    plans = Plans.read(tmp_path / "nnReg_preprocessed" / "Dataset001_MyRun" / "nnRegPlans.json")
    assert plans.configuration(plans.recommended).grid == (16, 20, 18)
    values = read_json(next(tmp_path.glob("nnReg_results/*/*/fold_0/debug.json")))["configuration"]["training"]
    assert (values["iterations_per_epoch"], values["lr_schedule"], values["regularisation"]) == (2, "constant", [])
    measured = read_json(next(tmp_path.glob("nnReg_results/*/*/fold_0/validation_summary.json")))["mean"]
    assert 0 < measured["epe_header"] < 2  # the pairs that are written have their true fields beside them
    assert measured["epe_after"] != measured["epe_header"]
    again = read_run(written(tmp_path, {**content, "val_dataset": {"num_samples": 1}}))
    with pytest.raises(NnRegError, match="holds another dataset"):
        import_run(again, source, Workspace.resolve(tmp_path), say=lambda _: None)


# -- workflows of nodes -------------------------------------------------------------------------------------------------------------

LOSSES = [
    ({"loss_type": "dice", "smooth": "1.0"}, "dice", {"smooth": 1}),
    ({"loss_type": "cross_entropy", "class_weights": "[0.3, 0.7]"}, "cross_entropy", {"class_weights": [0.3, 0.7]}),
    ({"loss_type": "focal", "alpha": "0.25", "gamma": "2.0"}, "focal", {"alpha": 0.25, "gamma": 2}),
    ({"loss_type": "combined", "dice_weight": "0.5", "ce_weight": "0.5"}, "combined", {"dice_weight": 0.5, "ce_weight": 0.5}),
    (
        {"loss_type": "combined", "dice_weight": "0.4", "ce_weight": "0.4", "boundary_weight": "0.2"},
        "combined",
        {"dice_weight": 0.4, "ce_weight": 0.4, "boundary_weight": 0.2},
    ),
]


@pytest.mark.parametrize("by_itself", [False, True])
@pytest.mark.parametrize(("config", "name", "kwargs"), LOSSES)
def test_losses_of_nodes(tmp_path, config, name, kwargs, by_itself):
    content = config if by_itself else {"type": "LossFunction", "name": "loss", "config": config}
    recipe = read_run(written(tmp_path, content, "loss.json")).recipe
    assert (recipe.loss, recipe.loss_kwargs) == (name, kwargs)


OPTIMIZERS = [
    (
        node("Optimizer", optimizer_type="Adam", learning_rate="0.0001", betas=[0.9, 0.999], eps="1e-8", weight_decay="0.00001"),
        {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 1e-5, "optimizer_kwargs": {"betas": [0.9, 0.999], "eps": 1e-8}},
    ),
    (
        node("Optimizer", optimizer_type="AdamW", learning_rate="0.0001", betas=[0.9, 0.999], weight_decay="0.0001"),
        {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "optimizer_kwargs": {"betas": [0.9, 0.999]}},
    ),
    (
        node("Optimizer", optimizer_type="SGD", learning_rate="0.01", momentum="0.9", weight_decay="0.0001", nesterov="true"),
        {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 1e-4, "optimizer_kwargs": {"momentum": 0.9, "nesterov": True}},
    ),
]
OPTIONS = [
    ({"lr_schedule": "step", "step_size": "50", "gamma": "0.1"}, {"lr_schedule": "step", "lr_schedule_kwargs": {"step_size": 50, "gamma": 0.1}}),
    ({"lr_schedule": "cosine", "T_max": "200", "eta_min": "1e-6"}, {"lr_schedule": "cosine", "lr_schedule_kwargs": {"T_max": 200, "eta_min": 1e-6}}),
    ({"lr_schedule": "plateau", "patience": "10", "factor": "0.5"}, {"lr_schedule": "plateau", "lr_schedule_kwargs": {"patience": 10, "factor": 0.5}}),
    ({"batch_size": "2", "gradient_accumulation_steps": "4"}, {"batch_size": 2, "gradient_accumulation_steps": 4}),
    (
        {"epochs": "300", "early_stopping": "true", "patience": "30", "min_delta": "0.001"},
        {"epochs": 300, "early_stopping.patience": 30, "early_stopping.min_delta": 0.001},
    ),
    ({"gradient_clip": "1.0", "gradient_clip_type": "norm"}, {"gradient_clip": 1.0, "gradient_clip_type": "norm"}),
    ({"warmup_epochs": "10", "warmup_type": "linear"}, {"warmup_epochs": 10}),
    (
        {"checkpoint_dir": "checkpoints/", "save_frequency": "10", "save_best_only": "true", "monitor": "val_dice"},
        {"checkpoints.every": 10, "checkpoints.best_only": True, "monitor": "val_dice"},
    ),
    ({"learning_rate": "0.00001", "gradient_clip": "1.0"}, {"learning_rate": 1e-5, "gradient_clip": 1.0}),
    ({"weight_decay": "0.001"}, {"weight_decay": 0.001}),
    ({"early_stopping": "true", "patience": "20"}, {"early_stopping.patience": 20}),
    ({"augmentation": "true", "augmentation_strength": "strong"}, dict(TRAINER_CONFIGS["strong_augmentation"].training)),
    (node("Trainer", mixed_precision="true"), {"mixed_precision": "auto"}),
]


@pytest.mark.parametrize(("content", "training"), [*OPTIMIZERS, *OPTIONS])
def test_options_of_nodes_are_options_of_a_training(tmp_path, content, training):
    recipe = read_run(written(tmp_path, content, "node.json")).recipe
    assert {key: pytest.approx(value) if isinstance(value, float) else value for key, value in recipe.training.items()} == training


def training_example() -> Any:
    from test_recipes import CONFIGURATION

    return CONFIGURATION


def test_the_width_of_a_workflows_network_goes_into_every_stage(tmp_path):
    recipe = read_run(written(tmp_path, node("UNet2D", in_channels=1, out_channels=2, base_channels=64), "unet.json")).recipe
    changed = resolve_configuration(training_example(), recipe, "unet", {})
    assert (changed.architecture.name, changed.architecture.features_per_stage) == ("plain_unet", (64, 128))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (node("LossFunction", loss_type="dicee"), "did you mean 'dice'"),
        (node("LossFunction", loss_type="dice", smoth=1), "did you mean 'smooth'"),
        (node("Optimiser", optimizer_type="Adam"), "did you mean 'Optimizer'"),
        (node("Trainer", epoch=3), "did you mean 'epochs'"),
        (node("Trainer", lr_schedule="cosin"), "did you mean 'cosine'"),
        (node("Trainer", warmup_type="exponential"), "valid: linear"),
        ({"what": 1}, "of no form"),
    ],
)
def test_a_mistake_in_a_node_is_told(tmp_path, content, message):
    with pytest.raises(ConfigurationError, match=message):
        read_run(written(tmp_path, content, "node.json"))


# -- several targets ----------------------------------------------------------------------------------------------------------------

TARGETS: dict[str, Any] = {
    "tr_setup": {"model_name": "surface_model", "tr_val_split": 0.75},
    "tr_config": {"initial_lr": "1e-3", "max_epoch": 5, "batch_size": 4},
    "dataset_config": {"targets": {"surface": {"losses": [{"name": "BCEWithLogitsLoss", "weight": 1.0}]}}},
    "auxiliary_tasks": {
        "distance_transform": {
            "type": "distance_transform",
            "source_target": "surface",
            "loss_weight": 0.10,
            "distance_type": "signed",
            "losses": [{"name": "SignedDistanceLoss", "weight": 1.0, "kwargs": {"rho": 6, "beta": 1, "eikonal": True}}],
        },
        "structure_tensor": {
            "type": "structure_tensor",
            "source_target": "surface",
            "compute_from": "sdt",
            "grad_sigma": 1.0,
            "tensor_sigma": 1.5,
            "loss_weight": 0.1,
            "losses": [{"name": "MaskedMSELoss", "weight": 1.0, "kwargs": {"ignore_index": -100}}],
        },
    },
}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four images with labels of two targets, one called as another and more."""
    for index, case in enumerate(("a", "a_b", "c", "d")):
        space = Space.plain((9, 7))
        write_image(tmp_path / "images" / f"{case}.tif", np.full((1, 9, 7), index, np.uint8), space)
        for target in ("ink", "damage"):
            write_image(tmp_path / "labels" / f"{case}_{target}.tif", np.ones((1, 9, 7), np.uint8), space)
    return tmp_path


def test_targets_and_auxiliary_tasks_of_a_file(tmp_path):
    run = read_run(written(tmp_path, TARGETS))
    assert (run.recipe.training["optimizer"], run.recipe.training["lr_schedule"]) == ("adamw", "cosine")
    assert (run.recipe.training["learning_rate"], run.recipe.training["epochs"], run.recipe.training["batch_size"]) == (1e-3, 5, 4)
    assert run.recipe.training["checkpoints.keep_last"] == 10
    resolve_configuration(training_example(), run.recipe, "targets", {})


def test_targets_of_a_folder_are_those_that_its_labels_name(labelled):
    dataset = read_run(labelled, train_split=0.75, format="tif").dataset
    assert dataset.split == (["a", "a_b", "c"], ["d"])
    dataset.write(labelled / "raw")
    names = {path.name for path in (labelled / "raw" / "labelsTr").iterdir()}
    assert names == {f"{case}_{target}.tif" for case in ("a", "a_b", "c", "d") for target in ("ink", "damage")}
    assert read_image(labelled / "raw" / "imagesTr" / "c_0000.tif").array.max() == 2
    assert (dataset.spec.task, dataset.spec.numTraining, dataset.spec.file_ending) == ("dense_prediction", 4, ".tif")


def test_a_labelled_folder_becomes_a_dataset_with_plans(tmp_path):
    data, rng = tmp_path / "my data", np.random.default_rng(0)
    for case in "abcd":
        truth = np.zeros((1, 40, 36), np.uint8)
        truth[:, 10:25, 12:30] = 1
        write_image(data / "images" / f"{case}.tif", (100 * truth + rng.integers(0, 50, truth.shape)).astype(np.uint8), Space.plain((40, 36)))
        write_image(data / "labels" / f"{case}.tif", truth, Space.plain((40, 36)))
    prepared = plan_run(read_run(data, batch_size=3), data, Workspace.resolve(tmp_path), say=lambda _: None)
    folder = tmp_path / "nnReg_preprocessed" / "Dataset001_MyData"
    plans = Plans.read(folder / "nnRegPlans.json")
    assert (plans.task, prepared.configuration) == ("dense_prediction", "2d")
    recipe = resolve_trainer(str(prepared.recipe)).config
    changed = resolve_configuration(plans.configuration("2d"), recipe, "imported", {}).training
    assert (changed.batch_size, changed.optimizer, changed.lr_schedule, changed.checkpoints.keep_last) == (3, "adamw", "cosine", 10)


def test_the_targets_of_the_file_need_labels(labelled):
    content = {"dataset_config": {"targets": {"ink": {"out_channels": 1, "activation": "sigmoid"}, "inc": {}}}}
    with pytest.raises(NnRegError, match=r"target 'inc' has no label of 'a'; did you mean 'ink'"):
        read_run(written(labelled, content))
    del content["dataset_config"]["targets"]["inc"]
    assert read_run(written(labelled, content)).dataset.spec.targets["ink"]["activation"] == "sigmoid"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tr_confg": {}}, "did you mean 'tr_config'"),
        ({"tr_config": {"scheduler": "cosin"}}, "cosine"),
        ({"auxiliary_tasks": {"d": {**TARGETS["auxiliary_tasks"]["distance_transform"], "source_target": "surfac"}}}, "did you mean 'surface'"),
        ({"auxiliary_tasks": {"d": {**TARGETS["auxiliary_tasks"]["distance_transform"], "type": "surface_normal"}}}, "did you mean 'surface_normals'"),
        ({"tr_setup": {"tr_val_split": 1.5}}, "training share is 1.5"),
    ],
)
def test_a_mistake_among_targets_is_told(tmp_path, change, message):
    with pytest.raises(ConfigurationError, match=message):
        read_run(written(tmp_path, TARGETS | change))


# -- onto an atlas ------------------------------------------------------------------------------------------------------------------

SHAPE = (20, 26)


def blob(offset: float) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (200 * np.exp(-((y - 9 - offset) ** 2 + (x - 13) ** 2) / 30) + 20 * np.sin(x / 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """The documented folders; moving images in four formats."""
    root = tmp_path / "data"
    for name in ("fixed", "moving", "fixed_seg", "validation_moving", "validation_moving_seg"):
        (root / name).mkdir(parents=True)
    for path, offset in (("fixed/atlas.png", 0), ("moving/subject01.png", 1), ("validation_moving/val_99.png", 2)):
        Image.fromarray(blob(offset)).save(root / path)
    for path, offset in (("fixed_seg/atlas_seg.png", 0), ("validation_moving_seg/val_99_seg.png", 2)):
        Image.fromarray((blob(offset) > 100).astype(np.uint8)).save(root / path)
    write_image(root / "moving" / "subject02.nii.gz", blob(-1)[None].astype(np.float32), Space.plain(SHAPE))
    np.save(root / "moving" / "scan_abc.npy", blob(2).astype(np.float32))
    np.savez(root / "moving" / "scan_def.npz", img=blob(-2).astype(np.float32))
    return root


def test_the_flags_of_an_atlas_registration(atlas):
    run = read_run(atlas, lr=1e-3, epochs=7, steps_per_epoch=3, batch_size=2, ncc_weight=2.0, grad_weight=0.5)
    training = run.recipe.training
    assert run.recipe.architecture == "corrmlp"
    assert (training["learning_rate"], training["epochs"], training["iterations_per_epoch"]) == (1e-3, 7, 2)  # 4 images in batches of 2
    assert (training["similarity"][0]["weight"], training["regularisation"][0]["weight"]) == (2.0, 0.5)
    assert read_run(atlas, run_validation=False).recipe.training["validate_every"] == 0


@pytest.mark.slow  # a training at the size that the file names
def test_a_folder_onto_an_atlas_trains(atlas, tmp_path, one_thread):
    short = ["--epochs", "2", "--iterations_per_epoch", "1"]
    assert train_command.main(["--from_config", str(atlas), *short, "-device", "cpu", "-q", "--workspace", str(tmp_path)]) == 0
    raw = RawDataset.open(tmp_path / "nnReg_raw" / "Dataset001_Data")
    assert sorted(raw.cases) == ["atlas", "scan_abc", "scan_def", "subject01", "subject02", "val_99"]
    assert {read_image(raw.image_paths(case)[0]).array.shape for case in raw.cases} == {(1, *SHAPE)}
    assert np.array_equal(read_image(raw.image_paths("scan_def")[0]).array[0], blob(-2))
    fold = next(tmp_path.glob("nnReg_results/*/*/fold_0"))
    assert {"checkpoint_best.pth", "checkpoint_epoch_0001.pth", "checkpoint_epoch_0002.pth"} <= {path.name for path in fold.iterdir()}
    assert "dice_after" in read_json(fold / "validation_summary.json")["mean"]


@pytest.mark.parametrize(
    ("remove", "flags", "message"),
    [
        ("fixed/atlas.png", {}, "atlas.png: does not exist"),
        (None, {"train_moving_subdir": "mving"}, "--train_moving_subdir"),
        (None, {"valid_moving_subdir": "moving"}, "Keep it in one of them"),
        (None, {"learning_rate": 1e-3}, "unknown flag"),
    ],
)
def test_a_mistake_in_an_atlas_folder_is_told(atlas, remove, flags, message):
    if remove is not None:
        (atlas / remove).unlink()
    with pytest.raises(NnRegError, match=message):
        read_run(atlas, **flags)


def test_labels_that_are_missing_are_told_and_the_training_goes_without(atlas):
    (atlas / "fixed_seg" / "atlas_seg.png").unlink()
    assert any("no Dice" in note for note in read_run(atlas).notes)


def test_every_recipe_of_options_resolves():
    for name, recipe in TRAINER_CONFIGS.items():
        resolve_configuration(training_example(), recipe, name, {})


def test_zarr_folders_are_linked_not_copied(tmp_path):
    """Layout `images/ labels/`: the target is told from the names of the labels, and what is read through the dataset is what lies in the folder."""
    pytest.importorskip("zarr")
    array, space = np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5), Space.plain((3, 4, 5))
    for name, values in (("images/a", array), ("labels/a_ink", array % 2), ("labels/a_damage", array % 2)):
        write_image(tmp_path / "data" / f"{name}.zarr", values, space)
    found = labelled_folder(tmp_path / "data", name="x")
    assert sorted(found.spec.targets) == ["damage", "ink"]
    found.write(tmp_path / "Dataset001_X")
    path = tmp_path / "Dataset001_X" / "imagesTr" / "a_0000.zarr"
    assert path.is_symlink()
    np.testing.assert_array_equal(read_image(path).array, array)
    assert sorted(entry.name for entry in (tmp_path / "Dataset001_X" / "labelsTr").iterdir()) == ["a_damage.zarr", "a_ink.zarr"]
