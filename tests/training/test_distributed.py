"""One training by two processes: losses, weights and figures of one, rank 0 writes, a lost process ends all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_work
import tiny as tiny_datasets
import torch
from tiny import Tiny

from nnreg.cli.train import main
from nnreg.errors import ConfigurationError, TrainingError, WorkerError
from nnreg.losses import DC_and_CE_loss, DC_and_topk_loss
from nnreg.losses.ranks import unsplittable
from nnreg.training.dataloading.loaders import EpochSampler
from nnreg.training.distributed import ALONE, Ranks, check_devices
from nnreg.training.execution.launch import launch
from nnreg.training.trainer.checkpoint import FINAL, LATEST, load_checkpoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch was built without gloo"),
]
TWO = ("-num_gpus", 2)
NAME = "Dataset031_Organs"


# -- what a rank takes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch_size", "batches"), [(2, 2, 3), (2, 3, 2), (3, 7, 4), (4, 4, 3)])
@pytest.mark.parametrize("whole", [False, True])
def test_ranks_together_take_every_index_of_an_epoch_once(size, batch_size, batches, whole):
    alone = EpochSampler(batch_size * batches)
    alone.epoch = 3
    taken: list[int] = []
    for rank in range(size):
        per_step, sampler = Ranks(rank, size).shares(batch_size, batches, whole=whole)
        sampler.epoch = 3
        own = list(sampler)
        assert len(own) == len(sampler)
        assert len(own) % per_step == 0
        if not whole:
            assert len(own) // per_step == batches  # as many steps as the others
            assert [index // batch_size for index in own[::per_step]] == [index // batch_size for index in list(alone)[::batch_size]]
        taken += own
    assert sorted(taken) == list(alone)


def test_one_process_where_nobody_says_anything(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.of_environment() is ALONE
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Ranks.of_environment() == Ranks(3, 4, 1, 2)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigurationError, match="must be numbers"):
        Ranks.of_environment()


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found."""
    path = tmp_path_factory.mktemp("ranks") / "found.pt"
    launch(rank_work.work, 2, path)
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[float, torch.Tensor]]:
    """Losses of the whole batch in one process."""
    return rank_work.losses(ALONE)


@pytest.mark.parametrize("case", rank_work.cases())
def test_a_loss_of_parts_is_the_loss_of_the_whole_batch(case, seen, alone):
    value, gradient = seen["losses"][case]
    assert value == pytest.approx(alone[case][0], rel=1e-5, abs=1e-6)
    assert torch.allclose(gradient, alone[case][1], rtol=1e-4, atol=1e-6)


def test_entries_that_a_part_lacks_are_left_out_and_figures_come_in_order(seen):
    assert seen["agreed"] == ["image"]
    assert seen["order"] == [0, 1, 2, 3, 4]


def test_what_does_not_split_is_named():
    class Own(torch.nn.Module):
        pass

    declared = Own()
    declared.splits_over_ranks = True
    assert unsplittable(DC_and_CE_loss()) == []
    assert unsplittable(DC_and_topk_loss()) == ["TopK"]
    assert unsplittable(torch.nn.ModuleList([Own(), declared])) == ["Own"]


# -- trainings --------------------------------------------------------------------------------------------------------


def content(fold: Path, name: str = FINAL) -> dict[str, Any]:
    return load_checkpoint(fold / name)


def differences(one: dict[str, Any], two: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of a figure of the history but times, and of a weight."""
    figures = [(np.array(values), np.array(two["logging"]["values"][name])) for name, values in one["logging"]["values"].items() if "seconds" not in name]
    weights = [float((value.double() - two["network_weights"][name].double()).abs().max()) for name, value in one["network_weights"].items()]
    return max(float(np.nanmax(np.abs(a - b), initial=0)) for a, b in figures), max(weights)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Four small volumes with labels, planned in 2D."""
    from nnreg.preprocessing import plan_and_preprocess
    from nnreg.workspace import Workspace

    place = Tiny(tmp_path_factory.mktemp("dense"), NAME, "2d")
    tiny_datasets.write_dataset(place.raw, tiny_datasets.spaces((12, 16, 14), list("abcde")), task="dense_prediction")
    plan_and_preprocess(Workspace.resolve(place.root), NAME, processes=1, configurations=["2d"])
    return place


@pytest.mark.slow  # two processes, each with its own torch
def test_dense_prediction_by_two_is_that_of_one(dense, tmp_path):
    """Parts of one and two samples, Dice over the batch, a head without gradient; then one goes on from what two left."""
    more = ["--set", "batch_size=3", "--set", "validation_iterations=3", "--set", "architecture.base_features=4", "--set", "lr_schedule=constant"]
    one, two = dense.copy(tmp_path / "one"), dense.copy(tmp_path / "two")
    one.train(0, *more, epochs=3, iterations=3)
    two.train(0, *more, *TWO, epochs=2, iterations=3)
    log = (two.fold(0) / "training_log.txt").read_text()
    assert log.count("[Epoch 001/002]") == 1
    assert "Processes: 2" in log
    assert {path.name for path in one.fold(0).iterdir()} == {path.name for path in two.fold(0).iterdir()}
    two.train(0, *more, "-c", epochs=3, iterations=3)
    figures, weights = differences(content(one.fold(0)), content(two.fold(0)))
    assert figures < 1e-5
    assert weights < 1e-5


def test_registration_by_two_is_that_of_one_and_two_go_on_from_one(plane, tmp_path):
    """With small steps: from a field of zeros rounding alone takes trainings apart, those of one process too."""
    more = ["--set", "batch_size=2", "--set", "validation_iterations=3", "--set", "optimizer=sgd", "--set", "learning_rate=1e-6"]
    one, two = plane.copy(tmp_path / "one"), plane.copy(tmp_path / "two")
    one.train(3, *more, epochs=2, iterations=2)
    two.train(3, *more, epochs=1, iterations=2)
    two.train(3, *more, *TWO, "-c", epochs=2, iterations=2)
    figures, weights = differences(content(one.fold(3)), content(two.fold(3)))
    assert figures < 1e-4
    assert weights < 1e-6


# -- what ends a training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-num_gpus", 3), "a batch of 2 cannot be shared by 3 processes"),
        ((*TWO, "-device", "mps"), "-device mps: several processes train on GPUs"),
        ((*TWO, "-device", "cuda"), f"2 processes need 2 GPUs, torch sees {min(1, torch.cuda.device_count())} here"),
        ((*TWO, "-tr", "rank_work:OwnStep"), "has a train_step of its own"),
        ((*TWO, "-tr", "rank_work:OwnLoss"), "is not known to give what the whole batch gives"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_line_before_anything_is_written(plane, tmp_path, capsys, monkeypatch, more, said):
    place = plane.copy(tmp_path)
    before = tiny_datasets.tree(place.root)
    if torch.cuda.device_count() > 1:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert place.try_train(3, "--set", "batch_size=2", *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert tiny_datasets.tree(place.root) == before


def test_machines_without_what_is_needed_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="2 processes need 2 GPUs, torch sees 1 here"):
        check_devices("auto", 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match="without NCCL"):
        check_devices("cuda", 2)
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(ConfigurationError, match="without gloo"):
        check_devices("cpu", 2)


@pytest.mark.slow  # two processes, each with its own torch
def test_a_killed_process_ends_all_in_a_line_and_the_training_goes_on(plane, tmp_path, capsys):
    place = plane.copy(tmp_path)
    more = ["--set", "batch_size=2", "-tr", "rank_work:Killed"]
    assert place.try_train(3, *more, *TWO, epochs=2) == 2
    error = capsys.readouterr().err
    assert "process 1 of 2 (counted from 0) was ended by SIGKILL" in error
    assert error.count("\n") == 1
    assert content(next(place.results.rglob("fold_3")), LATEST)["current_epoch"] == 1
    assert place.try_train(3, *more, "-c", epochs=2) == 0


def test_the_message_of_the_process_that_failed_is_the_one_that_is_told(plane, tmp_path, capsys):
    place = plane.copy(tmp_path)
    assert place.try_train(3, "--set", "batch_size=2", "-tr", "rank_work:Refuses", *TWO) == 2
    assert capsys.readouterr().err == "nnreg_train: case s1 is damaged. Mend it.\n"


def test_processes_that_end_badly_are_told():
    with pytest.raises(TrainingError, match=r"process 0 of 2 .* ended with exit code 3"):
        launch(os._exit, 2, 3)
    with pytest.raises(WorkerError, match=r"process 0 of 1 .*: ValueError: invalid literal"):
        launch(int, 1, "seven")


def test_torchrun_trains_one_fold(plane, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for more, said in (
        (["0-1"], "torchrun trains one fold"),
        (["0", "-num_gpus", "2"], "-num_gpus is for a command without torchrun"),
        (["0", "--val"], "--val"),
    ):
        assert main([plane.id, plane.configuration, *more, "-device", "cpu", *plane.where]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main([plane.id, plane.configuration, "0-1", "-device", "cpu", *plane.where]) == 2
    assert capsys.readouterr().err == ""  # the first of a host says it
