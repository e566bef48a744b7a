"""A template of tiny images: in the middle of them, the same for any order and after an interruption, with what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from tiny import anatomy, oblique_space

from nnreg.cli import build_template as command
from nnreg.errors import ConfigurationError, DatasetError, RegistrationError
from nnreg.geometry import FieldMap, Space
from nnreg.geometry.transform_files import read_transform
from nnreg.groups.members import Member, members_in
from nnreg.groups.template import TemplateOptions, build_template
from nnreg.groups.template.mean_image import MeanImage, sharpened
from nnreg.groups.template.results import majority
from nnreg.imageio import read_image, write_image

NAMES = ("a", "b", "c", "d")
OPTIONS = TemplateOptions(rounds=2, similarity="lncc")


def write_images(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    for seed, name in enumerate(names):
        space = oblique_space((30, 32), seed, degrees=5)
        image, labels = anatomy(space, seed)
        write_image(folder / "imagesTr" / f"{name}.nii.gz", image + 100 * (seed + 1) * (image > 0), space)
        write_image(folder / "labelsTr" / f"{name}.nii.gz", labels, space)
    return folder / "imagesTr"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def built(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("template") / "out"
    build_template(members_in(images), output, OPTIONS)
    return output


def template(output: Path) -> np.ndarray:
    return read_image(output / "template.nii.gz").array


def test_what_is_left(built: Path) -> None:
    content = json.loads((built / "summary.json").read_text())
    assert content["images"] == list(NAMES)
    assert content["sharpness"] > 1
    assert content["affine_mean_logarithm"] < 1e-6
    assert content["rounds"][-1]["drift"] < 1
    assert set(np.unique(read_image(built / "template_labels.nii.gz").array)) == {0, 3, 7}
    assert (built / "overview.png").stat().st_size > 1000
    assert not (built / "work").exists()


def test_the_mean_of_the_maps_is_the_template(built: Path) -> None:
    fields = []
    for name in NAMES:
        stage = read_transform(built / "maps" / f"{name}.h5").stages[0]
        assert isinstance(stage, FieldMap)
        fields.append(stage.displacement)
    length = np.linalg.norm(np.mean(fields, axis=0), axis=0)
    assert np.percentile(length, 95) < 0.1  # voxels
    assert np.mean(length) < 0.1 * np.mean(np.linalg.norm(fields, axis=1))


def test_maps_have_inverses(built: Path) -> None:
    points = read_image(built / "template.nii.gz").space.to_world([[14.0, 16.0], [18.0, 12.0]])
    there = read_transform(built / "maps" / "b.h5").map_points(points)
    assert np.allclose(read_transform(built / "maps" / "b_inverse.h5").map_points(there), points, atol=0.3)


def test_renamed_images_make_the_same_template(images: Path, built: Path, tmp_path: Path) -> None:
    for name, other in zip(NAMES, reversed(NAMES), strict=True):
        shutil.copy(images / f"{name}.nii.gz", tmp_path / f"{other}.nii.gz")
    build_template(members_in(tmp_path), tmp_path / "out", OPTIONS)
    assert np.array_equal(template(tmp_path / "out"), template(built))


def test_an_interrupted_run_goes_on(images: Path, built: Path, tmp_path: Path) -> None:
    for steps in (3, 8, 4):

        def interrupt(done: int, total: int, what: str, left: list[int] = [steps]) -> None:  # noqa: B006
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_template(members_in(images), tmp_path, OPTIONS, on_progress=interrupt)
        assert (tmp_path / "work").exists()
    build_template(members_in(images), tmp_path, OPTIONS)
    assert np.array_equal(template(tmp_path), template(built))


def test_finished_work_is_not_done_again(images: Path, built: Path) -> None:
    before = (built / "template.nii.gz").stat().st_mtime_ns
    build_template(members_in(images), built, OPTIONS)
    assert (built / "template.nii.gz").stat().st_mtime_ns == before


def test_channels_and_masks_in_3d(tmp_path: Path) -> None:
    """What a mask leaves out is not in the mean."""
    for seed, name in enumerate(("a", "b", "c"), start=4):
        space = oblique_space((20, 22, 18), seed, degrees=5)
        image, _ = anatomy(space, seed)
        mask = np.ones_like(image, dtype=np.uint8)
        if name == "a":
            image[0, 8:11, 9:12, 7:10] = 5000
            mask[0, 7:12, 8:13, 6:11] = 0
        write_image(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image, space)
        write_image(tmp_path / "imagesTr" / f"{name}_0001.nii.gz", 2 * image + 7, space)
        write_image(tmp_path / "masksTr" / f"{name}.nii.gz", mask, space)
    build_template(members_in(tmp_path / "imagesTr"), tmp_path / "out", TemplateOptions(rounds=1, similarity="lncc"))
    found = template(tmp_path / "out")
    assert found.shape[0] == 2
    assert 500 < found[0].max() < 1200
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.99


def test_files_of_the_run_before_go_and_those_of_the_user_stay(images: Path, built: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(built, output)
    (output / "maps" / "mine.h5").write_text("mine")
    members = [Member(member.name, member.files) for member in members_in(images)[:2]]
    build_template(members, output, TemplateOptions(rounds=1, similarity="lncc"))
    assert sorted(path.name for path in (output / "maps").iterdir()) == ["a.h5", "a_inverse.h5", "b.h5", "b_inverse.h5", "mine.h5"]
    assert not (output / "template_labels.nii.gz").exists()


def test_one_image_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs 2 images"):
        build_template(members_in(images)[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def other_contrast(images: Path, folder: Path) -> list[Member]:
    """The group with its first image inverted inside the body."""
    for path in images.iterdir():
        shutil.copy(path, folder / path.name)
    image = read_image(folder / "a.nii.gz")
    body = image.array > 0
    write_image(folder / "a.nii.gz", np.where(body, image.array[body].max() + image.array[body].min() - image.array, 0).astype(np.float32), image.space)
    return members_in(folder)


def test_two_contrasts_are_told_or_skipped(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = other_contrast(images, tmp_path)
    with pytest.raises(RegistrationError, match="a: has another contrast"):
        build_template(members, tmp_path / "out", TemplateOptions(rounds=1))
    assert command.main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--rounds", "1", "--skip_failures", "-np", "1", "-q"]) == 0
    assert "left out: a: has another contrast" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == ["b", "c", "d"]


def test_a_false_alarm_can_be_overridden(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nnreg.engine.failure import Failure

    monkeypatch.setattr(Failure, "likely", property(lambda self: True))
    words = ["-i", str(images), "-o", str(tmp_path / "out"), "--rounds", "1", "-np", "1", "-q"]
    assert command.main(words) == 2
    assert "--accept_likely_failed if it is right" in capsys.readouterr().err
    assert command.main([*words, "--accept_likely_failed"]) == 0


def test_a_damaged_image_is_one_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.iterdir():
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    given = ["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--rounds", "1", "--similarity", "lncc", "-np", "1", "-q"]
    assert command.main(given) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "b.nii.gz" in message


@pytest.mark.parametrize("changed", [{"alignment": "none"}, {"spacing": 0.0}, {"rounds": 0}, {"preset": "slow"}])
def test_options_out_of_range(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TemplateOptions(**changed)


def test_gradient_energy_of_a_step() -> None:
    array = np.zeros((1, 6, 5), np.float32)
    array[0, 3:] = 1
    mean = MeanImage(array, np.ones((6, 5), np.float32), Space.plain((6, 5), (2.0, 1.0)))
    assert mean.energy() == pytest.approx(5 * 0.5**2 / 30)


def test_sharpening_is_itks() -> None:
    image = np.random.default_rng(0).normal(size=(1, 9, 11, 8)).cumsum(axis=1).astype(np.float32)
    expected = sitk.GetArrayFromImage(sitk.LaplacianSharpening(sitk.GetImageFromArray(image[0])))
    assert np.abs(sharpened(image)[0] - expected).max() < 1e-3 * np.ptp(image)


def test_majority() -> None:
    votes = np.array([[1, 2, 0], [2, 2, 5], [2, 3, 5], [1, 1, 0]])
    assert majority(votes).tolist() == [1, 2, 0]
