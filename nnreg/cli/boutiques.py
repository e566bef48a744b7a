"""Boutiques descriptors of all commands, made from their parsers: what niwrap, nipype and other wrappers read.

Schema 0.5 of boutiques-schema (Glatard et al., GigaScience 2018).
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

from nnreg import __version__
from nnreg.cli import COMMANDS, command_name
from nnreg.files import write_json

SCHEMA = "0.5"
FILES = ("FILE", "CSV", "FIXED", "MOVING", "IMAGE", "DIR", "INPUT", "SOURCE", "FOLDER", "PREDICTIONS", "REFERENCE")  # metavars of what is read
OUTPUT = "output"
UNUSED = ("help", "version", "dry_run")
NUMBERS = {int: True, float: False}


def descriptor(module: str) -> dict[str, Any]:
    """The descriptor of the command in ``nnreg.cli.MODULE``."""
    parser: argparse.ArgumentParser = importlib.import_module(f"nnreg.cli.{module}").parser()
    actions = [action for action in parser._actions if action.dest not in UNUSED]
    inputs = [entry for action in sorted(actions, key=lambda one: bool(one.option_strings)) for entry in _inputs(action)]
    keys = " ".join(entry["value-key"] for entry in inputs)
    content = {
        "name": f"nnreg_{command_name(module)}",
        "description": (parser.description or COMMANDS[module]).replace("\n", " "),
        "author": "The nnReg developers",
        "tool-version": __version__,
        "schema-version": SCHEMA,
        "command-line": f"nnreg_{command_name(module)} {keys}",
        "inputs": inputs,
        "tags": {"domain": ["neuroinformatics", "medical imaging"]},
    }
    written = next((entry for entry in inputs if entry["id"] == OUTPUT), None)
    if written is None:
        return content
    file = {"id": "results", "name": "results", "description": written["description"], "path-template": written["value-key"], "optional": written["optional"]}
    return {**content, "output-files": [file]}


def write_descriptors(folder: Path) -> list[Path]:
    """Write ``nnreg_COMMAND.json`` for every command."""
    paths = []
    for module in COMMANDS:
        paths.append(folder / f"nnreg_{command_name(module)}.json")
        write_json(paths[-1], descriptor(module))
    return paths


def _inputs(action: argparse.Action) -> list[dict[str, Any]]:
    """What a parser's action is called there; an option that can be switched on and off is two flags."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return [_input(action, f"{action.dest}_{'off' if 'no-' in option else 'on'}", option) for option in action.option_strings]
    longest = max(action.option_strings, key=len, default=None)
    return [_input(action, action.dest if longest is None else longest.lstrip("-").replace("-", "_"), longest)]


def _input(action: argparse.Action, identifier: str, flag: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": re.sub(r"\W", "_", identifier),
        "name": identifier,
        "description": (action.help or identifier).replace("%(default)s", str(action.default)),
        "optional": not action.required,
        "value-key": f"[{identifier.upper()}]",
        **_kind(action, identifier),
    }
    return entry if flag is None else {**entry, "command-line-flag": flag}


def _kind(action: argparse.Action, identifier: str) -> dict[str, Any]:
    """Type, choices and length."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return {"type": "Flag"}
    kind: dict[str, Any] = {"type": "String"}
    if action.type in NUMBERS:
        kind = {"type": "Number", "integer": NUMBERS[action.type]}
    elif action.metavar in FILES and identifier != OUTPUT:
        kind = {"type": "File"}
    if action.choices is not None:
        kind["value-choices"] = list(action.choices)
    return kind | ({"list": True, "min-list-entries": 1} if action.nargs in ("+", "*") else {})
