"""Cases that vanish, folders that cannot be written, clocks that jump: told in a line, and what was finished is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnreg.cli import fuse, plan_experiment, predict, preprocess, register
from nnreg.errors import NnRegError
from nnreg.preprocessing import fingerprint_dataset, plan_dataset, preprocess_dataset
from nnreg.workspace import Workspace
from tests.faults.commands import write_images
from tests.test_full_disk import files_up_to

NOWHERE = Path("/sys/nnreg")  # no user may make a folder there, the administrator neither


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "nnReg_raw" / "Dataset004_Plane"
    write_images(tmp_path, folder)
    return folder


def _planned(root: Path) -> Workspace:
    workspace = Workspace.resolve(root)
    fingerprint_dataset(workspace, 4, processes=1, pair_budget=0)
    plan_dataset(workspace, 4, device="cuda")
    return workspace


def test_a_case_that_vanishes_is_named_and_the_others_are_kept(tmp_path: Path, raw: Path) -> None:
    workspace, case = _planned(tmp_path), raw / "imagesTr" / "s3_b_0000.nii.gz"
    away = tmp_path / "away"

    def vanish(what: str) -> Callable[[int, int, str], None]:
        def after(done: int, total: int, name: str) -> None:
            if done == 2:
                case.rename(away)

        return after

    with pytest.raises(NnRegError, match=r"s3_b_0000.nii.gz: does not exist") as told:
        preprocess_dataset(workspace, 4, processes=1, progress=vanish)
    assert "\n" not in str(told.value)
    with pytest.raises(NnRegError, match="have changed since it was made"):
        preprocess_dataset(workspace, 4, processes=1)
    away.rename(case)
    arrays = tmp_path / "nnReg_preprocessed" / "Dataset004_Plane" / "nnRegPlans_2d"
    finished = {path.name: path.stat().st_mtime_ns for path in arrays.glob("s*.json")}
    assert len(finished) == 7
    preprocess_dataset(workspace, 4, processes=1)
    now = {path.name: path.stat().st_mtime_ns for path in arrays.glob("s*.json")}
    assert len(now) == 8
    assert {name: now[name] for name in finished} == finished


def test_a_full_disk_is_no_fault_of_an_atlas(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be left out, and stay so where there is room again."""
    arguments = ["-i", tmp_path / "one", "--atlases", tmp_path / "atlases" / "imagesTr", "-o", tmp_path / "out", "--preset", "fast", "-q"]
    command = [*map(str, arguments), "--save_transforms", "--no_pictures", "-np", "1"]
    with files_up_to(7000):
        assert fuse.main(command) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert "cannot be written (File too large)" in told
    assert fuse.main(command) == 0
    assert (tmp_path / "out" / "s4_a.nii.gz").is_file()


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of tomorrow, or of 1970, are what they were: contents tell, times do not."""
    workspace = _planned(tmp_path)
    arrays = preprocess_dataset(workspace, 4, processes=1)["2d"]
    monkeypatch.setattr("time.time", lambda: 0.0)
    for moment in (0, 4_000_000_000):
        for path in (tmp_path).rglob("*"):
            os.utime(path, (moment, moment))
        before = {path: path.stat().st_mtime_ns for path in arrays.iterdir()}
        preprocess_dataset(workspace, 4, processes=1)
        assert {path: path.stat().st_mtime_ns for path in arrays.iterdir()} == before


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="needs a file system that nobody may write")
@pytest.mark.parametrize("name", ["register", "fuse", "predict", "preprocess", "plan_experiment"])
def test_a_folder_that_cannot_be_written_is_told_in_a_line(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    first, second = sorted((raw / "imagesTs").iterdir())
    output: list[Any] = ["-o", NOWHERE / "out"]
    commands: dict[str, tuple[Any, list[Any]]] = {
        "register": (register, [first, second, *output, "-q"]),
        "fuse": (fuse, ["-i", tmp_path / "one", "--atlases", tmp_path / "atlases" / "imagesTr", *output, "-q"]),
        "predict": (predict, ["-i", raw / "imagesTs", *output, "-d", "4", "-c", "optimise"]),
        "preprocess": (preprocess, ["-d", "4", "-np", "1"]),
        "plan_experiment": (plan_experiment, ["-d", "4"]),
    }
    monkeypatch.setenv("nnReg_raw", str(raw.parent))
    monkeypatch.setenv("nnReg_results", str(tmp_path / "nnReg_results"))
    monkeypatch.setenv("nnReg_preprocessed", str(tmp_path / "nnReg_preprocessed" if name == "predict" else NOWHERE))
    if name == "predict":
        _planned(tmp_path)
    command, arguments = commands[name]
    capsys.readouterr()
    assert command.main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert str(NOWHERE) in told
    assert "cannot be written" in told
