"""Every command answers -h at once, without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMANDS = (
    "verify_dataset",
    "synthesize",
    "extract_fingerprint",
    "plan_experiment",
    "move_plans_between_datasets",
    "preprocess",
    "plan_and_preprocess",
    "tune",
    "run",
    "train",
    "list",
    "find_lr",
    "import_",
    "predict",
    "evaluate",
    "evaluate_simple",
    "ensemble",
    "find_best_configuration",
    "accumulate_crossval_results",
    "determine_postprocessing",
    "apply_postprocessing",
    "demo",
    "register",
    "apply_transform",
    "compose",
    "convert_transform",
)
HELP = """
import importlib, sys
try:
    importlib.import_module("nnreg.cli." + sys.argv[1]).main(["-h"])
except SystemExit as end:
    code = end.code
heavy = {"torch", "scipy", "matplotlib", "SimpleITK", "numba"} & set(sys.modules)
sys.exit(f"imported {sorted(heavy)}" if heavy else code)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown_without_heavy_imports(command):
    result = subprocess.run([sys.executable, "-c", HELP, command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: nnreg_{command.rstrip('_')}" in result.stdout
    assert "--debug" in result.stdout


def test_every_installed_command_is_tested_here():
    from pathlib import Path

    modules = {path.stem for path in (Path(__file__).parents[2] / "nnreg" / "cli").glob("*.py")} - {
        "__init__",
        "common",
        "import_options",
        "planning_options",
        "prediction",
        "step_bar",
    }
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_told_in_one_line_that_points_to_the_help(command, capsys):
    import importlib

    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"nnreg.cli.{command}").main(["--no_such_option"])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith(name := f"nnreg_{command.rstrip('_')}: ")
    assert lines[0].endswith(f"See {name[:-2]} -h.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.nii", "b.nii", "-o", "out", "--smothness", "2"], "Did you mean --smoothness?"),
        (["a.nii", "b.nii", "-o", "out", "--radius", "wide"], "invalid float value: 'wide'. See nnreg_register -h."),
        (["a.nii"], "required: MOVING, -o/--output. See nnreg_register -h."),
    ],
)
def test_what_is_mistyped_is_told(arguments, words, capsys):
    from nnreg.cli.register import main

    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


SPINNING = """
import os, sys, nnreg
assert "torch" not in sys.modules  # which reads it once
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000 None"), ({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE")],
    ids=["nothing", "count", "policy"],
)
def test_waiting_threads_hardly_spin_unless_the_user_said_how(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", SPINNING], capture_output=True, text=True, check=True, env=environment | given)
    assert result.stdout.strip() == expected
