"""Work on a Dask cluster: a real scheduler and real workers of this machine give what one process gives, and a worker that dies costs nothing but its time."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnreg.cli import extract_fingerprint, synthesize
from nnreg.cluster import on_cluster
from nnreg.errors import ConfigurationError, DatasetError, WorkerError
from nnreg.parallel import run_all

distributed = pytest.importorskip("distributed", reason="needs pip install 'nnreg[dask]'")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a scheduler with two workers."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        yield cluster.scheduler_address


def _square_unless_killed(folder: Path, number: int) -> int:
    """The first worker that comes to 3 dies of it."""
    marker = folder / "died"
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def _always_killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _refuse(number: int) -> int:
    raise DatasetError(f"case {number}: is missing.") if number == 5 else ValueError("unforeseen")


def test_a_killed_worker_loses_nothing(scheduler: str, tmp_path: Path) -> None:
    work = functools.partial(_square_unless_killed, tmp_path)
    with on_cluster(scheduler, 1):
        found = dict(run_all(work, range(20), processes=1))
    assert (tmp_path / "died").exists()
    assert found == {number: number**2 for number in range(20)}


def test_errors_are_those_of_one_process(scheduler: str) -> None:
    with on_cluster(scheduler, 1):
        with pytest.raises(DatasetError, match="case 5: is missing"):
            list(run_all(_refuse, [5], processes=1))
        with pytest.raises(WorkerError, match="c6: ValueError: unforeseen"):
            list(run_all(_refuse, [6], processes=1, name=lambda number: f"c{number}"))


@pytest.mark.slow
def test_work_that_kills_every_worker_is_named() -> None:
    with on_cluster("local", 2), pytest.raises(WorkerError, match=r"a worker was killed while on one of: .*7"):
        list(run_all(_always_killed, [7], processes=1))


def test_a_command_gives_the_same_fingerprint(scheduler: str, tmp_path: Path) -> None:
    where = ["-d", "1", "-q", "--workspace", str(tmp_path)]
    assert synthesize.main([*where, "--shape", "16", "18", "--pairs", "3", "--test_pairs", "1"]) == 0
    path = tmp_path / "nnReg_preprocessed" / "Dataset001_Ellipsoids" / "dataset_fingerprint.json"
    assert extract_fingerprint.main([*where, "-np", "1"]) == 0
    alone = path.read_bytes()
    path.unlink()
    assert extract_fingerprint.main([*where, "--dask", scheduler]) == 0
    assert path.read_bytes() == alone


def test_no_scheduler_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("nnreg.cluster.PATIENCE", 0.2)
    with pytest.raises(ConfigurationError, match="no scheduler with workers answers"), on_cluster("tcp://127.0.0.1:9", 1):
        pass
    assert extract_fingerprint.main(["-d", "1", "--workspace", str(tmp_path), "--dask", "nonsense://x"]) == 2
    assert "--dask nonsense://x: no scheduler" in capsys.readouterr().err
