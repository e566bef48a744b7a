"""What a training sees: every sample a function of (seed, split, index), and never a subject of the other side."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from tiny import Tiny

from nnreg.dataset.pairs import Pair
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import fold_cases
from nnreg.errors import ConfigurationError
from nnreg.geometry import Space
from nnreg.planning.plans import Configuration, LossTerm, Plans
from nnreg.planning.registration.rules.training import LABELS_PER_STEP
from nnreg.preprocessing.registration.storage import PreprocessedCase, PreprocessedDataset, Properties
from nnreg.tasks.registration.samples import POINTS_PER_SAMPLE, PairSamples
from nnreg.tasks.registration.task import RegistrationTask
from nnreg.training.dataloading.loaders import build_loader, collate


@pytest.fixture(scope="module")
def configuration(plane: Tiny) -> Configuration:
    planned = Plans.read(plane.preprocessed / "nnRegPlans.json").configuration("2d")
    return dataclasses.replace(planned, training=dataclasses.replace(planned.training, batch_size=1))


@pytest.fixture(scope="module")
def pairs(plane: Tiny) -> list:
    spec = DatasetSpec.read(plane.preprocessed / "dataset.json")
    return RegistrationTask().units(spec=spec, cases=PreprocessedDataset(plane.arrays).cases)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def supervised(configuration: Configuration) -> Configuration:
    return dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, supervision=(LossTerm("soft_dice"),)))


def test_an_index_is_a_sample_whoever_asks_and_when(plane, pairs, configuration):
    first, second = (PairSamples(plane.arrays, pairs, supervised(configuration), 4, "train", True) for _ in range(2))
    torch.manual_seed(1)
    forward = [first[index] for index in range(6)]
    torch.manual_seed(2)
    np.random.default_rng(3)
    backward = [second[index] for index in reversed(range(6))][::-1]
    assert all(same(one, other) for one, other in zip(forward, backward, strict=True))
    assert "label_subset" in forward[0]
    # epochs go on where the last one ended, so none repeats another
    assert not any(same(one, other) for one, other in itertools.combinations(forward, 2))


def test_seeds_and_splits_draw_differently(plane, pairs, configuration):
    other_seed = dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, seed=1))
    train = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    assert not same(train[0], PairSamples(plane.arrays, pairs, other_seed, 4, "train", True)[0])
    unaugmented = PairSamples(plane.arrays, pairs, configuration, 4, "train", False)
    assert not torch.equal(train[0]["fixed"], unaugmented[0]["fixed"])


def test_validation_sees_every_pair_once_unchanged(plane, pairs, configuration):
    validation = PairSamples(plane.arrays, pairs, configuration, len(pairs), "val", False)
    data = PreprocessedDataset(plane.arrays)
    seen = []
    for index in range(len(pairs)):
        sample = validation[index]
        found = [pair for pair in pairs if all(np.array_equal(sample[role], data.load(getattr(pair, role)).image) for role in ("fixed", "moving"))]
        assert len(found) == 1
        assert np.array_equal(sample["fixed_labels"], data.load(found[0].fixed).labels)
        assert torch.equal(sample["fixed"], sample["fixed_input"])
        seen += found
    assert sorted(pair.name for pair in seen) == sorted(pair.name for pair in pairs)


def test_labels_of_a_sample_are_those_both_images_have(plane, pairs, configuration):
    samples = PairSamples(plane.arrays, pairs, supervised(configuration), 4, "train", True)
    for index in range(4):
        sample = samples[index]
        shared = set(sample["fixed_labels"].unique().tolist()) & set(sample["moving_labels"].unique().tolist()) - {0}
        assert set(sample["label_subset"].tolist()) <= shared
    assert "fixed_labels" not in PairSamples(plane.arrays, pairs, configuration, 4, "train", True)[0]  # unsupervised: not read at all


@pytest.mark.parametrize("maps", [1, 2, 5])
def test_every_shared_label_is_compared_before_one_is_repeated(plane, pairs, configuration, maps):
    sample = PairSamples(plane.arrays, pairs, supervised(configuration), 4, "train", True, maps)[0]
    shared = set(sample["fixed_labels"].unique().tolist()) & set(sample["moving_labels"].unique().tolist()) - {0}
    assert sample["label_subset"].shape == (maps,)
    assert len(set(sample["label_subset"].tolist())) == min(maps, len(shared))


def test_a_step_compares_no_more_maps_than_there_are_labels(plane, pairs, configuration):
    spec = DatasetSpec.read(plane.preprocessed / "dataset.json")
    given = {"folder": plane.arrays, "model": plane.arrays, "units": pairs, "configuration": supervised(configuration), "length": 1, "split": "train"}
    for told, maps in ((spec, 2), (dataclasses.replace(spec, labels={}), LABELS_PER_STEP)):
        assert len(RegistrationTask().samples(spec=told, augment=True, **given)[0]["label_subset"]) == maps


@pytest.mark.parametrize("batch_size", [1, 2])
def test_images_of_a_batch_share_the_planned_grid_and_one_alone_keeps_its_own(plane, pairs, configuration, batch_size):
    larger = tuple(size + 3 for size in configuration.grid)
    training = dataclasses.replace(supervised(configuration).training, batch_size=batch_size)
    samples = PairSamples(plane.arrays, pairs, dataclasses.replace(configuration, grid=larger, training=training), 4, "val", False)
    plain = PairSamples(plane.arrays, pairs, supervised(configuration), 4, "val", False)[0]
    for name, value in samples[0].items():
        if value.ndim > 1:
            whole = larger if batch_size > 1 else plain[name].shape[1:]
            assert tuple(value.shape[1:]) == tuple(whole)
            shown = value[(slice(None), *(slice(size) for size in plain[name].shape[1:]))]
            assert torch.equal(shown, plain[name])
            assert value.count_nonzero() == shown.count_nonzero()


def test_no_fold_shows_a_subject_on_both_sides(plane, configuration):
    spec = DatasetSpec.read(plane.preprocessed / "dataset.json")
    splits = json.loads((plane.preprocessed / "splits_final.json").read_text())
    data, task = PreprocessedDataset(plane.arrays), RegistrationTask()
    held_out = []
    for fold in range(len(splits)):
        train, validation = fold_cases(splits, fold)
        subjects = [{spec.groups[case] for case in side} for side in (train, validation)]
        assert not subjects[0] & subjects[1]
        held_out += validation
        samples = task.samples(
            folder=plane.arrays,
            model=plane.arrays,
            spec=spec,
            units=task.units(spec=spec, cases=train),
            configuration=configuration,
            length=6,
            split="train",
            augment=False,
        )
        hidden = [data.load(case).image for case in validation]
        for index, image in itertools.product(range(6), hidden):
            sample = samples[index]
            assert not np.array_equal(sample["fixed"], image)
            assert not np.array_equal(sample["moving"], image)
    assert sorted(held_out) == data.cases  # every case is held out once


def test_epochs_of_a_loader_follow_each_other(plane, pairs, configuration):
    samples = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    loader = build_loader(samples, batch_size=2, batches=2, workers=0, pin_memory=False)
    seen = []
    for epoch in (0, 1):
        loader.sampler.epoch = epoch
        seen += list(loader)
    assert len(seen) == 2 * len(loader)
    expected = [collate([samples[2 * number], samples[2 * number + 1]]) for number in range(4)]
    assert all(same(one, other) for one, other in zip(seen, expected, strict=True))


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(plane, pairs, configuration):
    samples = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    alone, helped = (list(build_loader(samples, batch_size=1, batches=4, workers=workers, pin_memory=False)) for workers in (0, 2))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


@pytest.fixture
def partly_known(tmp_path, configuration):
    """Two cases: both with keypoints, one with labels."""
    space = Space.plain(configuration.grid)
    for name, labelled in (("a", True), ("b", False)):
        image = np.random.default_rng(0).random((1, *configuration.grid)).astype(np.float32)
        labels = np.ones((1, *configuration.grid), np.int16) if labelled else None
        points = np.arange(6.0).reshape(3, 2) + labelled
        PreprocessedCase(image, labels, None, Properties(name, space, space, np.eye(3), keypoints=points)).save(tmp_path)
    return tmp_path


def of_terms(configuration: Configuration, *names: str) -> Configuration:
    return dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, supervision=tuple(map(LossTerm, names))))


def test_a_batch_may_hold_pairs_with_labels_and_without(partly_known, configuration):
    samples = PairSamples(partly_known, [Pair("a", "b"), Pair("a", "a")], of_terms(configuration, "soft_dice"), 8, "train", False)
    batch = collate([samples[index] for index in range(8)])
    without = batch["label_subset"][:, 0] == -1
    assert 0 < without.sum() < 8
    assert torch.equal(batch["labels_known"], ~without)
    assert (batch["moving_labels"][without] == 0).all()
    # a validation says what there is
    assert "label_subset" not in PairSamples(partly_known, [Pair("a", "b")], of_terms(configuration, "soft_dice"), 1, "val", False)[0]


@pytest.mark.parametrize("term", ["soft_dice", "keypoints"])
def test_where_few_cases_teach_every_other_sample_is_of_them(tmp_path, configuration, term):
    """Six cases, two with labels and three with keypoints: 2 of 30 ordered pairs, and 6 of 30."""
    space, rng = Space.plain(configuration.grid), np.random.default_rng(0)
    for index, name in enumerate("abcdef"):
        labels = np.ones((1, *configuration.grid), np.int16) if index < 2 else None
        points = np.full((3, 2), 2.0) if index < 3 else None
        image = rng.random((1, *configuration.grid)).astype(np.float32)
        PreprocessedCase(image, labels, None, Properties(name, space, space, np.eye(3), keypoints=points)).save(tmp_path)
    every = [Pair(one, other) for one, other in itertools.permutations("abcdef", 2)]
    samples = PairSamples(tmp_path, every, of_terms(configuration, term), 100, "train", False)
    found = [samples[index] for index in range(100)]
    known = sum(bool(sample["labels_known"]) if term == "soft_dice" else bool(sample["fixed_keypoints"].isfinite().any()) for sample in found)
    assert 40 < known < 75
    # a validation of few pairs begins with those that measure something
    validation = PairSamples(tmp_path, every, configuration, 2, "val", False)
    assert all({"fixed_labels", "moving_labels"} <= validation[index].keys() for index in range(2))


def test_keypoints_of_a_batch_are_as_many_and_correspond(partly_known, configuration):
    samples = PairSamples(partly_known, [Pair("a", "b")], of_terms(configuration, "keypoints"), 4, "train", False)
    batch = collate([samples[index] for index in range(2)])
    assert batch["fixed_keypoints"].shape == (2, POINTS_PER_SAMPLE, 2)
    present = torch.isfinite(batch["fixed_keypoints"])
    assert present.sum() == 2 * 3 * 2
    torch.testing.assert_close(batch["fixed_keypoints"][present] - 1, batch["moving_keypoints"][present])
    assert "label_subset" not in batch


def test_keypoints_that_are_none_or_do_not_correspond_are_refused(plane, pairs, partly_known, configuration):
    with pytest.raises(ConfigurationError, match="keypointsTr"):
        PairSamples(plane.arrays, pairs, of_terms(configuration, "keypoints"), 4, "train", False)
    space = Space.plain(configuration.grid)
    case = PreprocessedCase(np.zeros((1, *configuration.grid), np.float32), None, None, Properties("c", space, space, np.eye(3), keypoints=np.zeros((2, 2))))
    case.save(partly_known)
    with pytest.raises(ConfigurationError, match="2 keypoints, a 3"):
        PairSamples(partly_known, [Pair("c", "a")], of_terms(configuration, "keypoints"), 4, "train", False)[0]
