"""A network of a package that nnReg knows nothing of: the one that the documentation shows, trained and used."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import Tiny

from nnreg.architecture import FieldNetwork, build_dense_network, build_network, find_network, network_names
from nnreg.errors import ConfigurationError
from nnreg.files import read_json

PAGE = Path(__file__).parents[2] / "documentation" / "how_to_add_a_network.md"
PLAN = {
    "channels": 1,
    "ndim": 2,
    "strides": ((1, 1), (2, 2), (2, 2)),
    "kernel_sizes": ((3, 3),) * 3,
    "features_per_stage": (4, 6, 8),
    "blocks_per_stage": (1, 1, 1),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``ladder_package`` with the page's class, as pip would have installed it: importable, its entry points written beside it."""
    site = tmp_path / "site"
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    (site / "ladder_package").mkdir(parents=True)
    (site / "ladder_package" / "__init__.py").touch()
    (site / "ladder_package" / "ladder.py").write_text(code[1], encoding="utf-8")
    metadata = site / "ladder_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ladder-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nnreg.networks]\nladder = ladder_package.ladder:LadderNet\nbroken_ladder = ladder_package.ladder:NoSuchNet\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for name in [name for name in sys.modules if name.startswith("ladder_package")]:
        del sys.modules[name]


def test_the_network_serves_both_tasks(package: Path) -> None:
    network = build_network("ladder", **PLAN, slope=0.3, integration_steps=2)  # type: ignore[arg-type]
    assert isinstance(network, FieldNetwork)
    assert [tuple(field.shape) for field in network(fixed=torch.randn(2, 1, 9, 14), moving=torch.randn(2, 1, 9, 14))] == [(2, 2, 9, 14), (2, 2, 5, 7)]
    logits = build_dense_network(find_network("ladder"), outputs=3, **PLAN)(torch.randn(1, 1, 9, 14))  # type: ignore[arg-type]
    assert [tuple(level.shape) for level in logits] == [(1, 3, 9, 14), (1, 3, 5, 7)]


def test_mistakes_are_named(package: Path) -> None:
    assert {"ladder", "kiunet"} <= set(network_names())
    for name, options, message in (
        ("ladderr", {}, "did you mean 'ladder'"),
        ("broken_ladder", {}, "NoSuchNet"),
        ("ladder", {"slop": 0.1}, "did you mean 'slope'"),
        ("ladder", {"slope": 2}, "between 0 and 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_network(name, **PLAN, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("named", "folder"), [("ladder_package.ladder:LadderNet", "LadderNet"), ("ladder", "ladder")])
def test_it_is_trained_resumed_and_predicts(named: str, folder: str, package: Path, plane: Tiny, tmp_path: Path) -> None:
    workspace = plane.copy(tmp_path / "workspace")
    workspace.train(0, "-tr", named)
    debug = read_json(workspace.fold(0, folder) / "debug.json", ConfigurationError)
    assert any("LadderNet" in line for line in debug["network"])
    workspace.train(0, "-tr", named, "-c", epochs=2)
    predicted = workspace.predict(tmp_path / "out", "-tr", named, "-f", "0")
    assert predicted["pairs"]
