"""Maps of a group that agree around loops."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import anatomy, oblique_space

from nnreg.cli.register_group import main
from nnreg.engine.options import EngineOptions
from nnreg.errors import DatasetError
from nnreg.files import read_json, write_json
from nnreg.geometry import Space, Transform
from nnreg.geometry.itk import write_itk
from nnreg.geometry.transform_files import read_transform
from nnreg.groups.consistency import loop_errors, register_group
from nnreg.groups.members import members_in
from nnreg.imageio import read_image, write_image

FAST = EngineOptions(preset="fast", similarity="lncc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        space = oblique_space((26, 28), seed, degrees=5)
        image, labels = anatomy(space, seed)
        write_image(tmp_path / "imagesTr" / f"{name}.nii.gz", image, space)
        write_image(tmp_path / "labelsTr" / f"{name}.nii.gz", labels, space)
    return tmp_path / "imagesTr"


def shift(x: float) -> Transform:
    return Transform.affine([[1, 0, x], [0, 1, 0], [0, 0, 1]])


def test_loop_errors_of_shifts() -> None:
    place = {0: 0.0, 1: 3.0, 2: -4.0}
    wrong = {(0, 2): 2.0}
    space = Space.plain((5, 5), (1.0, 2.0))
    found = loop_errors(lambda i, j: shift(place[j] - place[i] + wrong.get((i, j), 0.0)), [np.zeros((3, 2))] * 3, [space] * 3)
    assert found[0, 1, 2] == pytest.approx(1.0)  # 2 mm in voxels of 2 mm along x
    assert found[1, 0, 2] == pytest.approx(1.0)
    assert found[2, 1, 0] == pytest.approx(0.0)
    assert np.isnan(found[0, 0, 1])


def test_loops_close(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    content = register_group(members_in(folder), output, FAST, pairs=True)
    error = content["loop_error_voxels"]
    assert error["after"]["mean"] < 0.5 * error["before"]["mean"]
    assert error["after"]["mean"] < 0.1
    assert content["dice"]["after"] > content["dice"]["before"] - 0.03
    assert read_image(output / "middle.nii.gz").array.max() > 100
    points = read_image(folder / "a.nii.gz").space.to_world([[13.0, 14.0]])
    chained = read_transform(output / "middle" / "a.h5").then(read_transform(output / "middle" / "b_inverse.h5"))
    assert np.allclose(read_transform(output / "pairs" / "a__b.h5").map_points(points), chained.map_points(points), atol=0.05)


@pytest.mark.slow
def test_maps_that_agree_stay(folder: Path, tmp_path: Path) -> None:
    """Direct maps that come from one space are given back."""
    members = members_in(folder)
    output = tmp_path / "out"
    register_group(members, output, FAST)
    through = {}
    for one in members:
        for other in members:
            if one is not other:
                through[one.name, other.name] = Transform(
                    read_transform(output / "middle" / f"{one.name}.h5").stages + read_transform(output / "middle" / f"{other.name}_inverse.h5").stages, 2
                )
    again = tmp_path / "again"
    (output / "direct").rename(tmp_path / "kept")
    (again / "direct").mkdir(parents=True)
    for (one, other), transform in through.items():
        space = read_image(folder / f"{one}.nii.gz").space
        write_itk(again / "direct" / f"{one}__{other}.h5", Transform((transform.sampled_on(space),), 2))
        record = (tmp_path / "kept" / f"{one}__{other}.json").read_text()
        (again / "direct" / f"{one}__{other}.json").write_text(record)
    content = register_group(members, again, FAST)
    assert content["loop_error_voxels"]["before"]["mean"] < 0.1
    points = read_image(folder / "a.nii.gz").space.to_world([[13.0, 14.0], [10.0, 16.0]])
    found = read_transform(again / "middle" / "a.h5").then(read_transform(again / "middle" / "b_inverse.h5")).map_points(points)
    assert np.allclose(found, through["a", "b"].map_points(points), atol=0.4)


def test_two_images_have_no_loop(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs 3 images"):
        register_group(members_in(folder)[:2], tmp_path / "out")


def add_noise(folder: Path) -> None:
    noise = np.random.default_rng(5).normal(100, 30, size=(1, 26, 28)).astype(np.float32)
    write_image(folder / "noise.nii.gz", noise, Space.plain((26, 28)))


def test_an_image_that_fits_to_none_is_left_out_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder.parent / "labelsTr")
    add_noise(folder)
    words = ["-i", str(folder), "-o", str(tmp_path / "out"), "--preset", "fast", "-q", "-np", "1"]
    assert main(words) == 3
    assert "left out: noise: " in capsys.readouterr().out
    content = read_json(tmp_path / "out" / "summary.json")
    assert content["images"] == ["a", "b", "c"]
    assert "likely failed" in content["left_out"]["noise"]
    assert not (tmp_path / "out" / "middle" / "noise.h5").exists()
    (folder / "c.nii.gz").unlink()
    assert main(words) == 2
    assert "of 3 images are left, 3 at least are needed for a loop" in capsys.readouterr().err
    assert main([*words, "--accept_likely_failed"]) == 0


def test_a_map_that_likely_failed_is_in_no_loop(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, labels = anatomy(oblique_space((26, 28), 3, degrees=5), 3)
    write_image(folder / "d.nii.gz", image, oblique_space((26, 28), 3, degrees=5))
    write_image(folder.parent / "labelsTr" / "d.nii.gz", labels, oblique_space((26, 28), 3, degrees=5))
    register_group(members_in(folder), tmp_path / "out", FAST)
    record, moved = tmp_path / "out" / "direct" / "a__b.json", tmp_path / "out" / "direct" / "a__b.h5"
    write_json(record, read_json(record) | {"failure_probability": 0.9})
    write_itk(moved, shift(40.0))
    content = register_group(members_in(folder), tmp_path / "out", FAST)
    assert content["likely_failed"] == {"a__b": 0.9}
    assert content["replaced"]["a__b"] in ("c", "d")
    assert content["loop_error_voxels"]["before"]["p95"] < 5
    assert min(content["weights"].values()) > 0.1


def test_files_of_the_run_before_go_and_those_of_the_user_stay(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    register_group(members_in(folder), output, FAST, pairs=True)
    (output / "pairs" / "mine.h5").write_text("mine")
    (folder / "c.nii.gz").rename(folder / "e.nii.gz")
    (folder.parent / "labelsTr" / "c.nii.gz").rename(folder.parent / "labelsTr" / "e.nii.gz")
    register_group(members_in(folder), output, FAST)
    assert [path.name for path in (output / "pairs").iterdir()] == ["mine.h5"]
    assert sorted(path.name for path in (output / "middle").iterdir()) == [f"{name}{end}" for name in "abe" for end in (".h5", "_inverse.h5")]
    assert not list((output / "direct").glob("*c*.h5"))
