"""Measuring pairs: which, how long, kept, and measured again only when a file has changed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from scipy import ndimage

from nnreg import preprocessing as library
from nnreg.dataset import Pair, RawDataset
from nnreg.errors import ConfigurationError, PlansError
from nnreg.geometry import Space
from nnreg.planning.registration.fingerprint import FILE_NAME, Fingerprint
from nnreg.preprocessing import fingerprint_dataset
from nnreg.preprocessing.move import move_plans
from nnreg.preprocessing.registration import pairs
from nnreg.preprocessing.registration.pairs import FOLDER, measure_pairs, sampled_pairs

SHAPE, SPACING = (20, 26, 22), (2.0, 1.5, 1.5)
SHIFT = 2  # voxels along the second axis


@pytest.fixture
def moved(write_dataset, phantom, workspace):
    """Three cases: one phantom, moved by whole voxels; labels move along. And its fingerprint without pairs."""
    whole = phantom(SHAPE, radius=0.6)
    labels = (whole[0] > 380).astype(np.uint8)[None]
    space = Space.plain(SHAPE, SPACING)
    images = {name: (np.roll(whole, step * SHIFT, axis=2), space) for step, name in enumerate("abc")}
    write_dataset(images, labels={name: np.roll(labels, step * SHIFT, axis=2) for step, name in enumerate("abc")})
    fingerprint = fingerprint_dataset(workspace, 7, processes=1, pair_budget=0)
    return RawDataset.open(workspace.raw_folder(7)), fingerprint, workspace.preprocessed_folder(7)


def test_linear_alignment_finds_a_shift_in_mm(moved):
    raw, fingerprint, folder = moved
    found = measure_pairs(raw, fingerprint, folder, seconds=0.001)
    assert found.count == pairs.FEWEST  # whatever the budget
    for pair in found.measured:
        steps = abs("abc".index(pair.fixed) - "abc".index(pair.moving))
        assert pair.alignment_mm == pytest.approx(steps * SHIFT * SPACING[1], abs=0.7)
        assert pair.centre_offset_mm == pytest.approx(steps * SHIFT * SPACING[1], abs=0.7)
        assert pair.dice is not None
        assert pair.dice.aligned > max(0.9, pair.dice.header)
        assert pair.similarity["lncc"].aligned > 0.9
        assert pair.header_overlap == 1.0
        assert pair.folding_percent == 0.0
        assert abs(pair.mass_change) < 0.1


def test_labels_judge_every_similarity_on_the_first_pairs(moved, monkeypatch):
    raw, fingerprint, folder = moved
    monkeypatch.setattr(pairs, "TRIED", 2)
    found = measure_pairs(raw, fingerprint, folder).measured
    for pair in found[:2]:
        assert sorted(trial.similarity for trial in pair.trials) == ["lncc", "mse", "nmi+gradient"]
        assert pair.trials[0].dice == pytest.approx(pair.dice.after)
        assert all(trial.dice > 0.9 and trial.keypoint_mm is None for trial in pair.trials)
    assert found[2].trials == ()


def test_without_labels_there_is_nothing_to_judge_by(write_dataset, phantom, workspace):
    space = Space.plain(SHAPE, SPACING)
    write_dataset({name: (np.roll(phantom(SHAPE, radius=0.6), step, axis=2), space) for step, name in enumerate("ab")})
    (pair,) = fingerprint_dataset(workspace, 7, processes=1, pair_budget=60).pairs.measured
    assert pair.trials == ()


def test_what_is_kept_is_not_measured_again_until_a_file_changes(moved, monkeypatch):
    raw, fingerprint, folder = moved
    first = measure_pairs(raw, fingerprint, folder)

    def broken(*arguments, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr("nnreg.preprocessing.registration.pilot.measure_pair", broken)
    assert measure_pairs(raw, fingerprint, folder) == first
    kept = dataclasses.replace(fingerprint, pairs=first)
    assert pairs.pairs_still_true(kept, raw)
    path = raw.label_path(first.measured[0].fixed)
    path.write_bytes(path.read_bytes() + b" ")
    assert not pairs.pairs_still_true(kept, raw)
    with pytest.raises(AssertionError, match="measured again"):
        measure_pairs(raw, fingerprint, folder)


def test_an_interrupted_run_ends_as_one_that_was_not(moved, monkeypatch):
    raw, fingerprint, folder = moved
    whole = measure_pairs(raw, fingerprint, folder)
    (folder / FOLDER / f"{whole.measured[-1].fixed}__{whole.measured[-1].moving}.json").unlink()
    for path in (folder / FOLDER).glob("*.json"):
        json.loads(path.read_text())  # whole files only
    again = measure_pairs(raw, fingerprint, folder)
    assert [(pair.fixed, pair.moving) for pair in again.measured] == [(pair.fixed, pair.moving) for pair in whole.measured]
    assert again.measured[:-1] == whole.measured[:-1]


def test_a_pair_that_cannot_be_registered_is_counted_with_its_reason(write_dataset, phantom, workspace):
    space = Space.plain(SHAPE, SPACING)
    write_dataset({"a": (phantom(SHAPE), space), "b": (np.full((1, *SHAPE), 5, np.float32), space), "c": (phantom(SHAPE), space)})
    found = fingerprint_dataset(workspace, 7, processes=1, pair_budget=60).pairs
    assert {frozenset((pair.fixed, pair.moving)) for pair in found.measured} == {frozenset("ac")}
    assert len(found.failed) == 2
    assert all("constant" in failure.reason for failure in found.failed)


def test_the_fingerprint_keeps_its_images_when_only_pairs_are_missing(moved, workspace):
    _, fingerprint, folder = moved
    found = fingerprint_dataset(workspace, 7, processes=1, pair_budget=0.001)
    assert dataclasses.replace(found, pairs=None) == fingerprint
    assert Fingerprint.read(folder / FILE_NAME) == found


class TestSample:
    def _fingerprint(self, moved, subjects):
        image = next(iter(moved[1].images.values()))
        return dataclasses.replace(moved[1], images={case: dataclasses.replace(image, subject=subject) for case, subject in subjects.items()})

    def test_subjects_are_seen_alike_and_no_pair_twice(self, moved):
        cases = [f"c{index}" for index in range(9)]
        every = [Pair(a, b) for a in cases for b in cases if a != b]
        chosen = sampled_pairs(every, self._fingerprint(moved, {case: case for case in cases}))
        assert len(chosen) == pairs.MOST
        assert len({frozenset((pair.fixed, pair.moving)) for pair in chosen}) == len(chosen)
        seen = [sum(case in (pair.fixed, pair.moving) for pair in chosen[:4]) for case in cases]
        assert max(seen) == 1
        assert chosen == sampled_pairs(every, self._fingerprint(moved, {case: case for case in cases}))

    def test_groups_come_in_turn(self, moved):
        subjects = {f"{group}{scan}": group for group in "abcd" for scan in "12"}
        every = [Pair(f"{group}{one}", f"{group}{other}") for group in "abcd" for one, other in ("12", "21")]
        chosen = sampled_pairs(every, self._fingerprint(moved, subjects))
        assert sorted(pair.fixed[0] for pair in chosen) == list("abcd")


def test_a_pilot_follows_a_known_smooth_motion(write_dataset, phantom, workspace):
    """Texture is smooth and displacements are large against it, so only the size of the motion is compared."""
    whole = phantom((28, 30, 26), radius=0.8)
    bump = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(3, 28, 30, 26)), (0, 6, 6, 6))
    bump *= 3.0 / np.abs(bump).max()
    grid = np.indices(whole.shape[1:]).astype(float)
    warped = ndimage.map_coordinates(whole[0], grid + bump, order=1, mode="nearest").astype(np.float32)[None]
    space = Space.plain(whole.shape[1:], (2.0, 2.0, 2.0))
    write_dataset({"a": (whole, space), "b": (warped, space)})
    (pair,) = fingerprint_dataset(workspace, 7, processes=1, pair_budget=60).pairs.measured
    truth = np.percentile(2.0 * np.linalg.norm(bump, axis=0)[whole[0] > 0], 95)
    assert 0.5 * truth < pair.displacement_mm.p95 < 1.5 * truth
    assert pair.similarity["lncc"].after > pair.similarity["lncc"].header


def test_plans_are_moved_with_their_own_frame(moved, workspace):
    from nnreg.preprocessing import plan_dataset

    raw, _, folder = moved
    plans = plan_dataset(workspace, 7)
    twin = raw.folder.with_name("Dataset008_Twin")
    twin.mkdir()
    for part in ("imagesTr", "labelsTr"):
        (twin / part).mkdir()
        for path in (raw.folder / part).iterdir():
            (twin / part / ("z" + path.name)).write_bytes(path.read_bytes())
    (twin / "dataset.json").write_text((raw.folder / "dataset.json").read_text())
    fingerprint_dataset(workspace, 8, processes=1, pair_budget=0)
    moved_plans, path = move_plans(workspace, 7, 8, target_plans="asTiny")
    assert moved_plans.reference_case in ("za", "zb", "zc")
    assert path == folder.with_name("Dataset008_Twin") / "asTiny.json"
    for name, configuration in moved_plans.configurations.items():
        assert configuration.data_identifier == f"asTiny_{name}"
        assert dataclasses.replace(configuration, data_identifier="") == dataclasses.replace(plans.configurations[name], data_identifier="")
    with pytest.raises(PlansError, match="--overwrite"):
        move_plans(workspace, 7, 8, target_plans="asTiny")


@pytest.mark.parametrize(("labelled", "kept"), [(0, ["dvf"]), (1, ["soft_dice", "dvf"])])
def test_moved_plans_do_not_learn_from_labels_that_no_case_has(moved, workspace, labelled, kept):
    """Terms that someone wrote stay: a training tells what they lack."""
    from nnreg.planning.plans import LossTerm
    from nnreg.preprocessing import plan_dataset

    raw, _, folder = moved
    plans = plan_dataset(workspace, 7)
    terms = tuple(map(LossTerm, ("soft_dice", "keypoints", "dvf")))
    taught = {
        name: dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, supervision=terms))
        for name, configuration in plans.configurations.items()
    }
    plans.replace(configurations=taught).write(folder / "nnRegPlans.json")
    twin = raw.folder.with_name("Dataset008_Twin")
    shutil.copytree(raw.folder, twin)
    for path in sorted((twin / "labelsTr").iterdir())[labelled:]:
        path.unlink()
    content = json.loads((twin / "dataset.json").read_text())
    (twin / "dataset.json").write_text(json.dumps(content if labelled else content | {"labels": {}}))
    fingerprint_dataset(workspace, 8, processes=1, pair_budget=0)
    moved_plans, _ = move_plans(workspace, 7, 8)
    for configuration in moved_plans.configurations.values():
        assert [term.name for term in configuration.training.supervision] == kept
        assert "keypoints" in configuration.because["training.supervision"]
        assert ("soft_dice" in configuration.because["training.supervision"]) == (not labelled)


def test_pairs_are_of_registration_alone(moved, workspace):
    with pytest.raises(ConfigurationError, match="--pair_budget"):
        library.fingerprint_dataset(workspace, 7, task="dense_prediction", pair_budget=3.0)
