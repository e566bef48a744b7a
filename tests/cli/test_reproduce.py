"""A run is repeated from what its results say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny import Tiny, anatomy, oblique_space

from nnreg.api.reproduction import compared
from nnreg.cli import evaluate, predict, register, reproduce, series, train
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.imageio.itk_files import write_series


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """``typed(module, arguments)``: a command in this process, recorded as if it had been typed."""

    def run(module, arguments: Sequence[object]) -> int:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", [f"nnreg_{module.__name__.split('.')[-1]}", *words])
        return module.main(words)

    return run


@pytest.fixture
def registered(tmp_path: Path, typed) -> Path:
    for seed, name in enumerate(("fixed", "moving")):
        space = oblique_space((18, 20), seed)
        write_image(tmp_path / f"{name}.nii.gz", anatomy(space, seed)[0], space)
    assert typed(register, [tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "-o", tmp_path / "out", "--preset", "fast", "--no_pictures", "-q"]) in (0, 3)
    return tmp_path / "out"


def test_a_registration_is_repeated(registered: Path, one_thread, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([str(registered)]) == 0
    assert "reproduced: all " in capsys.readouterr().out
    warped = read_image(registered / "warped.nii.gz")
    write_image(registered / "warped.nii.gz", warped.array + np.float32(0.01), warped.space)
    assert reproduce.main([str(registered)]) == 1
    assert "warped.nii.gz: differs" in capsys.readouterr().out


def test_a_changed_input_is_named(registered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = read_image(registered.parent / "fixed.nii.gz")
    write_image(registered.parent / "fixed.nii.gz", fixed.array[:, ::-1].copy(), fixed.space)
    assert reproduce.main([str(registered)]) == 2
    assert f"{registered.parent / 'fixed.nii.gz'}: has changed since the run read it" in capsys.readouterr().err


def test_folders_without_a_command_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([str(tmp_path)]) == 2
    (tmp_path / "measures.json").write_text(json.dumps({"nnreg_version": "0.1.0"}))
    assert reproduce.main([str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "has none of measures.json" in first
    assert "expected nnreg_register, found none" in second


def test_a_series_is_repeated(tmp_path: Path, typed, one_thread, capsys: pytest.CaptureFixture[str]) -> None:
    space = Space.plain((16, 18, 18), (2.0, 2.0, 2.0))
    image = anatomy(space, 0)[0]
    write_series(tmp_path / "bold.nii.gz", np.concatenate([image, np.roll(image, 1, axis=2), image]), space, 2.0)
    assert typed(series, ["-i", tmp_path / "bold.nii.gz", "-o", tmp_path / "out", "-np", "1", "-q"]) == 0
    assert reproduce.main([str(tmp_path / "out")]) == 0, capsys.readouterr().out
    write_series(tmp_path / "bold.nii.gz", np.concatenate([image, image, image]), space, 2.0)
    assert reproduce.main([str(tmp_path / "out")]) == 2
    assert "has changed since the run read it" in capsys.readouterr().err


def test_an_evaluation_of_the_results_is_not_missed(plane: Tiny, tmp_path: Path, typed, one_thread, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-i", plane.raw / "imagesTs", "-o", tmp_path / "out", "-d", plane.id, "-c", "optimise", "--no_report", "-q", *plane.where]
    assert typed(predict, arguments) == 0
    assert typed(evaluate, [tmp_path / "out", "-d", plane.id, "--no_report", *plane.where]) == 0
    assert (tmp_path / "out" / "summary.json").is_file()
    assert reproduce.main([str(tmp_path / "out")]) == 0, capsys.readouterr().out


def test_files_of_one_side_alone_are_told(tmp_path: Path) -> None:
    for folder, names in (("a", "xy"), ("b", "yz")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.h5").write_text(name)
    (tmp_path / "a" / "times.json").write_text('{"seconds": 1, "dice": [0.5]}')
    (tmp_path / "b" / "times.json").write_text('{"seconds": 2, "dice": [0.5]}')
    same, different = compared(tmp_path / "a", tmp_path / "b")
    assert same == ["times.json", "y.h5"]
    assert different == ["x.h5: was not written this time", "z.h5: was not there before"]


@pytest.mark.slow  # a training and its repetition
def test_a_training_and_a_prediction_are_repeated(plane: Tiny, tmp_path: Path, typed, one_thread, capsys: pytest.CaptureFixture[str]) -> None:
    here = plane.copy(tmp_path / "workspace")
    length = ["--epochs", "1", "--iterations_per_epoch", "2", "-device", "cpu", "--quiet", "--no_report"]
    assert typed(train, [here.id, here.configuration, "3", *length, "--workspace", here.root]) == 0
    assert reproduce.main([str(here.fold(3))]) == 0, capsys.readouterr().out
    images = here.raw / "imagesTs"
    arguments = ["-i", images, "-o", tmp_path / "out", "-d", here.id, "-c", here.configuration, "-f", "3", "-device", "cpu", "--no_report", "-q"]
    assert typed(predict, [*arguments, "--workspace", here.root]) == 0
    assert reproduce.main([str(tmp_path / "out")]) == 0, capsys.readouterr().out
