"""nnreg_run: from raw images to predictions, by what the plans recommend."""

from __future__ import annotations

import json
import shutil

import pytest

from nnreg.cli import run
from nnreg.planning.plans import OPTIMISE, Plans
from tests.tiny import Tiny, spaces, write_dataset


def _run(tiny: Tiny, *more: str, device: str = "cpu") -> int:
    return run.main(["-d", tiny.id, "-np", "1", "-q", "-device", device, *tiny.where, *more])


def test_few_images_are_registered_one_by_one_and_a_second_run_keeps_them(tmp_path, capsys):
    tiny = Tiny(tmp_path, "Dataset008_Few", "2d")
    pairs = [{"fixed": "a", "moving": "b"}]
    write_dataset(tiny.raw, spaces((26, 30), ["a", "b"]), pairing="pairs", pairs=pairs)
    assert _run(tiny) == 0
    said = capsys.readouterr().out
    assert "recommended: optimise" in said
    assert "2 training: none" in said
    assert "4 evaluation: " in said
    folder = tiny.results / "predicted"
    assert json.loads((folder / "summary.json").read_text())["counts"]["pairs"] == 1
    written = (folder / "a__b" / "transform.h5").stat().st_mtime_ns
    assert _run(tiny) == 0
    assert "1 plans: kept" in capsys.readouterr().out
    assert (folder / "a__b" / "transform.h5").stat().st_mtime_ns == written
    capsys.readouterr()
    assert _run(tiny, device="cuda:99") == 2  # the engine is asked for on the device that was named, which no machine has
    assert "-device cuda:99: torch sees" in capsys.readouterr().err


@pytest.fixture
def short(plane, tmp_path):
    """The plane, untrained, with plans whose training is one step long."""
    copy = plane.copy(tmp_path / "copy")
    path = copy.preprocessed / "nnRegPlans.json"
    content = json.loads(path.read_text())
    content["recommended"] = "2d"
    content["configurations"]["2d"]["training"] |= {"epochs": 1, "iterations_per_epoch": 1, "validation_iterations": 1}
    path.write_text(json.dumps(content))
    shutil.rmtree(copy.results)
    return copy


def test_what_is_to_be_trained_is_trained_once_and_predicts(short, capsys):
    assert _run(short) == 0
    said = capsys.readouterr().out
    assert "2 training: 2d, fold 0" in said
    assert "predicting by " in said
    weights = (short.fold(0) / "checkpoint_final.pth").stat().st_mtime_ns
    content = json.loads((short.results / "predicted" / "prediction.json").read_text())
    assert {pair["name"] for pair in content["pairs"]} == {"s4_a__s4_b", "s4_b__s4_a"}
    assert _run(short) == 0
    assert "2 training: kept" in capsys.readouterr().out
    assert (short.fold(0) / "checkpoint_final.pth").stat().st_mtime_ns == weights


def test_what_cannot_be_is_refused_in_one_line(short, capsys):
    for more, message in ((["--time_budget", "20m"], "was not made for --time_budget 20m00s"), (["-f", "0-4"], "trains one fold")):
        assert _run(short, *more) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert len(error.splitlines()) == 1


def test_without_images_to_predict_it_says_how_to(tmp_path, capsys):
    tiny = Tiny(tmp_path, "Dataset009_None", "2d")
    write_dataset(tiny.raw, spaces((26, 30), ["a", "b"]))
    assert _run(tiny) == 0
    assert "has no imagesTs" in capsys.readouterr().out
    assert Plans.read(tiny.preprocessed / "nnRegPlans.json").recommended == OPTIMISE
