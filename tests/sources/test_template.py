"""Templates to copy: printed by a command, complete, and of the values that a file without them has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nnreg.cli import import_ as import_command
from nnreg.cli import train as train_command
from nnreg.dataset.target_spec import LossEntry
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.training.importers import read_run
from nnreg.training.importers.dense_prediction.target_file import BLOCKS, Auxiliary, Target, TargetFile, parsed
from nnreg.training.importers.registration import synthetic_yaml
from nnreg.training.importers.templates import FOLDER, template, template_names

pytestmark = pytest.mark.usefixtures("one_thread")


def keys_in(text: str) -> set[str]:
    """Every key of a YAML, also of lines that are commented out."""
    return set(re.findall(r"^\s*(?:# )?(?:- )?(\w+):", text, re.MULTILINE))


def printed(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert import_command.main(["--template", name]) == 0
    path = folder / "my_experiment.yaml"
    path.write_text(capsys.readouterr().out)
    return path


def test_the_synthetic_template_is_what_an_empty_file_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_run(printed("synthetic", tmp_path, capsys))
    (tmp_path / "empty.yaml").write_text("project: monai-3d-registration\n")
    short = read_run(tmp_path / "empty.yaml")
    ours, theirs = ({key: value for key, value in run.recipe.training.items() if key != "tracking.wandb_run"} for run in (whole, short))
    assert ours == theirs
    assert whole.recipe.architecture_kwargs == short.recipe.architecture_kwargs


def test_a_copy_of_the_synthetic_template_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``cp configs/config_template.yaml my_experiment.yaml``, edit it, train it."""
    monkeypatch.setenv("nnReg_n_proc", "1")
    path = printed("synthetic", tmp_path, capsys)
    edits = {"[64, 64, 64]": "[16, 16, 16]", "4000": "2", "num_samples: 200": "num_samples: 2", "epochs: 50": "epochs: 1", "num_workers: 4": "num_workers: 0"}
    text = path.read_text().replace("num_channel_initial: 16", "num_channel_initial: 2").replace("depth: 3", "depth: 2")
    for before, after in edits.items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    assert train_command.main(["--from_config", str(path), "-device", "cpu", "-q", "--workspace", str(tmp_path / "work")]) == 0
    assert "[Epoch 001/001] train_loss = " in capsys.readouterr().out


def test_the_synthetic_template_names_every_key() -> None:
    known = {
        name for cls in vars(synthetic_yaml).values() if dataclasses.is_dataclass(cls) and cls.__module__ == synthetic_yaml.__name__ for name in names(cls)
    }
    assert known - keys_in(template("synthetic")) == set()


def names(cls: Any) -> set[str]:
    return {each.name for each in dataclasses.fields(cls)}


def test_the_template_of_targets_has_the_defaults_and_names_every_key() -> None:
    text = template("targets")
    file, empty = parsed(yaml.safe_load(text), "targets"), TargetFile()
    assert (file.tr_setup, file.tr_config, file.model_config) == (empty.tr_setup, empty.tr_config, empty.model_config)
    assert dataclasses.replace(file.dataset_config, targets={}) == empty.dataset_config
    known = {*BLOCKS, *(name for block in (empty.tr_setup, empty.tr_config, empty.model_config, empty.dataset_config) for name in names(block))}
    known |= names(Target) | names(Auxiliary) | names(LossEntry)
    without_effect = {"inference_config", "tensorboard_log_dir", "checkpoint_path", "load_weights_only", "use_cache", "ds_interpolation", "channels"}
    assert known - keys_in(text) == without_effect


def test_the_template_of_targets_is_read_with_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, space = printed("targets", tmp_path, capsys), Space.plain((16, 16))
    for name in ("images/a", "images/b", "labels/a_ink", "labels/b_ink", "labels/a_damage", "labels/b_damage"):
        write_image(tmp_path / f"{name}.tif", np.eye(16, dtype=np.uint8)[None], space)
    run = read_run(path)
    assert run.dataset is not None
    assert list(run.dataset.spec.targets) == ["ink", "damage"]
    assert run.dataset.spec.targets["damage"]["activation"] == "sigmoid"


def test_an_unknown_template_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert import_command.main(["--template", "synthetics"]) == 2
    assert "did you mean 'synthetic'" in capsys.readouterr().err
    assert template_names() == sorted(path.stem for path in FOLDER.glob("*.yaml"))
