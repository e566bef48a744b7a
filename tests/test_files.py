"""A folder that is replaced is the old one or the new one, whole, wherever the replacing breaks off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnreg.files import atomic_folder


class Killed(BaseException):
    """What no handler of errors catches."""


def _replace(path: Path, content: str) -> None:
    with atomic_folder(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(content)


def _content(path: Path) -> list[str]:
    return [(path / name).read_text() for name in ("a", "b")]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_folder_takes_its_place_and_leaves_nothing_beside_it(tmp_path: Path, earlier: bool) -> None:
    path = tmp_path / "pair"
    if earlier:
        _replace(path, "old")
    _replace(path, "new")
    assert _content(path) == ["new", "new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", [0, 1])
def test_the_old_folder_stands_where_a_rename_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    path = tmp_path / "pair"
    _replace(path, "old")
    rename, calls = os.rename, iter(range(9))

    def breaking(source: Path, target: Path) -> None:
        if next(calls) == step:
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "rename", breaking)
    with pytest.raises(Killed):
        _replace(path, "new")
    assert _content(path) == ["old", "old"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_folder_stands_where_removing_the_old_one_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pair"
    _replace(path, "old")

    def breaking(*arguments: object, **more: object) -> None:
        raise Killed

    monkeypatch.setattr("nnreg.files.shutil.rmtree", breaking)
    with pytest.raises(Killed):
        _replace(path, "new")
    assert _content(path) == ["new", "new"]
