"""Images onto an atlas in 2D from the command line: folders and flags as the manual prints them, epochs lowered."""

from __future__ import annotations

import contextlib
import io
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from nnreg.architecture import build_network
from nnreg.cli import import_ as import_command
from nnreg.cli import train as train_command
from nnreg.errors import DatasetError
from nnreg.files import read_json
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.training.importers import read_run
from nnreg.training.importers.registration.atlas_folder import _device
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

SHAPE = (20, 26)
WEIGHTS_OF_THE_PORT = 1_330_426
FLAGS = """
    --data_base_dir ./data/ --atlas_name atlas.png --train_moving_subdir moving --fixed_seg_subdir fixed_seg --atlas_seg_name atlas_seg.png
    --valid_moving_subdir validation_moving --valid_moving_seg_subdir validation_moving_seg --run_validation --validation_freq 2
    --epochs 3 --steps_per_epoch 1 --batch_size 1 --lr 1e-4 --ncc_weight 1.0 --grad_weight 1.0
    --log_dir ./log/ --model_dir ./models/ --device cpu --num_workers 0
"""


def picture(offset: float) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (200 * np.exp(-((y - 9 - offset) ** 2 + (x - 13) ** 2) / 30) + 20 * np.sin(x / 3)).clip(0, 255).astype(np.uint8)


def printed_folders(root: Path) -> Path:
    """The tree of the manual, names and formats as printed; one validation image without its ``_seg``."""
    for name in ("fixed", "moving", "fixed_seg", "validation_moving", "validation_moving_seg"):
        (root / name).mkdir(parents=True)
    for path, offset in (("fixed/atlas.png", 0), ("moving/subject01.png", 1), ("validation_moving/val_subject99.png", 2)):
        Image.fromarray(picture(offset)).save(root / path)
    for path, offset in (("fixed_seg/atlas_seg.png", 0), ("validation_moving_seg/val_subject99_seg.png", 2)):
        Image.fromarray((picture(offset) > 100).astype(np.uint8)).save(root / path)
    for path, offset in (("moving/subject02.nii.gz", -1), ("validation_moving/val_scan_xyz.nii.gz", 1)):
        write_image(root / path, picture(offset)[None].astype(np.float32), Space.plain(SHAPE))
    np.save(root / "moving" / "scan_abc.npy", picture(2).astype(np.float32))
    return root


@dataclass
class Run:
    """What the two commands said, and where the fold lies."""

    root: Path
    imported: str
    command: list[str]
    trained: str
    fold: Path


def typed(main: Any, arguments: list[str]) -> str:
    """What a command says; it must succeed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(arguments) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``nnreg_import`` with every flag of the manual, then the ``nnreg_train`` line that it prints."""
    root = tmp_path_factory.mktemp("atlas")
    printed_folders(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        imported = typed(import_command.main, [*shlex.split(FLAGS), "-np", "1"])
        command = shlex.split(imported.splitlines()[-1])
        trained = typed(train_command.main, [*command[1:], "-q"])
        yield Run(root, imported, command, trained, next((root / "nnReg_workspace").glob("nnReg_results/*/*/fold_0")))


def test_every_flag_arrives(run):
    values = read_json(run.fold / "debug.json")["configuration"]["training"]
    assert (values["epochs"], values["iterations_per_epoch"], values["batch_size"], values["validate_every"]) == (3, 1, 1, 2)
    assert (values["optimizer"], values["learning_rate"], values["lr_schedule"]) == ("adam", 1e-4, "constant")
    assert run.command[-4:] == ["-device", "cpu", "--num_workers", "0"]
    for flag in ("--log_dir ./log/: not used", "--model_dir ./models/: not used"):
        assert flag in run.imported


def test_the_network_is_the_ports(run):
    found = read_json(run.fold / "debug.json")
    assert found["parameters"] == WEIGHTS_OF_THE_PORT
    assert found["configuration"]["architecture"]["kwargs"]["field_resolution"] == 1


def test_an_incomplete_validation_pair_is_told_once_and_validated_without_dice(run):
    assert [line for line in run.imported.splitlines() if "val_scan_xyz" in line] == [
        "validation_moving_seg: no val_scan_xyz_seg, the Dice is not measured of val_scan_xyz"
    ]
    summary = read_json(run.fold / "validation_summary.json")
    assert summary["counts"]["pairs"] == 2
    assert summary["counts"]["pairs_without_labels"] == 1
    assert 0 < summary["mean"]["dice_after"] <= 1
    assert "(1 of 2 pairs without labels)" in run.trained
    assert "val_dice" in run.trained


def test_folding_is_counted(run):
    assert read_json(run.fold / "validation_summary.json")["mean"]["folding_count"] == 0
    history = torch.load(run.fold / "checkpoint_final.pth", weights_only=True)["logging"]["values"]
    assert history["val_folding_count"][1] == history["val_folding_percent"][1] == 0


def test_an_epoch_without_validation_says_nothing_of_it(run):
    lines = [line for line in run.trained.splitlines() if line.startswith("[Epoch")]
    assert ["val_" in line for line in lines] == [False, True, True]  # every second one, and the last
    history = torch.load(run.fold / "checkpoint_final.pth", weights_only=True)["logging"]["values"]
    assert math.isnan(history["val_loss"][0])
    assert math.isfinite(history["val_loss"][1])


def test_the_loss_is_the_weighted_sum_of_the_manual(run):
    history = torch.load(run.fold / "checkpoint_final.pth", weights_only=True)["logging"]["values"]
    ncc, grad = history["train_lncc"][0], history["train_diffusion"][0]
    assert ncc < 0 <= grad
    assert history["train_loss"][0] == pytest.approx(ncc + grad, abs=1e-5)


def test_a_checkpoint_of_every_epoch_the_best_one_and_the_last_words(run):
    assert {"checkpoint_best.pth", *(f"checkpoint_epoch_000{epoch}.pth" for epoch in (1, 2, 3))} <= {path.name for path in run.fold.iterdir()}
    assert "Training finished" in run.trained
    assert "Training finished" in (run.fold / "training_log.txt").read_text()


def test_a_plain_state_dict_is_loaded(run, monkeypatch):
    """``torch.save(model.state_dict(), "epoch_001.pt")``, as the manual saves it, and ``--load_model``."""
    weights = torch.load(run.fold / "checkpoint_epoch_0001.pth", weights_only=True)["network_weights"]
    torch.save({name: value + 0.001 for name, value in weights.items()}, run.root / "epoch_001.pt")
    monkeypatch.chdir(run.root)
    said = typed(import_command.main, [*shlex.split(FLAGS), "-np", "1", "--load_model", "epoch_001.pt"])
    command = shlex.split(said.splitlines()[-1])
    assert command[command.index("-pretrained_weights") + 1] == str(run.root / "epoch_001.pt")
    command[3] = "all"
    typed(train_command.main, [*command[1:], "-q", "--epochs", "1", "--set", "learning_rate=1e-12"])
    started = torch.load(run.fold.parent / "fold_all" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    for name, value in weights.items():
        torch.testing.assert_close(started[name], value + 0.001, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other.weight": torch.zeros(3)}, "1 of 1 are unknown to it, the first is 'other.weight'"),
        ({"state": "yes"}, "holds no weights that nnReg knows"),
        ([1, 2], "holds no weights that nnReg knows"),
        (None, "does not exist"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, content, message):
    printed_folders(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    if content is not None:
        torch.save(content, "wrong.pt")
    assert import_command.main([*shlex.split(FLAGS), "-np", "1", "--load_model", "wrong.pt"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert len(said) < 500
    assert not (tmp_path / "nnReg_workspace").exists()


def test_a_training_refuses_such_weights_and_leaves_no_folder(run, monkeypatch, capsys):
    monkeypatch.chdir(run.root)
    torch.save({"other.weight": torch.zeros(3)}, "wrong.pt")
    command = [*run.command[1:], "-q", "--load_model", "wrong.pt"]
    command[command.index("-tr") + 1] += "+poly_step"  # a folder of its own
    results = run.fold.parents[1]
    before = sorted(results.iterdir())
    assert train_command.main(command) == 2
    said = capsys.readouterr().err
    assert "are unknown to it" in said
    assert said.count("\n") == 1
    assert sorted(results.iterdir()) == before


def test_the_trainer_loads_a_state_dict_of_parallel_training(run):
    workspace = Workspace.resolve(run.root / "nnReg_workspace")
    weights = torch.load(run.fold / "checkpoint_final.pth", weights_only=True)["network_weights"]
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in weights.items()}}, run.root / "parallel.pt")
    from nnreg.training.execution.run import build_trainer

    trainer: nnRegTrainer = build_trainer(workspace, 1, "2d", 0, trainer=run.command[run.command.index("-tr") + 1])
    trainer.load_checkpoint(run.root / "parallel.pt", weights_only=True)
    torch.testing.assert_close(trainer.network.state_dict(), weights)


def test_the_network_by_itself(tmp_path):
    """``(B, 1, H, W)`` twice to a flow ``(B, 2, H, W)``; near zero at the start, so that nothing is turned or transposed."""
    recipe = read_run(printed_folders(tmp_path / "data")).recipe
    network = build_network("corrmlp", channels=1, ndim=2, **_stages(recipe.training), **recipe.architecture_kwargs)
    assert sum(parameter.numel() for parameter in network.parameters()) == WEIGHTS_OF_THE_PORT
    fixed, moving = torch.rand(2, 3, 1, *SHAPE).unbind(0)
    flow = network(fixed=fixed, moving=moving)[0]
    assert flow.shape == (3, 2, *SHAPE)
    assert flow.abs().max() < 0.1  # voxels


def _stages(training: dict[str, Any]) -> dict[str, Any]:
    return {name: training[f"architecture.{name}"] for name in ("strides", "kernel_sizes", "features_per_stage", "blocks_per_stage")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "--device gpu: expected cpu, cuda or cuda:0"),
        (["--batch_size", "0"], "--batch_size 0: expected 1 or more"),
        (["--epochs", "0"], "epochs is 0: expected 1 or more"),
        (["--lr", "-1"], "expected a positive number"),
        (["--atlas_name", "atls.png"], "did you mean 'atlas.png'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, arguments, message):
    printed_folders(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert import_command.main([*shlex.split(FLAGS), *arguments, "-np", "1"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "nnReg_workspace").exists()


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("gpu0", "cuda:0")])
def test_devices_by_the_manuals_and_the_scripts_names(name, device):
    assert _device(name) == device


def test_nothing_is_left_out_without_a_word(tmp_path):
    folder = printed_folders(tmp_path / "data")
    Image.fromarray(picture(0)).save(folder / "validation_moving_seg" / "nobody_seg.png")
    (folder / "moving" / "readme.txt").write_text("hello")
    notes = read_run(folder).notes
    assert "validation_moving_seg: no image in validation_moving for nobody_seg.png, not used" in notes
    assert "moving/readme.txt: is no image that nnReg reads, not used" in notes
    assert not any("nobody" in note for note in read_run(folder, run_validation=False).notes)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("fixed_seg/atlas_seg.png", np.dstack([picture(0), picture(1), picture(2)]), "a label map has one channel"),
        ("validation_moving_seg/val_subject99_seg.npy", picture(0) / 3.0, "labels are whole numbers"),
        ("moving/volume.npy", np.ones((5, 6, 7), np.float32), "has 3 axes, the atlas has 2"),
        ("moving/subject03.nii.gz", np.ones((5, *SHAPE), np.float32), "5 channels or volumes"),
    ],
)
def test_images_and_labels_of_another_kind_are_refused_and_nothing_is_written(tmp_path, name, array, message):
    folder = printed_folders(tmp_path / "data")
    for path in folder.glob(name.partition(".")[0] + ".*"):
        path.unlink()
    if name.endswith(".png"):
        Image.fromarray(array).save(folder / name)
    elif name.endswith(".npy"):
        np.save(folder / name, array)
    else:
        write_image(folder / name, array, Space.plain(SHAPE))
    dataset = read_run(folder).dataset
    assert dataset is not None
    with pytest.raises(DatasetError, match=message):
        dataset.write(tmp_path / "part")
