"""What the page for new users says is typed, line by line, on tiny images."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from nnreg.cli import COMMANDS, command_name
from tests.tiny import spaces, write_dataset

PAGE = Path(__file__).parents[2] / "documentation" / "first_steps.md"
SHORTER = {  # what makes a line take seconds; the demo has a test of its own
    "nnreg_register": ["--preset", "fast"],
    "nnreg_plan_and_preprocess": ["-np", "1", "--pair_budget", "0"],
    "nnreg_train": ["--iterations_per_epoch", "2", "-device", "cpu", "-q"],
    "nnreg_predict": ["-f", "0", "-device", "cpu", "--method", "network"],
    "nnreg_evaluate": ["-np", "1"],
}


def lines() -> list[list[str]]:
    """The commands of the page, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("nnreg_") and not line.startswith("nnreg_demo")]


@pytest.mark.slow
def test_every_line_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable in ("nnReg_raw", "nnReg_preprocessed", "nnReg_results"):
        monkeypatch.delenv(variable, raising=False)
    given = write_dataset(tmp_path / "given", spaces((20, 24, 22), [f"s{number}" for number in range(12)]), test_spaces=spaces((20, 24, 22), ["t1", "t2"]))
    (tmp_path / "images").mkdir()
    for path in (given / "imagesTr").iterdir():
        path.rename(tmp_path / "images" / path.name.replace("_0000", ""))
    (given / "imagesTs").rename(tmp_path / "new_images")
    (given / "labelsTs").rename(tmp_path / "their_labels")
    for name, case in (("fixed", "s0"), ("moving", "s1")):
        (tmp_path / f"{name}.nii.gz").write_bytes((tmp_path / "images" / f"{case}.nii.gz").read_bytes())
    modules = {f"nnreg_{command_name(module)}": module for module in COMMANDS}
    for name, *arguments in lines():
        code = importlib.import_module(f"nnreg.cli.{modules[name]}").main([*arguments, *SHORTER.get(name, [])])
        told = capsys.readouterr()
        assert code in ((0, 3) if name == "nnreg_register" else (0,)), (name, told.err)
    assert (tmp_path / "registered" / "report.html").is_file()


def test_the_page_names_the_steps_in_order():
    assert [line[0] for line in lines()] == [
        "nnreg_register",
        "nnreg_init_dataset",
        "nnreg_plan_and_preprocess",
        "nnreg_train",
        "nnreg_predict",
        "nnreg_evaluate",
    ]
