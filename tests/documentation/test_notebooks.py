"""The notebooks run from their first cell to their last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "documentation").rglob("*.ipynb"))


def _marked(path: Path) -> Any:
    """A whole dataset, planned and trained, takes minutes."""
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem == "dataset" else ())


@pytest.mark.parametrize("path", map(_marked, NOTEBOOKS))
def test_a_notebook_runs_and_holds_no_output(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    names: dict[str, Any] = {}
    for cell in cells:
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), str(path), "exec"), names)
