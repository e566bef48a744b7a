"""Damaged files of every kind are read or refused in one line: no crash, no hang, no traceback, no memory, nothing written elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.trial import trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


def _hold(tmp_path: Path, count: int, seed: int) -> None:
    findings, counts = trial(count, seed, tmp_path / "trial")
    assert not findings, "\n\n".join(f"{one.name}, seed {seed}, number {one.seed}: {one.kind}\n{one.told}" for one in findings)
    assert counts["refused"] > count / 3
    assert counts["read"] > count / 20


def test_two_hundred_damaged_files(tmp_path: Path) -> None:
    _hold(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_five_thousand_damaged_files(tmp_path: Path) -> None:
    _hold(tmp_path, 5000, seed=11)
