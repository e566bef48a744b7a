"""Series in time: known motion is found, every frame is sampled once, cycles close, bad frames are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import anatomy

from nnreg.errors import ConfigurationError, ImageError, RegistrationError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, resample_image
from nnreg.groups.series import Correction, Cycle, Series, Settings, correct_series, follow_points, read_series, track_series
from nnreg.groups.series.parameters import Parameters, dvars, framewise_displacement
from nnreg.groups.series.resampling import resampled
from nnreg.groups.series.strain import cavity_centres, green_lagrange, region_strain
from nnreg.imageio import write_image
from nnreg.imageio.itk_files import write_series

SPACE = Space((22, 24, 24), (1.4, 1.3, 1.3), (-17.0, 3.0, 9.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
MOTION = [Parameters(angles, shifts) for angles, shifts in (((0, 0, 0), (0, 0, 0)), ((1, -2, 0.5), (0.6, -1, 0.4)), ((-1.5, 1, 2), (-1, 0.3, 1.2)))]
PLANE = Space.plain((28, 30), (1.5, 1.5))


def moving_body() -> np.ndarray:
    """Frames (3, *SPACE.shape) of a body that moves by MOTION."""
    fine = Space.from_matrix([44, 48, 48], SPACE.matrix @ np.diag([0.5, 0.5, 0.5, 1.0]))
    image, _ = anatomy(fine, 3)
    poses = [Transform.affine(np.linalg.inv(each.matrix(SPACE))) for each in MOTION]
    return np.concatenate([resample_image(image, moving=fine, fixed=SPACE, transform=pose, antialias=True) for pose in poses])


def beating() -> tuple[np.ndarray, FieldMap]:
    """Frames (4, *PLANE.shape) of a disc that shrinks and grows again, and the map from the first to the third."""
    image, _ = anatomy(PLANE, 1)
    rows, columns = np.indices(PLANE.shape)
    offset = np.stack([rows - 13.5, columns - 14.5])
    inward = -0.12 * offset * np.exp(-((np.linalg.norm(offset, axis=0) / 10) ** 4))
    fields = [FieldMap((share * inward).astype(np.float32), PLANE) for share in (0, 0.5, 1, 0.5)]
    return np.concatenate([resample_image(image, moving=PLANE, fixed=PLANE, transform=Transform((each,), 2).inverse()) for each in fields]), fields[2]


def plane_series(frames: np.ndarray) -> Series:
    return Series(
        frames, PLANE, 0.04, (Path("cine.nii.gz"),), Space((1, *PLANE.shape), (1.0, *PLANE.spacing), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    )


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_series(tmp_path / "bold.nii.gz", moving_body(), SPACE, 2.0)
    return tmp_path / "bold.nii.gz"


def test_parameters_and_matrices_are_the_same_map() -> None:
    for each in MOTION:
        found = Parameters.of(each.matrix(SPACE), SPACE)
        np.testing.assert_allclose((*found.degrees, *found.mm), (*each.degrees, *each.mm), atol=1e-9)
    plane = Parameters((3.0,), (1.0, -2.0))
    assert Parameters.of(plane.matrix(PLANE), PLANE).degrees == pytest.approx((3.0,))


def test_known_motion_is_found_with_one_sampling(series: Path, tmp_path: Path) -> None:
    found = correct_series(read_series(series), tmp_path / "out")
    first = found.motion.matrices[0]
    for each, matrix in zip(MOTION, found.motion.matrices, strict=True):
        left = Parameters.of(matrix @ np.linalg.inv(first) @ np.linalg.inv(each.matrix(SPACE)), SPACE)
        assert np.abs(left.degrees).max() < 0.6  # of 24 voxels a side: a tenth is for frames of usual size
        assert np.abs(left.mm).max() < 0.1
    again = resampled(found.series.frame(1), found.series.space, found.transforms[1])
    np.testing.assert_array_equal(found.frames[1], again[0])
    assert np.nanmean(found.dvars_after) < 0.5 * np.nanmean(found.dvars_before)
    rows = (tmp_path / "out" / "motion.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:3] == ["frame", "time_s", "rot_x_deg"]
    assert rows[2].split("\t")[1] == "2"
    assert {"corrected.nii.gz", "mean.nii.gz", "motion.png", "summary.json", "transforms"} < {path.name for path in (tmp_path / "out").iterdir()}
    assert read_series(tmp_path / "out" / "corrected.nii.gz").repetition == 2.0


def test_frames_of_two_contrasts_are_compared_by_their_edges(tmp_path: Path) -> None:
    from nnreg.groups.series.rigid import estimate

    frames = moving_body()
    frames[1] = np.where(frames[1] > 0.05 * frames[1].max(), 1.1 * frames[1].max() - frames[1], 0)
    write_series(tmp_path / "dwi.nii.gz", np.concatenate([frames, frames[:2]]), SPACE, 2.0)
    found = estimate(read_series(tmp_path / "dwi.nii.gz"), Settings(), tmp_path / "work")
    assert found.several
    assert "different contrasts" in found.because
    way = Parameters.of(found.matrices[1] @ np.linalg.inv(found.matrices[0]) @ np.linalg.inv(MOTION[1].matrix(SPACE)), SPACE)
    assert np.abs(way.degrees).max() < 1.0
    assert np.abs(way.mm).max() < 0.4
    with pytest.raises(ConfigurationError, match="edges"):
        Settings(similarity="edge")


def test_an_object_that_is_cut_off_moves_as_it_does(tmp_path: Path) -> None:
    from nnreg.groups.series.rigid import estimate

    cut = Space((16, 20, 20), SPACE.spacing, tuple(SPACE.to_world(np.array([3.0, 2.0, 2.0])).tolist()), SPACE.direction)
    poses = [np.eye(4), Parameters((2, -3, 4), (1.5, -2, 1)).matrix(cut), Parameters((-3, 2, -2), (-2, 1, 2)).matrix(cut)]
    fine = Space.from_matrix([44, 48, 48], SPACE.matrix @ np.diag([0.5, 0.5, 0.5, 1.0]))
    image, _ = anatomy(fine, 3)
    frames = [resample_image(image, moving=fine, fixed=cut, transform=Transform.affine(np.linalg.inv(pose)), antialias=True) for pose in poses]
    write_series(tmp_path / "cut.nii.gz", np.concatenate(frames), cut, 2.0)
    found = correct_series(read_series(tmp_path / "cut.nii.gz"), tmp_path / "out")
    for pose, matrix in zip(poses, found.motion.matrices, strict=True):
        left = Parameters.of(matrix @ np.linalg.inv(found.motion.matrices[0]) @ np.linalg.inv(pose), cut)
        assert np.abs(left.degrees).max() < 1.0
        assert np.abs(left.mm).max() < 0.3
    assert found.worse is None
    estimate(found.series, Settings(similarity="edges"), tmp_path / "edges")


def test_progress_goes_on_to_its_end_once(series: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    correct_series(read_series(series), tmp_path / "out", on_progress=lambda done, total, what: shares.append(done / total))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert sum(share == 1 for share in shares) == 1


def test_a_dry_run_names_what_is_written(series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnreg.cli import series as command

    assert command.main(["-i", str(series), "-o", str(tmp_path / "out"), "-q", "-np", "1"]) == 0
    capsys.readouterr()
    assert command.main(["-i", str(series), "-o", str(tmp_path / "out"), "--dry_run", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(each["path"]) for each in told["writes"]} == set((tmp_path / "out").iterdir())
    assert command.main(["-i", str(series), "-o", str(tmp_path / "out"), "--dry_run", "--cavity", "3"]) == 2


def test_a_run_that_was_killed_goes_on(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnreg.groups.series import rigid

    read, settings = read_series(series), Settings(reference="first")
    whole = rigid.estimate(read, settings, tmp_path / "work")
    monkeypatch.setattr(rigid, "_one", lambda *_: pytest.fail("it is there already"))
    again = rigid.estimate(read, settings, tmp_path / "work")
    np.testing.assert_array_equal(whole.matrices, again.matrices)


def test_frames_that_fail_are_named_and_skipped_or_refused(tmp_path: Path) -> None:
    other = np.random.default_rng(0).normal(400, 90, (1, *SPACE.shape)).astype(np.float32)
    frames = np.concatenate([moving_body(), np.zeros((1, *SPACE.shape), np.float32), other])
    write_series(tmp_path / "bold.nii.gz", frames, SPACE, 2.0)
    read, notes = read_series(tmp_path / "bold.nii.gz"), []
    with pytest.raises(RegistrationError, match="frames 3, 4 could not"):
        correct_series(read, tmp_path / "stopped", Correction(rigid=Settings(reference="first")), stop=True)
    found = correct_series(read, tmp_path / "out", Correction(rigid=Settings(reference="first")), on_note=notes.append)
    assert list(found.motion.failed) == [3, 4]
    assert "frames 3, 4 could not" in notes[0]
    assert "3" in json.loads((tmp_path / "out" / "summary.json").read_text())["failed"]
    assert (tmp_path / "out" / "motion.tsv").read_text().splitlines()[4].split("\t")[2] == "n/a"


@pytest.mark.parametrize("reference", ["previous", "1"])
def test_other_references(series: Path, tmp_path: Path, reference: str) -> None:
    from nnreg.groups.series.rigid import estimate

    matrices = estimate(read_series(series), Settings(reference=reference), tmp_path).matrices
    way = Parameters.of(matrices[2] @ np.linalg.inv(matrices[1]) @ MOTION[1].matrix(SPACE) @ np.linalg.inv(MOTION[2].matrix(SPACE)), SPACE)
    assert np.abs(way.degrees).max() < 0.5
    assert np.abs(way.mm).max() < 0.15


def test_what_is_no_series_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "one.nii.gz", moving_body()[:1], SPACE, 2.0)
    with pytest.raises(ImageError, match="has one frame"):
        read_series(tmp_path / "one.nii.gz")
    write_series(tmp_path / "untimed.nii", moving_body(), SPACE, 2.0)
    content = bytearray((tmp_path / "untimed.nii").read_bytes())
    content[92:96] = bytes(4)  # pixdim[4]
    (tmp_path / "untimed.nii").write_bytes(content)
    with pytest.raises(ImageError, match="has 0 s from frame to frame"):
        read_series(tmp_path / "untimed.nii")
    for number in range(2):
        write_image(tmp_path / "frames" / f"{number}.nii.gz", beating()[0][number][None], PLANE)
    with pytest.raises(ImageError, match="--repetition"):
        read_series(tmp_path / "frames")
    assert read_series(tmp_path / "frames", repetition=0.04).frames.shape == (2, *PLANE.shape)
    with pytest.raises(ConfigurationError, match="unknown"):
        Settings(reference="median")


def test_framewise_displacement_and_dvars() -> None:
    steps = framewise_displacement([Parameters((0, 0, 0), (0, 0, 0)), Parameters((np.degrees(0.01), 0, 0), (0, -1, 0)), None])
    assert np.isnan(steps[0])
    assert steps[1] == pytest.approx(1.5)
    assert np.isnan(steps[2])
    frames = np.full((3, 4, 4), 100.0)
    frames[1] += 2
    np.testing.assert_allclose(dvars(frames, np.ones((4, 4), bool), np.ones(3, bool))[1:], 2.0)


def test_strain_of_a_known_map() -> None:
    rows, columns = np.indices(PLANE.shape).astype(np.float32)
    angle = 0.3
    turned = np.stack([(np.cos(angle) - 1) * rows - np.sin(angle) * columns, np.sin(angle) * rows + (np.cos(angle) - 1) * columns]).astype(np.float32)
    np.testing.assert_allclose(green_lagrange(FieldMap(turned, PLANE)), 0, atol=1e-4)  # a rotation strains nothing
    labels = np.zeros(PLANE.shape, int)
    labels[10:18, 11:19] = 1
    wider = FieldMap(np.stack([0.1 * (rows - 13.5), 0.1 * (columns - 14.5)]).astype(np.float32), PLANE)
    found = region_strain(wider, labels == 1, cavity_centres(labels, 1))
    assert found.volume == pytest.approx(21, abs=0.01)
    assert found.radial == pytest.approx(10.5, abs=0.01)
    assert found.circumferential == pytest.approx(10.5, abs=0.01)


def test_a_cycle_is_followed_and_closes(tmp_path: Path) -> None:
    frames, truth = beating()
    found = track_series(plane_series(frames), tmp_path, Cycle(engine=Correction().engine))
    where = found.regions[0]
    left = np.linalg.norm(found.fields[2].displacement - truth.displacement, axis=0)[where]
    assert left.mean() < 0.4 * np.linalg.norm(truth.displacement, axis=0)[where].mean()
    assert found.closure_voxels()["mean"] < 0.5
    assert found.strains[2][0].volume < -5
    assert (tmp_path / "strain.png").is_file()
    assert json.loads((tmp_path / "summary.json").read_text())["closure_voxels"]["mean"] == pytest.approx(found.closure_voxels()["mean"])


def test_two_frames_say_what_closing_them_means(tmp_path: Path) -> None:
    found = follow_points(plane_series(beating()[0][[0, 2]]), tmp_path, Cycle(to_first=False, engine=Correction().engine))
    assert "two frames" in found.summary()["note"]
    with pytest.raises(RegistrationError, match="not there"):
        follow_points(plane_series(beating()[0]), tmp_path, Cycle(first=9))


def test_registrations_of_frames_that_likely_failed_are_told(tmp_path: Path) -> None:
    frames, notes = beating()[0], []
    frames[2] = np.random.default_rng(0).normal(100, 30, size=PLANE.shape)
    found = track_series(plane_series(frames), tmp_path / "strain", Cycle(to_first=False, engine=Correction().engine), on_note=notes.append)
    assert found.doubtful
    assert "likely failed" in notes[-1]
    with pytest.raises(RegistrationError, match="likely failed"):
        track_series(plane_series(frames), tmp_path / "strain", Cycle(to_first=False, engine=Correction().engine), stop=True)


def test_files_of_the_run_before_go_and_those_of_the_user_stay(tmp_path: Path) -> None:
    frames = beating()[0]
    track_series(plane_series(frames), tmp_path, Cycle(to_first=False, engine=Correction().engine))
    (tmp_path / "transforms" / "mine.h5").write_text("mine")
    correct_series(plane_series(frames[:2]), tmp_path)
    assert sorted(path.name for path in (tmp_path / "transforms").iterdir()) == ["frame_0000.tfm", "frame_0001.tfm", "mine.h5"]
    assert not list(tmp_path.glob("strain.*"))


@pytest.mark.slow
def test_deformable_frames(tmp_path: Path) -> None:
    frames = beating()[0]
    found = correct_series(plane_series(frames), tmp_path, Correction(model="deformable"))
    assert np.nanmean(found.dvars_after) < np.nanmean(found.dvars_before)
    assert any(not isinstance(stage, AffineMap) for transform in found.transforms for stage in transform.stages)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cavity", "3"], "--cavity is for --model strain"),
        (["--model", "strain", "--cavity", "3"], "--cavity 3 needs --labels"),
        (["--model", "strain", "--mask", "m.nii.gz"], "--mask is for --model rigid or deformable"),
        (["--interpolation", "nearest"], "interpolation 'nearest' is unknown"),
        ([], "does not exist"),
    ],
)
def test_the_command_answers_mistakes_in_a_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnreg.cli.series import main

    assert main(["-i", str(tmp_path / "none.nii.gz"), "-o", str(tmp_path / "out"), *words]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert "\n" not in found
    assert not (tmp_path / "out").exists()


def test_frames_of_a_folder_are_counted_as_people_count(tmp_path: Path) -> None:
    frames = beating()[0]
    for name in ("frame_{}.nii.gz", "frame_{:04d}.nii.gz"):
        folder = tmp_path / str(len(name))
        for place, number in enumerate((1, 2, 10)):
            write_image(folder / name.format(number), frames[place][None], PLANE)
        found = read_series(folder, repetition=1.0)
        assert [path.name for path in found.files] == [name.format(number) for number in (1, 2, 10)]
        np.testing.assert_allclose(found.frames, frames[:3], rtol=1e-5)
    write_image(folder / "other_0001.nii.gz", frames[0][None], PLANE)
    with pytest.raises(ImageError, match="several channels"):
        read_series(folder, repetition=1.0)


def test_a_correction_that_makes_frames_less_alike_is_told(tmp_path: Path) -> None:
    found = correct_series(plane_series(beating()[0]), tmp_path)
    assert found.worse is None
    calm = np.full(len(found.frames), 1.0)
    spoiled = replace(found, dvars_before=calm, dvars_after=2 * calm)
    assert "DVARS rose from 1.00 % to 2.00 %" in str(spoiled.summary()["note"])
    assert replace(spoiled, motion=replace(found.motion, several=True)).worse is None
