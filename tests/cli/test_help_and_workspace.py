"""Every command answers -h at once, without torch."""

from __future__ import annotations

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
        "planning_options",
        "dense_tables",
        "prediction",
    }
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_refused_with_the_usage(command):
    import importlib

    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"nnreg.cli.{command}").main(["--no_such_option"])
    assert end.value.code == 2
