"""``--dry_run``, ``--json_log`` and ``-v``: the same for every command that has them."""

from __future__ import annotations

import gc
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from nnreg.cli import COMMANDS, evaluate, register
from nnreg.cli.common import Parser, loading, run
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.progress import Further, progress_bar
from nnreg.run_log import tell
from tests.report.folders import predictions

# commands that only print, or decide while they run what they write
WITHOUT_DRY_RUN = {
    *("list", "view", "reproduce", "verify_dataset", "demo", "find_lr", "tune", "import_", "move_plans_between_datasets"),
    *("find_best_configuration", "determine_postprocessing", "accumulate_crossval_results"),
}


def test_every_command_that_writes_what_is_known_before_has_a_dry_run():
    parsers = {name: importlib.import_module(f"nnreg.cli.{name}").parser() for name in COMMANDS}
    assert {name for name, parser in parsers.items() if parser.would is None} == WITHOUT_DRY_RUN
    assert all({"--json_log", "--verbose"} <= parser._option_string_actions.keys() for parser in parsers.values())


@pytest.fixture
def pair(tmp_path) -> list[str]:
    for name in ("fixed", "moving"):
        write_image(tmp_path / f"{name}.png", np.random.default_rng(0).integers(0, 9, (1, 20, 22)).astype(np.uint8), Space.plain((20, 22)))
    return [str(tmp_path / "fixed.png"), str(tmp_path / "moving.png"), "-o", str(tmp_path / "out")]


def test_what_would_be_read_and_written_is_printed_and_nothing_is_written(pair, tmp_path, capsys):
    assert register.main(["--dry_run", *pair, "--field"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "moving.png") in shown
    assert str(tmp_path / "out" / "warped.png") in shown
    assert register.main([*pair, "--no_pictures", "--dry_run", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(entry["path"]).name for entry in told["writes"]] == ["transform.h5", "inverse_transform.h5", "warped.png", "measures.json"]
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_told_before_the_work(pair, tmp_path, capsys):
    assert register.main([*pair, "--fixed_mask", str(tmp_path / "no.nii.gz"), "--dry_run"]) == 2
    told = capsys.readouterr()
    assert "(missing)" in told.out
    assert told.err.count("\n") == 1
    assert "no.nii.gz: does not exist" in told.err


def _work(options) -> None:
    show = progress_bar("counting", quiet=True)
    for done in range(3):
        show(done, 2, f"step {done}")
    tell("figures", dice=np.float32(0.5), nothing=float("nan"))
    if options.fail:
        raise NnRegError("it cannot be done.")


def _logged(tmp_path: Path, *more: str) -> tuple[int, list[dict]]:
    parser = Parser("nnreg_counting", "Counts.")
    parser.add_argument("--fail", action="store_true")
    path = tmp_path / "deep" / "log.jsonl"
    code = run(_work, parser, ["--json_log", str(path), *more])
    return code, [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_is_one_object_a_line_with_stages_seconds_and_figures(tmp_path, capsys):
    code, events = _logged(tmp_path)
    assert code == 0
    assert [event["event"] for event in events] == ["start", "progress", "progress", "progress", "stage", "figures", "end"]
    stage, figures = events[4], events[5]
    assert stage["stage"] == "counting"
    assert stage["seconds"] >= 0
    assert (figures["dice"], figures["nothing"]) == (0.5, None)
    assert capsys.readouterr().err == ""
    code, events = _logged(tmp_path, "--fail", "-v")  # added to the same file
    assert [event["event"] for event in events[7:]] == ["start", "progress", "progress", "progress", "stage", "figures", "error", "end"]
    assert (code, events[-1]["exit_code"], events[-2]["message"]) == (2, 2, "it cannot be done.")
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in told[:2]] == ["stage", "figures"]
    assert told[2:] == ["nnreg_counting: it cannot be done."]


def test_a_log_that_cannot_be_written_is_told_before_the_work(pair, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert register.main([*pair, "--json_log", str(tmp_path / "file" / "log")]) == 2
    assert "the log cannot be written" in capsys.readouterr().err


def test_progress_of_work_with_further_steps_reaches_its_end():
    heard = []
    told = Further(lambda done, total, what: heard.append((done, total, what)), 2)
    told(0, 3, "first")
    told(3, 3, "last")
    told.then("uncertainty")
    told.then("writing")
    told.end()
    assert heard == [(0, 5, "first"), (3, 5, "last"), (3, 5, "uncertainty"), (4, 5, "writing"), (5, 5, "done")]


def test_any_registered_images_are_evaluated_by_a_folder_of_label_maps(tmp_path, capsys):
    out = predictions(tmp_path, ndim=2, measured=False)
    assert evaluate.main([str(out), "--labels", str(tmp_path / "labelsTs"), "-np", "1", "--no_surface", "-q"]) == 0
    assert (out / "report.html").is_file()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["labels"] == 2
    assert 0 < summary["mean"]["dice_after"] <= 1
    capsys.readouterr()
    for arguments, words in (
        (["--labels", str(tmp_path / "none")], "no such folder"),
        (["--labels", str(tmp_path / "imagesTs")], "holds no label map of any case"),
        (["--labels", str(tmp_path), "-d", "1"], "one of them only"),
        ([], "-d or --labels is needed"),
    ):
        assert evaluate.main([str(out), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert read_image(tmp_path / "labelsTs" / "a.nii.gz").ndim == 2


def test_garbage_is_looked_for_again_after_modules_are_loaded():
    def load(name: str) -> None:
        with loading():
            assert not gc.isenabled()
            importlib.import_module(name)

    with pytest.raises(ImportError):
        load("nnreg.not_there")
    assert gc.isenabled()
