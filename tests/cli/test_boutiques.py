"""Boutiques descriptors say what the parsers say."""

from __future__ import annotations

import importlib
import json
import shlex

import pytest

from nnreg.cli import COMMANDS, umbrella
from nnreg.cli.boutiques import UNUSED, descriptor

REQUIRED = ("name", "description", "tool-version", "command-line", "inputs", "schema-version")


def _typed(described: dict, values: dict[str, object]) -> list[str]:
    """The command line that a wrapper makes of a descriptor, without the command."""
    words = []
    for key in described["command-line"].split()[1:]:
        entry = next(entry for entry in described["inputs"] if entry["value-key"] == key)
        if entry["id"] not in values:
            continue
        value = values[entry["id"]]
        flag = [entry["command-line-flag"]] if "command-line-flag" in entry else []
        words += flag if entry["type"] == "Flag" else [*flag, *map(str, value if entry.get("list") else [value])]
    return words


@pytest.mark.parametrize("module", COMMANDS)
def test_every_argument_of_a_parser_is_described(module):
    described = descriptor(module)
    assert set(REQUIRED) <= described.keys()
    actions = [action for action in importlib.import_module(f"nnreg.cli.{module}").parser()._actions if action.dest not in UNUSED]
    flags = {entry["command-line-flag"] for entry in described["inputs"] if "command-line-flag" in entry}
    assert all(not action.option_strings or flags & set(action.option_strings) for action in actions)
    keys = [entry["value-key"] for entry in described["inputs"]]
    assert described["command-line"].split()[1:] == keys
    assert len({entry["id"] for entry in described["inputs"]}) == len(keys) >= len(actions)
    assert all(entry["description"] and "%(" not in entry["description"] for entry in described["inputs"])
    required = {action.dest for action in actions if action.required}
    assert sum(not entry["optional"] for entry in described["inputs"]) == len(required)


def test_what_a_wrapper_types_is_what_the_parser_reads():
    described = descriptor("register")
    kinds = {entry["id"]: entry["type"] for entry in described["inputs"]}
    assert [kinds[name] for name in ("fixed", "moving", "output", "radius", "field", "fixed_mask")] == ["File", "File", "String", "Number", "Flag", "File"]
    assert described["output-files"][0]["path-template"] == "[OUTPUT]"
    given = {"fixed": "a.nii", "moving": "b.nii", "output": "out", "radius": 3.0, "field": True, "symmetric_off": True, "init": ["t.h5", "u.h5"]}
    options = importlib.import_module("nnreg.cli.register").parser().parse_args(_typed(described, given))
    assert (options.fixed, options.moving, options.output, options.radius) == ("a.nii", "b.nii", "out", 3.0)
    assert (options.field, options.symmetric, options.init) == (True, False, ["t.h5", "u.h5"])


def test_descriptors_are_written(tmp_path, capsys):
    assert umbrella.main(["boutiques", str(tmp_path / "descriptors")]) == 0
    assert {path.stem for path in (tmp_path / "descriptors").iterdir()} == {f"nnreg_{module.rstrip('_')}" for module in COMMANDS}
    assert json.loads((tmp_path / "descriptors" / "nnreg_import.json").read_text())["name"] == "nnreg_import"
    assert shlex.split(capsys.readouterr().out)[0] == str(len(COMMANDS))
    assert umbrella.main(["boutiques"]) == 2
    assert "nnreg boutiques DIR" in capsys.readouterr().err
