"""A training that is killed without warning goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import Tiny

EPOCHS = 4
PATIENCE = 300  # seconds until a test that hangs is given up


def arguments(tiny: Tiny, *more: str) -> list[str]:
    length = ["--epochs", str(EPOCHS), "--iterations_per_epoch", "2"]
    return [tiny.id, tiny.configuration, "2", *length, "-device", "cpu", "--quiet", *tiny.where, *more]


def start(tiny: Tiny, *more: str) -> subprocess.Popen[bytes]:
    """``nnreg_train`` in a process of its own, on one thread, as one that is to be compared bit for bit must be."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "nnreg.cli.train", *arguments(tiny, *more)], env=environment, stdout=subprocess.DEVNULL)


def wait_for_epoch(process: subprocess.Popen[bytes], log: Path, epoch: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if log.is_file() and f"[Epoch {epoch:03d}" in log.read_text():
            return
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} did not come within {PATIENCE} s")


@pytest.fixture(scope="module")
def uninterrupted(plane: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    twin = plane.copy(tmp_path_factory.mktemp("uninterrupted"))
    assert start(twin).wait(PATIENCE) == 0
    return twin


@pytest.fixture(scope="module")
def resumed(plane: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Killed after the first epoch shows, continued, killed in the third, continued to the end."""
    twin = plane.copy(tmp_path_factory.mktemp("resumed"))
    fold = twin.fold(2)
    for kill_after, more in ((1, ()), (3, ("-c",))):
        process = start(twin, *more)
        try:
            wait_for_epoch(process, fold / "training_log.txt", kill_after)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        # whatever was being written when the process died: a checkpoint that is there is whole
        for path in fold.glob("[!.]*.pth"):
            assert torch.load(path, weights_only=True)["current_epoch"] >= 1
        assert not (fold / "checkpoint_final.pth").exists()
    assert start(twin, "-c").wait(PATIENCE) == 0
    return twin


def checkpoint(tiny: Tiny, name: str) -> dict:
    return torch.load(tiny.fold(2) / name, weights_only=True)


def test_every_loss_of_every_epoch_is_that_of_an_uninterrupted_run(uninterrupted, resumed):
    one, other = (checkpoint(tiny, "checkpoint_final.pth")["logging"] for tiny in (uninterrupted, resumed))
    assert one["values"].keys() == other["values"].keys()
    for name, series in one["values"].items():
        assert len(series) == EPOCHS, name
        if name != "epoch_seconds":
            assert other["values"][name] == series, name
    assert len(set(one["values"]["train_loss"])) == EPOCHS  # each epoch draws other samples
    assert (one["best_epoch"], one["best_ema"]) == (other["best_epoch"], other["best_ema"])


def test_weights_and_optimiser_end_bit_for_bit_the_same(uninterrupted, resumed):
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"):
        one, other = (checkpoint(tiny, name) for tiny in (uninterrupted, resumed))
        assert one["current_epoch"] == other["current_epoch"]
        for key, value in one["network_weights"].items():
            assert torch.equal(value, other["network_weights"][key]), (name, key)
        for index, state in one["optimizer_state"]["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["optimizer_state"]["state"][index][key])), (name, index, key)


def test_a_damaged_checkpoint_is_told_in_one_line(resumed, tmp_path, capsys):
    twin = resumed.copy(tmp_path)
    latest = twin.fold(2) / "checkpoint_latest.pth"
    latest.write_bytes(latest.read_bytes()[:1000])
    assert twin.try_train(2, "-c", epochs=EPOCHS + 1, iterations=2) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "checkpoint_latest.pth" in lines[0]
    assert "damaged" in lines[0]
