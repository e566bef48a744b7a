"""Every command answers -h at once, without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nnreg import __version__
from nnreg.cli import COMMANDS, command_name, umbrella

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
    assert f"usage: nnreg_{command_name(command)}" in result.stdout
    assert "--debug" in result.stdout


def test_every_installed_command_is_tested_here():
    from pathlib import Path

    modules = {path.stem for path in (Path(__file__).parents[2] / "nnreg" / "cli").glob("*.py")} - {
        "__init__",
        "boutiques",
        "common",
        "dry_run",
        "import_options",
        "planning_options",
        "prediction",
        "step_bar",
        "umbrella",
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


# -- nnreg: all commands under one name ---------------------------------------------------------------------------------


def test_every_command_is_listed_and_runs_under_one_name(capsys):
    assert umbrella.main([]) == 0
    listed = capsys.readouterr().out
    for module, what in COMMANDS.items():
        assert f"  {command_name(module)} " in listed
        assert what in listed
    with pytest.raises(SystemExit) as end:
        umbrella.main(["nnreg_import", "-h"])
    assert end.value.code == 0
    assert "usage: nnreg_import" in capsys.readouterr().out


def test_the_module_is_the_command_and_has_a_version():
    result = subprocess.run([sys.executable, "-m", "nnreg", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"nnreg {__version__}\n"


def test_an_unknown_command_is_told_with_the_nearest_one(capsys):
    assert umbrella.main(["regster"]) == 2
    assert capsys.readouterr().err == "nnreg: command 'regster' is unknown; did you mean 'register'? See nnreg -h.\n"
    assert umbrella.main(["completion", "fish"]) == 2
    assert "bash, zsh, tcsh" in capsys.readouterr().err


def test_bash_completes_commands_and_their_options(tmp_path, capsys):
    assert umbrella.main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    ask = 'source "$0"; COMP_WORDS=(nnreg "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; _shtab_nnreg; printf "%s\\n" "${COMPREPLY[@]}"'

    def completed(*words: str) -> list[str]:
        return subprocess.run(["bash", "-c", ask, script, *words], capture_output=True, text=True, check=False).stdout.split()

    assert completed("reg") == ["register", "register_group"]
    assert completed("register", "--pres") == ["--preset", "--preserve"]
