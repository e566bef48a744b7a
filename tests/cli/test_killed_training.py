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

EPOCHS = 3
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
def runs(plane: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Tiny]:
    """An uninterrupted training, and one that is killed after its first epoch shows and then continued."""
    uninterrupted, resumed = (plane.copy(tmp_path_factory.mktemp(name)) for name in ("uninterrupted", "resumed"))
    whole, process = start(uninterrupted), start(resumed)
    fold = resumed.fold(2)
    try:
        wait_for_epoch(process, fold / "training_log.txt", 1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (fold / "checkpoint_final.pth").exists()
    again = start(resumed, "-c")
    assert (again.wait(PATIENCE), whole.wait(PATIENCE)) == (0, 0)
    return uninterrupted, resumed


def checkpoint(tiny: Tiny, name: str) -> dict:
    return torch.load(tiny.fold(2) / name, weights_only=True)


def test_every_loss_of_every_epoch_is_that_of_an_uninterrupted_run(runs):
    one, other = (checkpoint(tiny, "checkpoint_final.pth")["logging"] for tiny in runs)
    assert one["values"].keys() == other["values"].keys()
    for name, series in one["values"].items():
        assert len(series) == EPOCHS, name
        if name != "epoch_seconds":
            assert other["values"][name] == series, name
    assert len(set(one["values"]["train_loss"])) == EPOCHS  # each epoch draws other samples
    assert (one["best_epoch"], one["best_ema"]) == (other["best_epoch"], other["best_ema"])


def test_weights_and_optimiser_end_bit_for_bit_the_same(runs):
    for name in ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"):
        one, other = (checkpoint(tiny, name) for tiny in runs)
        assert one["current_epoch"] == other["current_epoch"]
        for key, value in one["network_weights"].items():
            assert torch.equal(value, other["network_weights"][key]), (name, key)
        for index, state in one["optimizer_state"]["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["optimizer_state"]["state"][index][key])), (name, index, key)


def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(plane, tmp_path, capsys):
    twin = plane.copy(tmp_path)
    latest = twin.fold(0) / "checkpoint_latest.pth"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1  # in the weights: torch reads it without a word
    latest.write_bytes(content)
    assert twin.try_train(0, "-c", epochs=EPOCHS, iterations=2) == 0
    log = (twin.fold(0) / "training_log.txt").read_text()
    assert "checkpoint_latest.pth: is damaged" in log
    assert "Went on from checkpoint_final.pth, epoch 2, instead" in log
    capsys.readouterr()
    for path in twin.fold(0).glob("checkpoint_*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    assert twin.try_train(0, "-c", epochs=EPOCHS, iterations=2) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "checkpoint_latest.pth" in lines[0]
    assert "damaged" in lines[0]


KILLS = """
import os, signal, sys, time
from pathlib import Path
import torch
from nnreg.training.trainer.checkpoint import load_checkpoint, save_checkpoint

path = Path(sys.argv[1])
torch.set_num_threads(1)
interrupted = 0
for attempt in range(8):
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number += 1
            save_checkpoint(path, {"init": {"number": number}, "network_weights": {"all": torch.full((500_000,), float(number))}})
    while not path.exists():
        time.sleep(0.001)
    time.sleep(0.013 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    interrupted += len(list(path.parent.glob(".*")))  # the next process removes it
    content = load_checkpoint(path)
    assert (content["network_weights"]["all"] == content["init"]["number"]).all()
print("interrupted:", interrupted)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Killed while it does nothing but write checkpoints; what a kill interrupts keeps its temporary, hidden name until the next write."""
    result = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path / "checkpoint.pth")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 0  # at least one kill did interrupt a write
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["checkpoint.pth"]
