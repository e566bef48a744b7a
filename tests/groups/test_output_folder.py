"""Results of groups never lie among what is read, nor over the results of another command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nnreg.cli import build_template, fuse, longitudinal, register_group, series
from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.geometry import Space
from nnreg.groups.members import counted, members_in
from nnreg.groups.output_folder import own_folder
from nnreg.imageio import write_image

GRID = Space.plain((12, 14), (1.0, 1.0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images with labels, named as visits of a subject."""
    image = np.random.default_rng(1).normal(size=(1, *GRID.shape)).astype(np.float32)
    for number in range(3):
        write_image(tmp_path / "imagesTr" / f"s_{number}.nii.gz", image, GRID)
        write_image(tmp_path / "labelsTr" / f"s_{number}.nii.gz", (image > 0).astype(np.uint8), GRID)
    return tmp_path


COMMANDS = {
    "fuse": (fuse.main, ["-i", "imagesTr", "--atlases", "imagesTr"]),
    "template": (build_template.main, ["-i", "imagesTr"]),
    "group": (register_group.main, ["-i", "imagesTr"]),
    "longitudinal": (longitudinal.main, ["-i", "imagesTr"]),
    "series": (series.main, ["-i", "imagesTr", "--repetition", "1"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_among_what_it_reads(name: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data)
    main, words = COMMANDS[name]
    before = sorted(data.rglob("*"))
    # frames are read alone, all others read labels too
    for folder in ("imagesTr",) if name == "series" else ("imagesTr", "labelsTr"):
        assert main([*words, "-q", "-np", "1", "-o", folder]) == 2
        assert f"{folder}: is read as the folder of the images or labels" in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_replaces_the_summary_of_another(name: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data)
    main, words = COMMANDS[name]
    write_json(data / "out" / "summary.json", {"command": "nnreg_evaluate predictions", "mean": {}})
    assert main([*words, "-q", "-np", "1", "-o", "out"]) == 2
    assert "is the summary of the command 'nnreg_evaluate predictions'" in capsys.readouterr().err
    assert [path.name for path in (data / "out").iterdir()] == ["summary.json"]


def test_a_folder_of_the_same_command_is_taken(tmp_path: Path) -> None:
    write_json(tmp_path / "out" / "summary.json", {"rounds": []})
    assert own_folder(tmp_path / "out", [tmp_path / "in" / "a.nii", None], "rounds") == tmp_path / "out"
    write_json(tmp_path / "out" / "summary.json", [])
    with pytest.raises(NnRegError, match="of another command"):
        own_folder(tmp_path / "out", [], "rounds")


@pytest.mark.parametrize("name", ["template", "series", "longitudinal"])
def test_a_folder_of_the_user_is_not_removed(name: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data)
    main, words = COMMANDS[name]
    mine = data / ("out/s/work" if name == "longitudinal" else "out/work") / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    assert main([*words, "-q", "-np", "1", "-o", "out"]) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert mine.read_text(encoding="utf-8") == "mine"


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["s_10", "s_9", "s_1", "a2b", "a02b"], key=counted) == ["a02b", "a2b", "s_1", "s_9", "s_10"]


def test_texts_among_images_are_no_images_and_four_digits_are_explained(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "imagesTr" / "README.txt").write_text("three images", encoding="utf-8")
    assert len(members_in(data / "imagesTr")) == 3
    for number in range(3):
        (data / "digits").mkdir(exist_ok=True)
        shutil.copy(data / "imagesTr" / "s_0.nii.gz", data / "digits" / f"sub_{number:04d}.nii.gz")
    assert build_template.main(["-i", str(data / "digits"), "-o", str(data / "out"), "-q"]) == 2
    assert "are read as channels of one image" in capsys.readouterr().err
    (data / "digits" / "sub_0000.nii.gz").unlink()
    assert register_group.main(["-i", str(data / "digits"), "-o", str(data / "out"), "-q"]) == 2
    assert "if the four digits count images or visits" in capsys.readouterr().err


def test_2d_and_3d_are_told_by_their_files(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(data / "imagesTr" / "s_1.nii.gz", np.random.default_rng(2).normal(size=(1, 5, 6, 7)).astype(np.float32), Space.plain((5, 6, 7), (1.0,) * 3))
    (data / "labelsTr" / "s_1.nii.gz").unlink()
    assert register_group.main(["-i", str(data / "imagesTr"), "-o", str(data / "out"), "-q", "-np", "1"]) == 2
    assert "s_1.nii.gz: has 3 axes" in capsys.readouterr().err
