"""Visits of a subject: no visit is preferred, growth is found, what cannot be done is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter
from tiny import anatomy

from nnreg.arrays import Doubles
from nnreg.cli.longitudinal import main
from nnreg.errors import DatasetError, RegistrationError
from nnreg.geometry import FieldMap, Space
from nnreg.groups.halfway import from_first, from_halfway
from nnreg.groups.least_squares import measured, share_told
from nnreg.groups.longitudinal import Settings, follow, follow_subjects, subjects_in_folder, subjects_in_table, subjects_of_dataset
from nnreg.groups.longitudinal.change import rate
from nnreg.groups.longitudinal.mid_space import logarithm, middle, middle_grid
from nnreg.imageio import write_image

GROWTH = 1.06  # of area: what 24 pixels show
SPACE = Space.plain((26, 28), (1.5, 1.5))


def grown(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The same body, `scale` times as long, on one grid."""
    centre = SPACE.centre * (1 - 1 / scale)
    return anatomy(Space(SPACE.shape, tuple(step / scale for step in SPACE.spacing), tuple(centre.tolist()), SPACE.direction), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("visits")
    for visit, scale in (("a", 1.0), ("b", GROWTH**0.5)):
        image, labels = grown(scale)
        write_image(root / "imagesTr" / f"s1_{visit}_0000.nii.gz", image, SPACE)
        write_image(root / "labelsTr" / f"s1_{visit}.nii.gz", labels, SPACE)
    write_image(root / "imagesTr" / "s2_a_0000.nii.gz", image, SPACE)
    return root / "imagesTr"


def rotation(rng: np.random.Generator) -> Doubles:
    velocity = np.zeros((4, 4))
    skew = rng.normal(0, 0.2, (3, 3))
    velocity[:3, :3], velocity[:3, 3] = skew - skew.T, rng.normal(0, 5, 3)
    return np.asarray(expm(velocity))


def test_the_middle_of_two_is_half_the_way() -> None:
    way = rotation(np.random.default_rng(0))
    first, second = middle({(0, 1): way, (1, 0): np.linalg.inv(way)}, 2)
    np.testing.assert_allclose(second @ np.linalg.inv(first), way, atol=1e-9)
    np.testing.assert_allclose(first @ second, np.eye(4), atol=1e-9)


def test_the_middle_of_several_does_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(1)
    places = [rotation(rng) for _ in range(3)]
    ways = {(i, j): places[j] @ np.linalg.inv(places[i]) @ rotation(rng) ** 0 for i in range(3) for j in range(3) if i != j}
    ways = {(i, j): places[j] @ np.linalg.inv(places[i]) for i, j in ways}
    found = middle(ways, 3)
    turned = middle({(2 - i, 2 - j): way for (i, j), way in ways.items()}, 3)[::-1]
    for one, other in zip(found, turned, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    np.testing.assert_allclose(np.mean([logarithm(matrix) for matrix in found], axis=0), 0, atol=1e-8)


def test_half_a_turn_has_no_middle() -> None:
    with pytest.raises(RegistrationError, match="half a turn"):
        logarithm(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([1, 1, -1, 1.0]))


def test_the_grid_in_the_middle_holds_every_image() -> None:
    other = Space((24, 20), (1.4, 1.6), (3.0, -2.0), (0.0, -1.0, 1.0, 0.0))
    grid = middle_grid([SPACE, other], [np.eye(3), np.eye(3)])
    index = np.concatenate([grid.to_index(space.corners()) for space in (SPACE, other)])
    assert index.min() > -0.51
    assert (index < np.asarray(grid.shape) - 0.49).all()
    assert grid.same_as(middle_grid([other, SPACE], [np.eye(3), np.eye(3)]))


def test_least_squares_swap_with_the_images() -> None:
    first, second = (grown(scale)[0][:, None] / 1000 for scale in (1.0, GROWTH**0.5))
    there = measured(first, second, np.zeros((2, 1, *SPACE.shape), np.float32), SPACE.spacing)
    back = measured(second, first, np.zeros((2, 1, *SPACE.shape), np.float32), SPACE.spacing)
    assert np.abs(there).max() > 0.1
    np.testing.assert_allclose(there, -back, atol=1e-4)


def test_less_is_told_of_a_change_in_a_smaller_region() -> None:
    space = Space.plain((40, 44), (1.5, 1.5))
    image = gaussian_filter(np.random.default_rng(0).normal(0.5, 0.5, (1, 1, *space.shape)), (0, 0, 1, 1)).astype(np.float32)  # as much to see everywhere
    rows, columns = np.indices(space.shape)
    distance = np.hypot(rows - 20, columns - 22)[None]
    shares = [
        share_told(image, image, np.zeros((2, 1, *space.shape), np.float32), space.spacing, (distance < radius).astype(np.float32)) for radius in (3, 6, 12)
    ]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    loose = share_told(image, image, np.zeros((2, 1, *space.shape), np.float32), space.spacing, (distance < 3).astype(np.float32), smoothness=0.5)
    assert loose > shares[0]


def test_a_map_seen_from_halfway_and_back() -> None:
    rows, columns = np.indices(SPACE.shape)
    field = np.stack([np.sin(columns / 5), np.cos(rows / 6)]).astype(np.float32)
    back = from_first(from_halfway(FieldMap(field, SPACE)))[:, 0]
    assert np.abs(back - field)[:, 4:-4, 4:-4].max() < 0.06


def test_growth_is_found_and_kept(folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    settings = Settings(preset="fast", similarity="lncc")
    summary = follow_subjects(subjects_in_folder(folder), tmp_path, settings, on_note=notes.append)
    found = {each["label"]: each for each in summary.done["s1"]["visits"][1]["labels"]}
    assert found[0]["change"] == pytest.approx(100 * (GROWTH - 1), abs=1.0)
    assert found[0]["told_alone"] is None
    assert all(0 < each["told_alone"] < 1.2 for label, each in found.items() if label)
    assert len(notes) == 1
    assert "s2" in notes[0]
    assert "one visit" in notes[0]
    assert json.loads((tmp_path / "summary.json").read_text())["skipped"] == summary.skipped
    assert sorted(path.name for path in (tmp_path / "s1").iterdir()) == [
        "labels.nii.gz",
        "log_jacobian_b.nii.gz",
        "mean.nii.gz",
        "overview.png",
        "report.json",
        "to_a.h5",
        "to_b.h5",
        "volumes.csv",
    ]
    made = (tmp_path / "s1" / "report.json").stat().st_mtime_ns
    follow_subjects(subjects_in_folder(folder), tmp_path, settings)
    assert (tmp_path / "s1" / "report.json").stat().st_mtime_ns == made


@pytest.mark.slow
def test_visits_in_another_order_shrink_by_what_they_grew(folder: Path, tmp_path: Path) -> None:
    settings = Settings(preset="fast", similarity="lncc")
    subject = subjects_in_folder(folder)[0]
    turned = replace(subject, visits=tuple(replace(visit, time=-visit.time) for visit in subject.visits[::-1]))
    one, other = follow(subject, tmp_path / "one", settings), follow(turned, tmp_path / "other", settings)
    left = one.volumes.since_first(1) + other.volumes.since_first(1)
    assert np.abs(left[one.labels[0] > 0]).mean() < 0.005


def test_a_visit_that_cannot_be_read_is_left_out(folder: Path, tmp_path: Path) -> None:
    image = np.full((1, *SPACE.shape), np.nan, np.float32)
    for name in ("s1_a", "s1_b"):
        (tmp_path / f"{name}.nii.gz").write_bytes((folder / f"{name}_0000.nii.gz").read_bytes())
    write_image(tmp_path / "s1_c.nii.gz", image, SPACE)
    subjects = subjects_in_folder(tmp_path)
    with pytest.raises(Exception, match="NaN"):
        follow_subjects(subjects, tmp_path / "out", Settings(preset="fast"), stop=True)


def test_visits_whose_registration_likely_failed_are_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("s1_a", "s1_b"):
        shutil.copy(folder / f"{name}_0000.nii.gz", tmp_path)
    noise = np.random.default_rng(0).normal(100, 30, size=(1, *SPACE.shape)).astype(np.float32)
    write_image(tmp_path / "s1_b_0000.nii.gz", noise, SPACE)
    assert main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--preset", "fast", "-np", "1", "-q"]) == 3
    assert "s1: the registrations of " in capsys.readouterr().err
    shutil.copy(folder / "s1_b_0000.nii.gz", tmp_path / "s1_c_0000.nii.gz")
    (tmp_path / "s1_b_0000.nii.gz").unlink()
    assert main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--preset", "fast", "-np", "1", "-q"]) == 0
    assert not (tmp_path / "out" / "s1" / "to_b.h5").exists()  # of the run before


def test_times_and_tables(folder: Path, tmp_path: Path) -> None:
    times = tmp_path / "times.csv"
    times.write_text("case,time\ns1_a,3.5\ns1_b,1\ns2_a,0\n")
    assert [visit.name for visit in subjects_in_folder(folder, times=times)[0].visits] == ["b", "a"]
    times.write_text("case,time\ns1_a,3.5\n")
    with pytest.raises(DatasetError, match="no time for s1_b, s2_a"):
        subjects_in_folder(folder, times=times)
    table = tmp_path / "visits.csv"
    table.write_text(f"subject,time,image\np1,0,{folder}/s1_a_0000.nii.gz\np1,soon,{folder}/s1_b_0000.nii.gz\n")
    with pytest.raises(DatasetError, match="line 3: the time is 'soon'"):
        subjects_in_table(table)
    table.write_text(table.read_text().replace("soon", "2"))
    [subject] = subjects_in_table(table)
    assert [visit.time for visit in subject.visits] == [0, 2]


def test_visits_at_the_same_time_are_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnreg.cli import longitudinal

    (tmp_path / "times.csv").write_text("case,time\ns1_a,2\ns1_b,2\ns2_a,0\n")
    words = ["-i", str(folder), "-o", str(tmp_path / "out"), "--times", str(tmp_path / "times.csv"), "--preset", "fast", "-np", "1"]
    assert longitudinal.main([*words, "--dry_run", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"s1/volumes.csv", "s1/log_jacobian_b.nii.gz"} < {str(Path(each["path"]).relative_to(tmp_path / "out")) for each in told["writes"][1:]}
    assert "visits a, b are at the same time, so no rate" in told["notes"][0]
    assert "s2: has one visit" in told["notes"][1]
    assert not (tmp_path / "out").exists()
    assert longitudinal.main([*words, "-q"]) == 3
    assert "s1: visits a, b are at the same time, so no rate" in capsys.readouterr().err
    assert "s1" in json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]
    report = json.loads((tmp_path / "out" / "s1" / "report.json").read_text())
    assert "same time" in report["note"]
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {str(Path(each["path"]).relative_to(tmp_path / "out")) for each in told["writes"]}


def test_visits_are_counted_as_people_count(tmp_path: Path) -> None:
    for visit in (1, 2, 10):
        write_image(tmp_path / f"s_{visit}.nii.gz", grown(1.0)[0], SPACE)
    [subject] = subjects_in_folder(tmp_path)
    assert [visit.name for visit in subject.visits] == ["1", "2", "10"]


def test_names_without_a_visit_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "brain.nii.gz", grown(1.0)[0], SPACE)
    with pytest.raises(DatasetError, match="SUBJECT_VISIT"):
        subjects_in_folder(tmp_path)


def test_a_dataset_of_another_pairing_is_refused(tmp_path: Path) -> None:
    from tiny import spaces, write_dataset

    from nnreg.dataset import RawDataset

    write_dataset(tmp_path / "Dataset001_A", spaces((20, 20), ["a", "b"]))
    with pytest.raises(DatasetError, match="expected 'groups'"):
        subjects_of_dataset(RawDataset.open(tmp_path / "Dataset001_A"))
    write_dataset(tmp_path / "Dataset002_B", spaces((20, 20), ["a", "b"]), pairing="groups", groups={"a": "p", "b": "p"})
    [subject] = subjects_of_dataset(RawDataset.open(tmp_path / "Dataset002_B"))
    assert (subject.name, [visit.name for visit in subject.visits]) == ("p", ["a", "b"])


def test_rates() -> None:
    found = rate([0, 1, 2], [0, 1, 2])
    assert (found.slope, found.error) == (pytest.approx(1), pytest.approx(0))
    assert np.isnan(rate([1, 1], [0, 2]).slope)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name either images with -i or a raw dataset with -d"),
        (["-i", "none"], "no such folder"),
        (["-i", "visits.csv", "--labels", "x"], "--labels is for a folder"),
        (["-i", "none", "--alignment", "elastic"], "elastic"),
    ],
)
def test_the_command_answers_mistakes_in_a_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "out"), *words]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert "\n" not in found
