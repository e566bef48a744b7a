"""A network that cannot be trained is refused by the command in one line, before anything is allocated or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Tiny

from nnreg.training.runtime_utils import memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-tr", "kiunnet"], "did you mean 'kiunet'"),
        (["-tr", "kiunet", "--set", "architecture.pol_type=max"], "did you mean 'pool_type'"),
        (["-tr", "globalnet", "--set", "deep_supervision_weights=[0.5, 0.5]"], "returns one field"),
        (["-tr", "globalnet", "--set", "architecture.deep_supervision=true"], "returns one field"),
        (["-tr", "localnet", "--set", "architecture.depth=9"], "depth 9"),
    ],
)
def test_one_line_and_nothing_written(options: list[str], message: str, plane: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = plane.copy(tmp_path)
    assert workspace.try_train(0, *options) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert not (workspace.model(options[1]) / "plans.json").exists()


def test_what_does_not_fit_the_memory(plane: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory_gb", lambda device: 0.001)
    workspace = plane.copy(tmp_path)
    assert workspace.try_train(0, "-tr", "uiunet") == 2
    assert "network uiunet on" in (printed := capsys.readouterr().err.strip())
    assert "\n" not in printed
    assert workspace.try_train(0, "-tr", "inverse_consistent", epochs=1) == 2
