"""A network of a package that nnReg knows nothing of: the one that the documentation shows, trained and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Tiny

from nnreg.architecture import NETWORKS, FieldNetwork, build_dense_network, build_network, find_network, network_names
from nnreg.errors import ConfigurationError
from nnreg.files import read_json

PLAN = {
    "channels": 1,
    "ndim": 2,
    "strides": ((1, 1), (2, 2), (2, 2)),
    "kernel_sizes": ((3, 3),) * 3,
    "features_per_stage": (4, 6, 8),
    "blocks_per_stage": (1, 1, 1),
}


@pytest.fixture
def package(install: Callable[..., None], page_code: Callable[[str], str]) -> None:
    """The page's class, as pip would have installed it."""
    code = page_code("how_to_add_a_network")
    install("ladder_package", code, "nnreg.networks", "ladder = ladder_package:LadderNet", "broken_ladder = ladder_package:NoSuchNet")


def test_the_network_serves_both_tasks(package: None) -> None:
    network = build_network("ladder", **PLAN, slope=0.3, integration_steps=2)  # type: ignore[arg-type]
    assert isinstance(network, FieldNetwork)
    assert [tuple(field.shape) for field in network(fixed=torch.randn(2, 1, 9, 14), moving=torch.randn(2, 1, 9, 14))] == [(2, 2, 9, 14), (2, 2, 5, 7)]
    logits = build_dense_network(find_network("ladder"), outputs=3, **PLAN)(torch.randn(1, 1, 9, 14))  # type: ignore[arg-type]
    assert [tuple(level.shape) for level in logits] == [(1, 3, 9, 14), (1, 3, 5, 7)]


def test_mistakes_are_named(package: None) -> None:
    assert {"ladder", "kiunet"} <= set(network_names())
    for name, options, message in (
        ("ladderr", {}, "did you mean 'ladder'"),
        ("broken_ladder", {}, "NoSuchNet"),
        ("ladder", {"slop": 0.1}, "did you mean 'slope'"),
        ("ladder", {"slope": 2}, "between 0 and 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_network(name, **PLAN, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (("first_package",), "network 'plainunet' of the package first_package: nnReg has that name already"),
        (("first_package", "second_package"), "network 'plainunet' is registered by two packages"),
    ],
)
def test_a_name_registered_twice_is_refused(points: tuple[str, ...], message: str, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS._entries, "plainunet", Tiny)  # type: ignore[arg-type]
    for package in points:
        install(package, "", "nnreg.networks", f"plainunet = {package}:X")
    with pytest.raises(ConfigurationError, match=message):
        find_network("plainunet")


@pytest.mark.parametrize(("named", "folder"), [("ladder_package:LadderNet", "ladder_package.LadderNet"), ("ladder", "ladder")])
def test_it_is_trained_resumed_and_predicts(named: str, folder: str, package: None, plane: Tiny, tmp_path: Path) -> None:
    workspace = plane.copy(tmp_path / "workspace")
    workspace.train(0, "-tr", named)
    debug = read_json(workspace.fold(0, folder) / "debug.json", ConfigurationError)
    assert any("LadderNet" in line for line in debug["network"])
    workspace.train(0, "-tr", named, "-c", epochs=2)
    predicted = workspace.predict(tmp_path / "out", "-tr", named, "-f", "0")
    assert predicted["pairs"]
