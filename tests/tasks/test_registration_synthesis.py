"""Trainings on synthesised images: what samples hold, and which datasets and plans are refused."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from tiny import Tiny

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError
from nnreg.planning.plans import Configuration, Normalization, Plans
from nnreg.preprocessing.registration.storage import LABELS, PreprocessedDataset
from nnreg.tasks.registration.objective import RegistrationObjective
from nnreg.tasks.registration.samples import PairSamples
from nnreg.tasks.registration.task import RegistrationTask
from nnreg.training.configs import TrainerConfig, resolve_trainer
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.dataloading.loaders import collate


@pytest.fixture(scope="module")
def pairs(plane: Tiny) -> list:
    spec = DatasetSpec.read(plane.preprocessed / "dataset.json")
    return RegistrationTask().units(spec=spec, cases=PreprocessedDataset(plane.arrays).cases)


@pytest.fixture(scope="module")
def unlabelled(plane: Tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled") / "arrays"
    shutil.copytree(plane.arrays, folder, ignore=shutil.ignore_patterns(f"*{LABELS}.b2nd"))
    return folder


def configuration(plane: Tiny, recipe: str, **overrides) -> Configuration:
    planned = Plans.read(plane.preprocessed / "nnRegPlans.json").configuration("2d")
    return resolve_configuration(planned, resolve_trainer(recipe).config, recipe, overrides)


@pytest.mark.parametrize("recipe", ["synth", "synth_shapes"])
def test_samples_are_functions_of_the_index_and_teach(plane, pairs, recipe):
    resolved = configuration(plane, recipe)
    first, second = (PairSamples(plane.arrays, pairs, resolved, 4, "train", True) for _ in range(2))
    sample, again = first[3], [second[index] for index in (1, 3)][1]
    assert all(torch.equal(value, again[name]) for name, value in sample.items())
    assert sample.keys() == {"fixed", "moving", "fixed_input", "moving_input", "fixed_labels", "moving_labels", "label_subset", "labels_known"}
    objective = RegistrationObjective(resolved, TrainerConfig())
    batch = collate([first[index] for index in range(2)])
    field = torch.zeros(2, 2, *resolved.grid, requires_grad=True)
    loss, terms = objective.score([field], batch)
    loss.backward()
    assert set(terms) == {"diffusion", "soft_dice"}
    assert -1 < terms["soft_dice"] < 0
    assert field.grad.abs().sum() > 0


def test_a_validation_sees_the_real_pairs_where_they_have_labels(plane, pairs):
    for recipe in ("synth", "synth_shapes"):
        sample = PairSamples(plane.arrays, pairs, configuration(plane, recipe), len(pairs), "val", False)[0]
        images = [PreprocessedDataset(plane.arrays).load(case).image for case in {pair.fixed for pair in pairs}]
        assert any(torch.equal(sample["fixed"], torch.from_numpy(image)) for image in images)


def test_without_labels_shapes_train_and_validate_and_labels_are_refused(plane, pairs, unlabelled):
    resolved = configuration(plane, "synth_shapes")
    train, validation = (PairSamples(unlabelled, pairs, resolved, len(pairs), split, split == "train") for split in ("train", "val"))
    assert len(train[0]["label_subset"]) == 8
    assert "label_subset" in validation[1]
    with pytest.raises(ConfigurationError, match="synth_shapes"):
        PairSamples(unlabelled, pairs, configuration(plane, "synth"), 4, "train", True)


def test_pairs_of_cases_without_labels_are_left_out(plane, pairs, tmp_path):
    missing = pairs[0].fixed
    shutil.copytree(plane.arrays, tmp_path / "arrays", ignore=shutil.ignore_patterns(f"{missing}{LABELS}.b2nd"))
    left = PairSamples(tmp_path / "arrays", pairs, configuration(plane, "synth"), 4, "train", True).pairs
    assert left
    assert all(missing not in (pair.fixed, pair.moving) for pair in left)


@pytest.mark.parametrize(
    ("supervision", "words"),
    [
        ([], "names no loss of labels"),
        ([{"name": "soft_dice"}, {"name": "keypoints"}], "keypoints needs what images made of labels do not have"),
    ],
)
def test_losses_that_do_not_fit_are_refused(plane, pairs, supervision, words):
    with pytest.raises(ConfigurationError, match=words):
        PairSamples(plane.arrays, pairs, configuration(plane, "synth_shapes", supervision=supervision), 4, "train", True)


def test_images_that_are_not_normalised_to_the_unit_are_refused(plane, pairs):
    resolved = dataclasses.replace(configuration(plane, "synth"), normalization=(Normalization("zscore"),))
    with pytest.raises(ConfigurationError, match="zscore"):
        PairSamples(plane.arrays, pairs, resolved, 4, "train", True)
