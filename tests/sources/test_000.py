"""Synthetic pairs from one YAML: the file and every snippet of the manual as they are printed, sizes and epochs lowered."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from nnreg.cli import import_ as import_command
from nnreg.cli import train as train_command
from nnreg.dataset.synthetic import GENERATORS
from nnreg.errors import ConfigurationError
from nnreg.files import read_json
from nnreg.planning.training_options import Tracking
from nnreg.training.importers import read_run
from nnreg.training.logging.sinks import open_sinks
from nnreg.training.trainer.parts import epoch_line

TEMPLATE = """\
# ---- Global ----
project: "monai-3d-registration"
image_size: [64, 64, 64]           # Volume resolution (D, H, W)

# ---- Experiment Tracking ----
wandb:
  enabled: True                     # Toggle W&B logging
  project: "usregistrator"          # W&B project name
  run_name: "globalnet3d"           # Run display name
  offline: False                    # Offline mode (no internet required)

# ---- Training Dataset ----
train_dataset:
  name: synthetic_ellipsoids        # Dataset type (from DATASET_REGISTRY)
  image_size: [64, 64, 64]
  num_samples: 4000                 # Number of training pairs
  noise_std: 0.03                   # Gaussian noise strength
  smooth: true                      # Smooth ellipsoid boundaries
  seed: 123                         # Reproducible seed

# ---- Validation Dataset ----
val_dataset:
  name: synthetic_ellipsoids
  image_size: [64, 64, 64]
  num_samples: 200
  noise_std: 0.03
  smooth: true
  seed: 999                         # Different seed from training!

# ---- Model ----
model:
  name: globalnet3d                 # Model type (from MODEL_REGISTRY)
  num_channel_initial: 16           # Initial feature channels
  depth: 3                          # Network depth (encoder levels)
  warp_mode: bilinear               # Image warping interpolation
  warp_padding_mode: border         # Border handling for warping

# ---- Loss Function ----
loss:
  name: lncc                        # Loss type (from LOSS_REGISTRY)
  kernel_size: 9                    # Local window size
  smooth_nr: 1e-4                   # Numerator smoothing
  smooth_dr: 1e-2                   # Denominator smoothing (NaN prevention)

# ---- Optimizer ----
optimizer:
  name: Adam                        # Adam or AdamW
  lr: 1e-4                          # Learning rate
  weight_decay: 1e-5                # L2 regularization

# ---- Training Loop ----
training:
  epochs: 50                        # Total epochs
  batch_size: 2                     # Samples per batch
  num_workers: 4                    # DataLoader worker processes
  amp: true                         # Mixed precision (CUDA only)
  val_every: 1                      # Validate every N epochs
  seed: 42                          # Global random seed
"""
LOWERED = (
    ("64, 64, 64", "16, 16, 16"),
    ("128, 128, 128", "16, 16, 16"),
    ("num_samples: 4000", "num_samples: 2"),
    ("num_samples: 200", "num_samples: 1"),
    ("epochs: 50", "epochs: 2"),
    ("num_workers: 4", "num_workers: 0"),
    ("num_channel_initial: 16", "num_channel_initial: 4"),
)
SNIPPETS = {
    "localnet3d": """\
model:
  name: localnet3d          # Try LocalNet instead of GlobalNet
  num_channel_initial: 16
  depth: 3
""",
    "unetreg3d": """\
model:
  name: unetreg3d
  channels: [16, 32, 64, 128, 256]
  strides: [2, 2, 2, 2]
  num_res_units: 2
""",
    "mse": """\
loss:
  name: mse                 # Simple MSE instead of LNCC
""",
    "resolution": """\
image_size: [128, 128, 128]
train_dataset:
  image_size: [128, 128, 128]
val_dataset:
  image_size: [128, 128, 128]
# You may also need to reduce batch_size to fit in GPU memory
training:
  batch_size: 1
""",
}


def lowered(text: str) -> str:
    for printed, small in LOWERED:
        text = text.replace(printed, small)
    return text


def merged(*texts: str) -> dict[str, Any]:
    """The first text with what the others say over it; a model or loss is taken whole."""
    result: dict[str, Any] = {}
    for text in texts:
        for key, value in yaml.safe_load(text).items():
            whole = key in ("model", "loss") or not isinstance(value, dict)
            result[key] = value if whole else {**result.get(key, {}), **value}
    return result


def trained(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, Path]:
    """What ``nnreg_train --from_config configs/my_experiment.yaml`` says, and the fold that it makes."""
    source = folder / "configs" / "my_experiment.yaml"
    source.parent.mkdir(exist_ok=True)
    source.write_text(text)
    assert train_command.main(["--from_config", str(source), "-device", "cpu", "-q", "--workspace", str(folder)]) == 0
    return capsys.readouterr().out, next(folder.glob("nnReg_results/*/*/fold_0"))


def test_the_template_as_printed(tmp_path, capsys, monkeypatch, one_thread):
    monkeypatch.setitem(sys.modules, "wandb", _wandb_without_a_login())
    monkeypatch.setattr("nnreg.training.logging.sinks._installed", lambda package, wanted, log: package == "wandb")
    said, fold = trained(tmp_path, lowered(TEMPLATE), capsys)
    for line in ("Device: cpu\n", "AMP: False\n", "Train samples: 2, Val samples: 1\n"):
        assert line in said
    lines = [line for line in said.splitlines() if line.startswith("[Epoch")]
    assert [line[:16] for line in lines] == ["[Epoch 001/002] ", "[Epoch 002/002] "]
    for name in ("train_loss", "val_loss", "val_ncc", "val_epe", "val_grad_l2"):
        assert f"{name} = " in lines[0]
    assert "val_epe = 0.0000" in lines[0]
    told = [line for line in said.splitlines() if "W&B" in line]
    assert len(told) == 1
    assert "wandb login" in told[0]
    network = read_json(fold / "debug.json")["configuration"]["architecture"]
    assert (network["name"], network["strides"]) == ("globalnet", [[1] * 3, *[[2] * 3] * 3])


@pytest.mark.parametrize(
    "names",
    [pytest.param(["localnet3d"], marks=pytest.mark.slow), pytest.param(["unetreg3d"], marks=pytest.mark.slow), ["mse", "resolution"]],
    ids=" and ".join,
)
def test_the_experiments_as_printed(tmp_path, capsys, one_thread, names):
    content = merged(lowered(TEMPLATE), "wandb: {enabled: false}", "training: {epochs: 1}", *(lowered(SNIPPETS[name]) for name in names))
    said, fold = trained(tmp_path, yaml.safe_dump(content), capsys)
    assert "[Epoch 001/001] train_loss = " in said
    found = read_json(fold / "debug.json")
    if "unetreg3d" in names:
        assert (found["configuration"]["architecture"]["name"], found["parameters"]) == ("unetreg_original", 4_808_346)
    if "localnet3d" in names:
        assert found["configuration"]["architecture"]["name"] == "localnet"
    if "mse" in names:
        assert found["configuration"]["training"]["similarity"][0]["name"] == "mse"
    if "resolution" in names:
        assert (found["configuration"]["grid"], found["configuration"]["training"]["batch_size"]) == ([16] * 3, 1)


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_experiments_at_the_printed_size(tmp_path, name):
    """A snippet by itself is a file: the rest is the template's, and all is tried without numbers."""
    source = tmp_path / "snippet.yaml"
    source.write_text(SNIPPETS[name].replace("128, 128, 128", "64, 64, 64"))
    recipe = read_run(source).recipe
    assert recipe.training["epochs"] == 50
    assert recipe.architecture == {"localnet3d": "localnet", "unetreg3d": "unetreg_original"}.get(name, "globalnet")


@pytest.mark.parametrize(
    "change",
    [
        *(f"optimizer: {{lr: {rate}}}" for rate in ("1e-3", "1e-4", "1e-5")),
        *(f"model: {{name: globalnet3d, depth: {depth}}}" for depth in (2, 3, 4)),
        *(f"model: {{name: localnet3d, depth: {depth}}}" for depth in (2, 3, 4)),
        *(f"model: {{name: globalnet3d, num_channel_initial: {features}}}" for features in (8, 16, 32)),
        *(f"loss: {{name: lncc, kernel_size: {kernel}}}" for kernel in (5, 9, 13)),
        *(f"training: {{batch_size: {batch}}}" for batch in (1, 2, 4)),
    ],
)
def test_hyperparameters_to_try(tmp_path, change):
    """On images that hardly hold four poolings; the printed size is tried above."""
    source = tmp_path / "tuned.yaml"
    source.write_text(f"image_size: [24, 24, 24]\n{change}\n")
    assert read_run(source).dataset is not None


def test_a_depth_of_its_own_at_a_small_size_trains(tmp_path, capsys, one_thread):
    model = "model: {name: globalnet3d, depth: 4, num_channel_initial: 2}"
    size = "image_size: [24, 24, 24]\ntrain_dataset: {image_size: [24, 24, 24]}\nval_dataset: {image_size: [24, 24, 24]}"
    content = merged(lowered(TEMPLATE), "wandb: {enabled: false}", "training: {epochs: 1}", model, size)
    _, fold = trained(tmp_path, yaml.safe_dump(content), capsys)
    assert len(read_json(fold / "debug.json")["configuration"]["architecture"]["strides"]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model: {name: globalnet3d, depth: 9}", "cannot work on images of 64x64x64 voxels"),
        ("model: {name: globalnet3d, depth: 0}", "model.depth: found \\[0\\]"),
        ("model: {name: globalnet3d, warp_mode: nearest}", "warp_mode: nnReg warps with 'bilinear' alone"),
        ("model: {name: unetreg3d, channels: [16, 32], strides: [2, 2]}", "Give one stride fewer"),
        ("model: {name: unetreg3d, num_res_units: 0}", "num_res_units >= 1"),
        ("image_size: [64, 64]", "'globalnet3d' has another number of axes"),
        ("image_size: [4, 4, 4]", "image_size is \\(4, 4, 4\\)"),
        ("optimizer: {name: Adamm}", "did you mean 'adam'"),
        ("optimizer: {lr: -1}", "learning_rate is -1"),
        ("training: {epochs: 0}", "epochs is 0"),
        ("train_dataset: {num_samples: 0}", "num_samples is 0"),
        ("train_dataset: {name: synthetic_elipsoids}", "synthetic_ellipsoids"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, change, message):
    source = tmp_path / "wrong.yaml"
    source.write_text(change)
    with pytest.raises(ConfigurationError, match=message):
        read_run(source)


def test_the_printed_command_keeps_the_workers(tmp_path, capsys):
    source = tmp_path / "my_experiment.yaml"
    source.write_text(lowered(TEMPLATE).replace("num_workers: 0", "num_workers: 4"))
    assert import_command.main([str(source), "--workspace", str(tmp_path), "-np", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --num_workers 4")


def test_a_sample_is_one_image_twice():
    sample = GENERATORS["synthetic_ellipsoids"]((16, 18, 20), num_samples=1, noise_std=0.03, smooth=True, seed=123)[0]
    assert set(sample) == {"moving", "fixed"}
    assert sample["moving"].shape == sample["fixed"].shape == (1, 16, 18, 20)
    assert torch.equal(sample["moving"], sample["fixed"])


CONSOLE = ("train_loss", "val_loss", "val_ncc", "val_epe", "val_grad_l2")


def test_the_console_line_shows_what_was_measured():
    numbers = {"train_loss": -0.2134, "val_loss": -0.2456, "val_ncc": 0.8723, "val_grad_l2": 0.0012, "learning_rate": 1e-4}
    line = epoch_line(0, 50, numbers, CONSOLE)
    assert line == "[Epoch 001/050] train_loss = -0.2134, val_loss = -0.2456, val_ncc = 0.8723, val_epe = 0.0000, val_grad_l2 = 0.0012"
    assert epoch_line(1, 50, {"train_loss": -0.3012}, CONSOLE) == "[Epoch 002/050] train_loss = -0.3012"
    other = epoch_line(1, 50, {"train_loss": 1.0, "val_dice": float("nan"), "epoch_seconds": 1, "waiting_seconds": 0, "learning_rate": 1e-4}, ())
    assert "val_dice" not in other


def _wandb_without_a_login() -> Any:
    class UsageError(Exception):
        pass

    def init(**arguments: Any) -> None:
        raise UsageError("No API key configured. Use `wandb login` to log in.\nmore lines")

    return SimpleNamespace(init=init)


@pytest.mark.parametrize(("wandb", "calls"), [("off", 0), ("offline", 1), ("on", 1)])
def test_wandb_without_a_login_is_one_line_and_the_training_goes_on(tmp_path, monkeypatch, wandb, calls):
    monkeypatch.setitem(sys.modules, "wandb", _wandb_without_a_login())
    monkeypatch.setattr("nnreg.training.logging.sinks._installed", lambda package, wanted, log: package == "wandb")
    said: list[str] = []
    assert open_sinks(Tracking(wandb=wandb), tmp_path, name="run", first_epoch=0, configuration={}, log=said.append) == []
    assert len(said) == calls
    assert all("No API key configured" in line and "wandb login" in line and "\n" not in line for line in said)
