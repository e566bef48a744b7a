"""A folder that is replaced is the old one or the new one, whole, wherever the replacing breaks off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnreg.errors import NnRegError
from nnreg.files import atomic_folder, atomic_path, make_folder, no_empty_folders, refuse_overwriting


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


@no_empty_folders()
def _fails_after_making(empty: Path, full: Path) -> None:
    make_folder(empty)
    make_folder(full)
    (full / "file").touch()
    raise Killed


def test_a_block_that_fails_leaves_none_of_the_empty_folders_it_made(tmp_path: Path) -> None:
    (tmp_path / "was").mkdir()
    with pytest.raises(Killed):
        _fails_after_making(tmp_path / "was" / "a" / "b", tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept", "was"]
    with no_empty_folders():
        make_folder(tmp_path / "was" / "a")
    assert (tmp_path / "was" / "a").is_dir()


def test_an_output_that_is_an_input_is_refused_under_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(NnRegError, match="would overwrite"):
        refuse_overwriting(tmp_path / "a", [None, tmp_path / "c", tmp_path / "b"])
    refuse_overwriting(tmp_path / "c", [tmp_path / "a"])


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(NnRegError, match="is a folder, a file was expected"), atomic_path(tmp_path):
        pass
