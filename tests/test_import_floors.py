"""The floors of the package: a room imports only from floors below its own or from its own, and there is no circle of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nnreg"
FLOORS: dict[str, int] = {
    "kernels": 0,
    "geometry": 0,
    "imageio": 0,
    "dataset": 1,
    "losses": 1,
    "metrics": 1,
    "architecture": 1,
    "engine": 2,
    "registration": 2,  # the import path of users, which leads to the engine
    "planning": 2,
    "utilities": 2,  # import paths of nnU-Net's users, which lead to planning
    "preprocessing": 3,
    "training": 4,
    "inference": 4,
    "evaluation": 4,
    "groups": 5,
    "report": 5,
    "tasks": 5,
    "api": 5,
    "cli": 6,
}
Imports = dict[str, dict[str, int]]


def _imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that may be modules, with the line that imports them: in functions, and for type checkers alone, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "relative imports are not followed"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def read_imports(package: Path) -> Imports:
    """Module to the modules of the package that it imports anywhere, each with the line."""
    trees = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return {module: {name: line for name, line in _imported(tree) if name in trees and name != package.name} for module, tree in trees.items()}


def upward(imports: Imports) -> list[str]:
    """Imports from a floor above, one line each."""

    def floor(module: str) -> int:
        room = module.split(".")[1] if "." in module else ""
        return FLOORS.get(room, -1)

    return [
        f"{module}:{line} imports {name}, which lies above"
        for module, found in imports.items()
        for name, line in found.items()
        if floor(module) >= 0 and floor(name) > floor(module)
    ]


def circles(imports: Imports) -> list[list[str]]:
    """Groups of modules that import each other in a circle. A package's ``__init__`` that hands on from its own modules makes none by itself."""
    reached = {module: _reached(module, imports) for module in imports}
    rings = {frozenset(other for other in found if module in reached[other]) for module, found in reached.items() if module in found}
    return sorted(sorted(ring) for ring in rings if not any(all(other == module or other.startswith(f"{module}.") for other in ring) for module in ring))


def _reached(start: str, imports: Imports) -> set[str]:
    found: set[str] = set()
    waiting = list(imports[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports[module]
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(FLOORS)


def test_no_room_imports_from_above() -> None:
    assert upward(read_imports(PACKAGE)) == []


def test_there_is_no_circle_of_imports() -> None:
    assert circles(read_imports(PACKAGE)) == []


def test_both_are_found_where_they_are(tmp_path: Path) -> None:
    package = tmp_path / "nnreg"
    for name, text in {
        "__init__": "",
        "geometry/__init__": "from nnreg.geometry.space import Space",
        "geometry/space": "from typing import TYPE_CHECKING\nimport nnreg.geometry\nif TYPE_CHECKING:\n    from nnreg.planning import plans",
        "geometry/fields": "def late():\n    from nnreg.planning import plans",
        "planning/__init__": "",
        "planning/plans": "import nnreg.geometry.fields",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    imports = read_imports(package)
    assert upward(imports) == [
        "nnreg.geometry.fields:2 imports nnreg.planning, which lies above",
        "nnreg.geometry.fields:2 imports nnreg.planning.plans, which lies above",
        "nnreg.geometry.space:4 imports nnreg.planning, which lies above",
        "nnreg.geometry.space:4 imports nnreg.planning.plans, which lies above",
    ]
    assert circles(imports) == [["nnreg.geometry.fields", "nnreg.planning.plans"]]
