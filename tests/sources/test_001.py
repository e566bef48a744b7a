"""Dense prediction of several targets from one YAML: the manual's printed examples, typed as printed; sizes and epochs are lowered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nnreg.cli import import_ as import_command
from nnreg.cli import predict as predict_command
from nnreg.cli import train as train_command
from nnreg.files import read_json
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.planning.plans import Plans
from nnreg.planning.training_options import Checkpoints
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.importers import read_run
from nnreg.training.trainer.checkpoint import CheckpointKeeper

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("epochs=1", "iterations_per_epoch=1", "validation_iterations=1", "architecture.base_features=2", "tracking.tensorboard=false")
QUICK = [*(part for value in SMALL for part in ("--set", value)), "-device", "cpu", "-q"]
CASES = ("image1", "image2", "image3")
Write = Callable[..., Path]

TARGETS = """
tr_setup:       # Training setup (model name, checkpoints, etc.)
  model_name: two_targets
tr_config:      # Training parameters (lr, epochs, batch size)
  initial_lr: 1e-3
model_config:   # Model architecture settings
dataset_config: # Dataset parameters
  targets:
    ink:
      out_channels: 1
      activation: sigmoid
      losses:
        - {name: SoftDiceLoss, weight: 1.0, kwargs: {}}
    damage:
      out_channels: 1
      activation: sigmoid
      losses:
        - {name: BCEWithLogitsLoss, weight: 1.0, kwargs: {}}
inference_config: # Inference settings
"""
AUXILIARY = """
dataset_config:
  targets:
    surface:
      losses:
        - name: "BCEWithLogitsLoss"
          weight: 1.0

auxiliary_tasks:
  distance_transform:
    type: distance_transform
    source_target: surface
    loss_weight: 0.10
    # Choose which distance to predict: 'signed' | 'inside' | 'outside'
    distance_type: signed
    losses:
      - name: "SignedDistanceLoss"
        weight: 1.0
        kwargs:
          rho: 6
          beta: 1
          eikonal: true

  surface_normals:
    type: surface_normals
    source_target: surface
    loss_weight: 0.10
    losses:
      - name: "CosineSimilarityLoss"
        weight: 1.0
        kwargs: { dim: 1 }
      - name: "NormalSmoothnessLoss"
        weight: 0.5
        kwargs: { sigma: 2.0, q: 2.0 }
"""
MORE_AUXILIARY = {
    "structure_tensor": """
auxiliary_tasks:
  structure_tensor:
    type: structure_tensor
    source_target: surface
    # Compute from: 'sdt' (signed distance transform) or 'binary' mask
    compute_from: sdt
    grad_sigma: 1.0       # pre-gradient smoothing
    tensor_sigma: 1.5     # post-tensor smoothing
    loss_weight: 0.1
    losses:
      - name: "MaskedMSELoss"
        weight: 1.0
        kwargs:
          ignore_index: -100
""",
    "inplane_direction": """
auxiliary_tasks:
  inplane_direction:
    type: inplane_direction
    source_target: surface
    compute_from: sdt    # or 'binary'
    grad_sigma: 1.0
    tensor_sigma: 1.5
    loss_weight: 0.1
    losses:
      - name: "MaskedMSELoss"
        weight: 1.0
        kwargs:
          ignore_index: -100
""",
}
MIXED = """
dataset_config:
  targets:
    adaptive_task: {}                    # Outputs 3 channels (matches input)
    fixed_task: {"channels": 1}          # Outputs 1 channel (specified)
    multi_class: {"channels": 5}         # Outputs 5 channels (specified)
"""


def blob(shape: tuple[int, ...], index: int) -> np.ndarray:
    """A ball off the middle, 1 inside."""
    axes = np.meshgrid(*(np.arange(size) - size / 2 - index % 3 for size in shape), indexing="ij")
    return (sum(axis**2 for axis in axes) < (min(shape) / 3) ** 2).astype(np.uint8)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes costs more than what they would do."""
    monkeypatch.setenv("nnReg_n_proc", "1")


@pytest.fixture
def data(tmp_path: Path) -> Write:
    """``data(targets)``: the documented folder; each target's labels count up to the number that is given for it."""

    def write(targets: dict[str, int], *, shape: tuple[int, ...] = (32, 36), channels: int = 1, masks: tuple[str, ...] = (), ending: str = ".tif") -> Path:
        rng, folder, space = np.random.default_rng(0), tmp_path / "data", Space.plain(shape)
        for index, case in enumerate(CASES):
            truth = blob(shape, index)
            image = (100 * truth + rng.integers(0, 50, (channels, *shape))).astype(np.uint8)
            write_image(folder / "images" / f"{case}{ending}", image, space)
            for target, highest in targets.items():
                label = truth if highest in (1, 255) else truth * rng.integers(1, highest + 1, shape)
                write_image(folder / "labels" / f"{case}_{target}{ending}", (label * (255 if highest == 255 else 1)).astype(np.uint8)[None], space)
            for target in masks:
                write_image(folder / "masks" / f"{case}_{target}{ending}", np.ones((1, *shape), np.uint8), space)
        return folder

    return write


def file(folder: Path, text: str, name: str = "config.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def trained(*arguments: Path | str, root: Path) -> Path:
    """Run ``nnreg_train`` as the manual has it and return the fold's folder."""
    checkpoints = root / "checkpoints"
    assert train_command.main([*map(str, arguments), "-o", str(checkpoints), *QUICK, "--workspace", str(root / "work")]) == 0
    (fold,) = checkpoints.glob("*/fold_0")
    return fold


def history(fold: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(fold / "checkpoint_final.pth", weights_only=True)["logging"]["values"]
    return found


def spec_of(root: Path) -> dict[str, Any]:
    (path,) = root.glob("work/nnReg_raw/*/dataset.json")
    found: dict[str, Any] = read_json(path)
    return found


def test_one_command_trains_a_folder(data: Write, tmp_path: Path) -> None:
    """``train.py -i /path/to/data -o /path/to/checkpoints``: the model folder, its files and the keys of a checkpoint."""
    folder = data({"ink": 1, "damage": 255}, masks=("ink",))
    fold = trained("-i", folder, "--format", "tif", root=tmp_path)
    assert fold == tmp_path / "checkpoints" / "data" / "fold_0"
    assert {"data_1.pth", "data_config.yaml", "data_debug.png", "training_log.txt"} <= {path.name for path in fold.iterdir()}
    checkpoint = torch.load(fold / "data_1.pth", weights_only=True)
    assert {"model", "optimizer", "scheduler", "epoch", "model_config"} <= set(checkpoint)
    assert checkpoint["model"].keys() == checkpoint["network_weights"].keys()
    assert checkpoint["model_config"]["architecture"]["name"] == "resenc_unet"
    targets = spec_of(tmp_path)["targets"]
    assert {name: (target["activation"], target["out_channels"]) for name, target in targets.items()} == {"ink": ("sigmoid", 1), "damage": ("sigmoid", 1)}
    assert targets["damage"]["labels"] == {"background": 0, "label_255": 255}
    arguments = ["-m", fold.parent, "-i", tmp_path / "images", "-o", tmp_path / "out", "-f", "0", "-device", "cpu", "-q"]
    write_image(tmp_path / "images" / "new_0000.tif", np.zeros((1, 32, 36), np.uint8), Space.plain((32, 36)))
    assert predict_command.main([str(argument) for argument in arguments]) == 0
    assert {"new_ink.tif", "new_damage.tif"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_the_printed_targets_train(data: Write, tmp_path: Path) -> None:
    folder = data({"ink": 1, "damage": 1})
    fold = trained("--config-path", file(tmp_path, TARGETS), "-i", folder, root=tmp_path)
    assert fold.parent.name == "two_targets"
    assert {"train_ink_negative_dice_loss", "train_damage_bce_loss"} <= set(history(fold)) or {
        "train_ink_SoftDiceLoss_loss",
        "train_damage_BCEWithLogitsLoss_loss",
    } <= set(history(fold))


@pytest.mark.parametrize("shape", [(32, 36), (16, 16, 16)], ids=["2d", "3d"])
def test_the_printed_auxiliary_tasks_train(data: Write, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The activation is told by the loss: binary cross entropy is a sigmoid."""
    folder = data({"surface": 1}, shape=shape)
    fold = trained("--config-path", file(tmp_path, AUXILIARY), "-i", folder, root=tmp_path)
    values = history(fold)
    assert np.isfinite(values["train_distance_transform_loss"]).all()
    assert np.isfinite(values["train_surface_normals_loss"]).all()
    assert spec_of(tmp_path)["targets"]["surface"]["activation"] == "sigmoid"
    assert (fold / f"config_debug.{'png' if len(shape) == 2 else 'gif'}").is_file()


@pytest.mark.parametrize("name", MORE_AUXILIARY)
def test_the_other_printed_auxiliary_tasks_train(data: Write, tmp_path: Path, name: str) -> None:
    folder = data({"surface": 1, name: 1})  # labels of an auxiliary task are not looked at
    fold = trained("--config-path", file(tmp_path, MORE_AUXILIARY[name]), "-i", folder, root=tmp_path)
    assert np.isfinite(history(fold)[f"train_{name}_loss"]).all()
    assert list(spec_of(tmp_path)["targets"]) == ["surface"]


@pytest.mark.parametrize("channels", [3, 1])
def test_adaptive_channels(data: Write, tmp_path: Path, channels: int) -> None:
    """Three tasks in one model; what gives no channels has those of the images."""
    folder = data({"adaptive_task": channels - 1 or 1, "fixed_task": 1, "multi_class": 4}, channels=channels)
    fold = trained("--config-path", file(tmp_path, MIXED), "-i", folder, root=tmp_path)
    spec = spec_of(tmp_path)
    assert len(spec["channel_names"]) == channels
    assert {name: target["out_channels"] for name, target in spec["targets"].items()} == {"adaptive_task": channels, "fixed_task": 1, "multi_class": 5}
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=True)["model"]
    outputs = {len(value) for key, value in weights.items() if "heads" in key and value.ndim == 4}
    assert {channels, 1, 5} == outputs


def test_the_flags_of_the_command(data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every printed option without a file; ``nnreg_import`` prints the same training as a line of its own."""
    folder = data({"ink": 1, "damage": 1}, shape=(8, 40, 44))
    flags = ["--batch-size", "3", "--patch-size", "8,16,16", "--loss", "SoftDiceLoss,BCEWithLogitsLoss", "--train-split", "0.7", "--loss-on-label-only"]
    assert import_command.main(["-i", str(folder), "-o", str(tmp_path / "out"), *flags, "--workspace", str(tmp_path / "work")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("nnreg_train 001 3d_fullres 0 -tr ")
    assert said.endswith(f" -o {tmp_path / 'out'}")
    for target in spec_of(tmp_path)["targets"].values():
        assert [entry["name"] for entry in target["losses"]] == ["SoftDiceLoss", "BCEWithLogitsLoss"]
        assert target["loss_on_label_only"] is True
    plans = Plans.read(next(tmp_path.glob("work/nnReg_preprocessed/*/nnRegPlans.json")))
    planned = plans.configuration("3d_fullres")
    assert planned.grid == (8, 16, 16)
    assert planned.architecture.blocks_per_stage == (1, 3, 4, 6)[: len(planned.architecture.strides)]
    splits = read_json(next(tmp_path.glob("work/nnReg_raw/*/splits_final.json")))
    assert [len(splits[0][side]) for side in ("train", "val")] == [2, 1]
    resolved = resolve_configuration(planned, read_run(folder, batch_size=3).recipe, "flags", {})
    assert resolved.training.batch_size == 3


def test_a_patch_of_two_numbers_trains_on_slices(data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data({"ink": 1}, shape=(8, 20, 24))
    where = ["--workspace", str(tmp_path / "work")]
    assert import_command.main(["-i", str(folder), "--patch-size", "16,16", *where]) == 0
    assert "nnreg_train 001 2d 0" in capsys.readouterr().out
    assert import_command.main(["-i", str(folder), "--patch-size", "8,16,16", *where]) == 0  # planned anew, not silently as before
    said = capsys.readouterr().out
    assert "planned anew" in said
    assert "nnreg_train 001 3d_fullres 0" in said


def test_the_settings_that_are_kept_give_the_same_run(data: Write, tmp_path: Path) -> None:
    """``<model_name>_config.yaml``: complete, and read again."""
    folder = data({"ink": 1, "damage": 1})
    first = read_run(folder, batch_size=3, patch_size="16,16", loss="SoftDiceLoss", train_split=0.7, loss_on_label_only=True)
    again = read_run(file(tmp_path, yaml.safe_dump(first.settings), "data_config.yaml"))
    assert again.recipe == first.recipe
    assert again.notes == ()
    assert again.dataset is not None
    assert first.dataset is not None
    assert again.dataset.record() == first.dataset.record()
    assert again.dataset.planning == first.dataset.planning


def test_the_last_ten_checkpoints_stay(tmp_path: Path) -> None:
    keeper = CheckpointKeeper(tmp_path, Checkpoints(every=1, keep_last=10, model_name="my_model"), lambda path: path.touch())
    (tmp_path / "my_model_best.pth").touch()
    for finished in range(1, 13):
        keeper.after_epoch(finished, last=False, improved=False)
    kept = {path.name for path in tmp_path.glob("my_model_*.pth")}
    assert kept == {"my_model_best.pth", *(f"my_model_{epoch}.pth" for epoch in range(3, 13))}


MODEL = """
tr_setup: {autoconfigure: false, checkpoint_path: old.pth, tensorboard_log_dir: runs, ckpt_out_base: results}
model_config: {features_per_stage: [4, 6, 8], deep_supervision: false, in_channels: 1}
dataset_config: {normalization_scheme: minmax, use_cache: true}
inference_config: {overlap: 0.5}
tr_config: {num_dataloader_workers: 0}
"""


def test_every_key_is_used_or_printed(data: Write, tmp_path: Path) -> None:
    folder = data({"ink": 1})
    source = file(tmp_path, MODEL)
    run = read_run(source, data_path=str(folder))
    said = "\n".join(run.notes)
    for key in ("autoconfigure", "checkpoint_path", "tensorboard_log_dir", "use_cache", "inference_config"):
        assert key in said
    assert (run.output, run.workers) == (tmp_path / "results", 0)
    assert import_command.main(["--config-path", str(source), "-i", str(folder), "--workspace", str(tmp_path / "work")]) == 0
    plans = Plans.read(next(tmp_path.glob("work/nnReg_preprocessed/*/nnRegPlans.json")))
    planned = plans.configuration("2d")
    assert planned.architecture.features_per_stage == (4, 6, 8)
    assert planned.normalization[0].scheme == "rescale_to_0_1"
    assert planned.training.deep_supervision_weights == (1.0, 0.0)
    told = "\n".join(read_run(file(tmp_path, AUXILIARY, "alone.yaml")).notes)
    assert "targets, auxiliary_tasks: not used with a dataset that is there" in told


LOSS = "dataset_config: {{targets: {{ink: {{losses: [{{name: {}}}]{}}}}}}}"


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (LOSS.format("BCEWithLogitsLos", ""), [], "did you mean 'BCEWithLogitsLoss'"),
        (LOSS.format("BCEWithLogitsLoss", ", activation: softmax"), [], "exclusive classes need ce"),
        (LOSS.format("CrossEntropyLoss", ", channels: 1"), [], "softmax: needs 2 channels"),
        (LOSS.format("mse", ""), [], "is no loss of dense prediction"),
        ("tr_setup: {model_name: a/b}", [], "becomes the name of files"),
        ("model_config: {in_channels: 3}", [], "in_channels is 3, but the images"),
        ("dataset_config: {normalization_scheme: zscor}", [], "did you mean 'zscore'"),
        ("model_config: {features_per_stage: [4, 4, 4, 4, 4, 4, 4, 4, 4]}", [], "features_per_stage has 9 numbers"),
        ("auxiliary_tasks: {d: {type: surface_normals, source_target: ink, losses: [{name: SignedDistanceLoss}]}}", [], "takes one channel"),
        ("auxiliary_tasks: {d: {type: surface_normals, source_target: ink, losses: [{name: SoftDiceLoss}]}}", [], "no loss of derived maps"),
        ("tr_config: {}", ["--patch-size", "8,16,16"], "have 2 axes"),
        ("tr_config: {}", ["--patch-size", "8;16"], "whole numbers such as"),
        ("tr_config: {}", ["--format", "zarr"], "holds .tif files"),
        ("tr_config: {}", ["--format", "napari"], "Save them as .tif or .zarr"),
        (LOSS.format("CrossEntropyLoss", ""), ["--batch-size", "0"], "batch_size"),
    ],
)
def test_what_can_be_known_to_fail_leaves_nothing(
    data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, flags: list[str], message: str
) -> None:
    folder = data({"ink": 1})
    arguments = ["--config-path", str(file(tmp_path, text)), "-i", str(folder), *flags, "--workspace", str(tmp_path / "work")]
    assert import_command.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("work/*/Dataset*"))


def test_labels_that_a_target_cannot_tell_apart_leave_nothing(data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data({"ink": 3})
    assert import_command.main(["-i", str(folder), "--workspace", str(tmp_path / "work")]) == 2
    assert "holds the value 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("work/*/Dataset*"))


def test_files_that_have_changed_are_not_taken_for_those_of_the_first_import(data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data({"ink": 1})
    arguments = ["-i", str(folder), "--workspace", str(tmp_path / "work")]
    assert import_command.main(arguments) == 0
    assert import_command.main(arguments) == 0  # the same again is no mistake
    write_image(folder / "labels" / "image1_ink.tif", np.zeros((1, 32, 36), np.uint8), Space.plain((32, 36)))
    assert import_command.main(arguments) == 2
    assert "another files" in capsys.readouterr().err
    assert import_command.main([*arguments, "--train-split", "0.4"]) == 2


def test_images_and_a_dataset_are_too_much(data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data({"ink": 1})
    assert train_command.main(["001", "2d", "0", "-i", str(folder), "--workspace", str(tmp_path)]) == 2
    assert "Leave one of them out" in capsys.readouterr().err


def test_a_flag_of_an_import_without_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_command.main(["001", "2d", "0", "--patch-size", "16,16", "--workspace", str(tmp_path)]) == 2
    assert "--patch-size: belongs to an import" in capsys.readouterr().err
