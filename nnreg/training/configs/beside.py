"""Trainers and recipes of the user's own modules: those beside the command and those that ``package.module:Class`` names.

Nothing is imported to find out what a module defines: it is read as text. Only what the user asked for by name is then imported.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from nnreg.errors import ConfigurationError
from nnreg.registry import one_line

REGISTRY = "TRAINER_CONFIGS"


def trainer_beside(folder: Path, name: str) -> Path | None:
    """The module of a folder that defines a class, or a TrainerConfig, of this name at its top level.

    Raises
    ------
    ConfigurationError
        If several do.
    """
    return _only(folder, name, _defines, (name,))


def recipe_beside(folder: Path, name: str) -> Path | None:
    """The module of a folder that registers the recipe `name`: ``TRAINER_CONFIGS["name"] = ...`` at its top level.

    Raises
    ------
    ConfigurationError
        If several do.
    """
    return _only(folder, name, _registers, (name, REGISTRY))


def imported_file(file: Path, name: str) -> Any:
    """Import a file and return what it defines under a name; None where it only registers it.

    Raises
    ------
    ConfigurationError
        If it cannot be imported.
    """
    try:
        module = _module(file.resolve())
    except Exception as error:  # the code of others fails in many ways
        raise ConfigurationError(f"{file}: trainer {name!r} is defined here, but cannot be imported ({one_line(error)}). Mend it.") from error
    return getattr(module, name, None)


def imported_module(name: str, beside: Path | None) -> Any:
    """What ``package.module:Attribute`` names; modules of the folder `beside` are found after installed ones.

    Raises
    ------
    ConfigurationError
        If it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if beside is not None:
        _add_to_path(beside.resolve())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the code of others fails in many ways
        raise ConfigurationError(f"trainer {name!r}: {one_line(error)}. Expected package.module:Class with the package importable from here.") from error


def _only(folder: Path, name: str, says: Callable[[ast.stmt, str], bool], words: Sequence[str]) -> Path | None:
    found = [file for file, tree in _modules(folder, words) if any(says(statement, name) for statement in tree.body)]
    if len(found) > 1:
        raise ConfigurationError(f"trainer {name!r} is defined by {found[0].name} and by {found[1].name} of {folder.resolve()}. Rename or remove one of them.")
    return found[0] if found else None


def _modules(folder: Path, words: Sequence[str]) -> Iterator[tuple[Path, ast.Module]]:
    """The modules of a folder that hold these words at all, parsed."""
    for file in sorted(folder.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if any(word not in text for word in words):
            continue
        try:
            yield file, ast.parse(text)
        except (SyntaxError, ValueError) as error:
            raise ConfigurationError(f"{file}: holds the name {words[0]!r}, but is no Python module ({one_line(error)}). Mend it, or move it away.") from error


def _defines(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.ClassDef):
        return statement.name == name
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return False
    return _called(statement.value.func) == "TrainerConfig" and any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)


def _registers(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(
        isinstance(target, ast.Subscript) and _called(target.value) == REGISTRY and isinstance(target.slice, ast.Constant) and target.slice.value == name
        for target in targets
    )


def _called(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _module(file: Path) -> ModuleType:
    """Imported under its own name, so that worker processes find it too, or where that is taken under another one; a running script is not run again."""
    main = sys.modules["__main__"]
    if (script := getattr(main, "__file__", None)) is not None and Path(script).resolve() == file:
        return main
    _add_to_path(file.parent)
    spec = importlib.util.find_spec(file.stem) if file.stem not in sys.modules else sys.modules[file.stem].__spec__
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file:
        return importlib.import_module(file.stem)
    own = f"nnreg_beside_{file.stem}"
    if own in sys.modules and sys.modules[own].__file__ == str(file):
        return sys.modules[own]
    spec = importlib.util.spec_from_file_location(own, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    """Behind all others: a file of the folder never takes the place of an installed package."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


__all__ = ["imported_file", "imported_module", "recipe_beside", "trainer_beside"]
