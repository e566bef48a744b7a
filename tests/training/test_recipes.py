"""``-tr``, ``--set`` and files: what overrides what, and how a mistake is told."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nnreg.errors import ConfigurationError
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationTraining
from nnreg.training.configs import TRAINER_CONFIGS, TrainerConfig, resolve_trainer
from nnreg.training.configs.overrides import parse_assignments, resolve_configuration
from nnreg.training.execution.run import parse_folds
from nnreg.training.lr_scheduler import PolynomialLRScheduler, build_schedule
from nnreg.training.trainer.trainer import nnRegTrainer

CONFIGURATION = RegistrationConfiguration(
    data_identifier="nnRegPlans_3d_fullres",
    spacing=(1.0, 1.0, 1.0),
    grid=(16, 16, 16),
    normalization=(Normalization("percentile"),),
    architecture=Architecture("dual_pyramid", ((1, 1, 1), (2, 2, 2)), ((3, 3, 3), (3, 3, 3)), (8, 16), (1, 1), {"field_resolution": 2}),
    training=RegistrationTraining(
        similarity=(LossTerm("lncc", 1.0, {"window": 7}),),
        regularisation=(LossTerm("diffusion", 1.0),),
        supervision=(),
        deep_supervision_weights=(0.6, 0.4),
        batch_size=1,
        epochs=1000,
        iterations_per_epoch=250,
        validation_iterations=50,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        gradient_clip=1.0,
        lr_schedule="poly",
        augmentation={"intensity": {"probability": 0.5}},
    ),
    memory_gb=1.0,
)


def resolve(recipe: TrainerConfig, **overrides) -> RegistrationConfiguration:
    return resolve_configuration(CONFIGURATION, recipe, "test", overrides)


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_the_plan():
    recipe = TrainerConfig(training={"learning_rate": 1e-2, "epochs": 7})
    training = resolve(recipe, epochs=3).training
    assert (training.learning_rate, training.epochs, training.batch_size) == (1e-2, 3, CONFIGURATION.training.batch_size)


def test_dotted_keys_reach_into_dictionaries_and_leave_the_plan_alone():
    changed = resolve(TrainerConfig(), **{"augmentation.intensity.probability": 0.0, "architecture.field_resolution": 1})
    assert changed.training.augmentation["intensity"]["probability"] == 0.0
    assert changed.architecture.kwargs["field_resolution"] == 1
    assert CONFIGURATION.training.augmentation["intensity"]["probability"] == 0.5


def test_a_recipe_that_names_another_network_drops_what_the_plan_said_of_its_own():
    changed = resolve(TRAINER_CONFIGS["unetreg_velocity"])
    assert changed.architecture.name == "unetreg"
    assert changed.architecture.kwargs == {"integration_steps": 7}
    assert changed.training.deep_supervision_weights == ()
    assert changed.architecture.features_per_stage == CONFIGURATION.architecture.features_per_stage


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rat": 1.0}, "learning_rate"),
        ({"epochs": "many"}, "epochs"),
        ({"optimizer.lr": 1.0}, "optimizer"),
    ],
)
def test_a_wrong_setting_names_the_key(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve(TrainerConfig(), **overrides)


def test_assignments_are_numbers_lists_and_words():
    parsed = parse_assignments(["lr=1e-4", "epochs=3", "gradient_clip=null", "deep_supervision_weights=[0.5,0.5]", "optimizer=sgd"])
    assert parsed == {"learning_rate": 1e-4, "epochs": 3, "gradient_clip": None, "deep_supervision_weights": [0.5, 0.5], "optimizer": "sgd"}
    with pytest.raises(ConfigurationError, match="key=value"):
        parse_assignments(["epochs"])


class OtherTrainer(nnRegTrainer):
    """A trainer from outside the package."""


class ThirdTrainer(nnRegTrainer):
    """Another one."""


PLAIN_RECIPE = TrainerConfig(training={"epochs": 2})


def test_trainers_are_found_by_name_class_module_and_file(tmp_path):
    assert resolve_trainer("nnRegTrainer").trainer is nnRegTrainer
    assert resolve_trainer("unetreg").config is TRAINER_CONFIGS["unetreg"]
    module = OtherTrainer.__module__
    assert resolve_trainer(f"{module}:OtherTrainer").trainer.__name__ == "OtherTrainer"
    assert resolve_trainer(f"{module}:PLAIN_RECIPE").config.training == {"epochs": 2}
    (tmp_path / "mine.yaml").write_text("architecture: unetreg\ntraining: {learning_rate: 1e-4, epochs: 5}\n")
    found = resolve_trainer(str(tmp_path / "mine.yaml"))
    assert found.name == "mine"
    assert found.config.training["learning_rate"] == 1e-4  # YAML 1.1 reads this spelling as text


def test_recipes_join_from_left_to_right():
    joined = resolve_trainer("unetreg_velocity+sgd+adamw+cosine+7epochs")
    assert joined.name == "unetreg_velocity+sgd+adamw+cosine+7epochs"
    assert (joined.config.architecture, joined.config.architecture_kwargs) == ("unetreg", {"integration_steps": 7})
    training = resolve(joined.config).training
    assert (training.optimizer, training.lr_schedule, training.epochs) == ("adamw", "cosine", 7)
    assert training.optimizer_kwargs == {}  # the momentum was sgd's
    assert resolve(resolve_trainer("adamw+sgd").config).training.optimizer_kwargs["nesterov"]
    assert resolve(resolve_trainer("3epochs+5epochs").config).training.epochs == 5
    with_class = resolve_trainer(f"adamw+{OtherTrainer.__module__}:OtherTrainer+poly_step")
    assert (with_class.trainer.__name__, with_class.name) == ("OtherTrainer", f"adamw+{OtherTrainer.__module__}.OtherTrainer+poly_step")


def test_joining_is_associative():
    parts = [TRAINER_CONFIGS[name] for name in ("unetreg", "sgd", "cosine", "adam")]
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left.merged(part)
    for part in reversed(parts[:-1]):
        right = part.merged(right)
    assert resolve(left) == resolve(right)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unetreg+inverse_consistent", "two recipes name an architecture: unetreg and dual_pyramid"),
        (f"{__name__}:OtherTrainer+{__name__}:ThirdTrainer", "joins 2 trainer classes"),
        ("unetreg+adamx", "did you mean 'adam"),
        ("0epochs", "1epochs or more"),
    ],
)
def test_parts_that_contradict_each_other_are_told(name, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve_trainer(name)


def test_another_optimiser_or_schedule_drops_the_arguments_of_the_planned_one():
    planned = dataclasses.replace(CONFIGURATION.training, optimizer_kwargs={"betas": [0.8, 0.9]}, lr_schedule_kwargs={"exponent": 0.9})
    configuration = dataclasses.replace(CONFIGURATION, training=planned)
    kept = resolve_configuration(configuration, TrainerConfig(), "test", {"optimizer": "adam", "lr_schedule": "poly"}).training
    assert (kept.optimizer_kwargs, kept.lr_schedule_kwargs) == ({"betas": [0.8, 0.9]}, {"exponent": 0.9})
    changed = resolve_configuration(configuration, TrainerConfig(), "test", {"optimizer": "sgd", "lr_schedule": "cosine"}).training
    assert (changed.optimizer_kwargs, changed.lr_schedule_kwargs) == ({}, {})


def test_one_number_sets_the_features_of_every_stage():
    assert resolve(TrainerConfig(), **{"architecture.base_features": 200}).architecture.features_per_stage == (200, 320)
    with pytest.raises(ConfigurationError, match="base_features"):
        resolve(TrainerConfig(), **{"architecture.base_features": "wide"})


@pytest.mark.parametrize(
    ("name", "message"),
    [("unetrge", "unetreg"), ("no_such_module:Trainer", "no_such_module"), ("math:pi", "subclass"), ("missing.yaml", "missing.yaml")],
)
def test_an_unknown_trainer_is_told_with_its_remedy(name, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve_trainer(name)


def test_a_recipe_file_with_an_unknown_key_names_it(tmp_path):
    (tmp_path / "bad.yaml").write_text("architectur: unetreg\n")
    with pytest.raises(ConfigurationError, match="did you mean 'architecture'"):
        resolve_trainer(str(tmp_path / "bad.yaml"))


def test_poly_rate_follows_the_formula_and_stays_real_past_the_end():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = PolynomialLRScheduler(optimizer, 0.01, 1000)
    for epoch in (0, 10, 500, 999):
        assert schedule.step(epoch) == pytest.approx(0.01 * (1 - epoch / 1000) ** 0.9)
        assert optimizer.param_groups[0]["lr"] == schedule.rate(epoch)
    assert schedule.rate(1001) == 0.0
    assert PolynomialLRScheduler(optimizer, 0.01, 1000, warmup_epochs=3).rate(0) < schedule.rate(0)
    with pytest.raises(ConfigurationError, match="exponnent"):
        build_schedule("poly", optimizer, 0.01, 10, {"exponnent": 1})


def test_folds_of_the_command_line():
    assert parse_folds("cv") == [0, 1, 2, 3, 4]
    assert parse_folds("2") == [2]


def test_plans_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGURATION.training.epochs = 3  # type: ignore[misc]
