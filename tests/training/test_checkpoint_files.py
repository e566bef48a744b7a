"""Checkpoints of strangers and damaged ones: told in one line, nothing in them is run, and the one before goes on."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from nnreg.errors import NnRegError, TrainingError
from nnreg.planning.training_options import Checkpoints
from nnreg.training.dataloading.loaders import told_by_workers
from nnreg.training.importers.dense_prediction.nnunet_model import read_checkpoint
from nnreg.training.trainer.checkpoint import BEST, LATEST, PREVIOUS, CheckpointKeeper, load_checkpoint, resumable, save_checkpoint

WHOLE = {"network_weights": {"a": torch.arange(500.0)}, "init": {"configuration": {}, "custom_network": False}}


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0, 102.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)


def packed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("read", [load_checkpoint, read_checkpoint])
@pytest.mark.parametrize("damage", [flip, packed, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:-30])])
def test_a_damaged_file_is_told(tmp_path, read, damage):
    path = tmp_path / "a.pth"
    save_checkpoint(path, WHOLE)
    read(path)
    damage(path)
    with pytest.raises(NnRegError, match=r"a\.pth: is damaged"):
        read(path)


ODD = ([], {}, [1, 2], 3, None, "text", {"network_weights": {}}, {"network_weights": [1], "init": {}})


@pytest.mark.parametrize("content", [*ODD, {**WHOLE, "init": 5}, {**WHOLE, "network_weights": {"a": 1}}])
def test_content_of_another_kind_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(TrainingError) as told:
        load_checkpoint(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)
    with contextlib.suppress(TrainingError):  # the weights alone may be there
        load_checkpoint(path, weights_only=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run_and_no_one_is_told_to_let_it(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    torch.save({**WHOLE, "extra": Payload()}, path, _use_new_zipfile_serialization=not legacy)
    for read in (load_checkpoint, read_checkpoint):
        with pytest.raises(NnRegError, match=r"holds the object \w+\.system") as told:
            read(path)
        assert "weights_only" not in str(told.value)
        assert "trust" not in str(told.value).lower()
    path.write_bytes(pickle.dumps(collections.Counter()))
    with pytest.raises(NnRegError):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_the_checkpoint_before_the_latest_is_kept_while_a_training_runs(tmp_path):
    saved = iter(range(9))
    keeper = CheckpointKeeper(tmp_path, Checkpoints(), lambda path: save_checkpoint(path, {**WHOLE, "epoch": next(saved)}))
    for epoch in (1, 2, 3):
        keeper.after_epoch(epoch, last=False, improved=epoch == 1)
    assert [path.name for path in resumable(tmp_path)] == [LATEST, PREVIOUS, BEST]
    assert [load_checkpoint(path)["epoch"] for path in resumable(tmp_path)] == [3, 2, 0]
    keeper.after_training()
    assert not (tmp_path / PREVIOUS).exists()


class Numbers(torch.utils.data.Dataset):
    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.what == "killed":
            os.kill(os.getpid(), 9)
        raise TrainingError("case a: its file is damaged. Make it again.")


@pytest.mark.parametrize(
    ("what", "told"), [("refused", "^case a: its file is damaged. Make it again.$"), ("killed", "a process that loads data ended .*--num_workers 0")]
)
def test_what_ends_a_worker_is_told_in_one_line(what, told):
    loader = torch.utils.data.DataLoader(Numbers(what), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(TrainingError, match=told):
        list(told_by_workers(loader))
