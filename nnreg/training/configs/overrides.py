"""One place where a value of the plan is overridden: command line > file > TrainerConfig > plans."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.planning.plans import Configuration
from nnreg.planning.validation import architecture_problems, training_problems
from nnreg.training.configs.trainer_config import ARGUMENTS_OF, TrainerConfig
from nnreg.typed import from_mapping, to_mapping

_ALIASES = {"lr": "learning_rate"}
MOST_FEATURES = {2: 512, 3: 320}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["learning_rate=1e-3", "augmentation.intensity.probability=0"]`` as a dictionary of parsed values.

    Values are JSON where they parse as such (numbers, true, null, lists), else text. ``1e-3`` and ``.5`` are numbers.

    Raises
    ------
    ConfigurationError
        If an entry has no ``=``.

    Examples
    --------
    >>> parse_assignments(["lr=1e-3", "optimizer=sgd", "deep_supervision_weights=[0.5, 0.5]"])
    {'learning_rate': 0.001, 'optimizer': 'sgd', 'deep_supervision_weights': [0.5, 0.5]}
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set {assignment!r}: expected key=value, such as learning_rate=1e-3.")
        result[_ALIASES.get(key.strip(), key.strip())] = parse_value(text.strip())
    return result


def parse_value(text: str) -> Any:
    """JSON value, number or text that `text` stands for."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def resolve_configuration(configuration: Configuration, recipe: TrainerConfig, name: str, overrides: Mapping[str, Any]) -> Configuration:
    """The planned configuration with the recipe's values over it, and the command line's over both.

    A recipe that names another network brings its own number of fields, so the planned deep supervision weights are dropped
    (the objective then uses the standard ones).
    """
    planned, own = configuration.architecture, recipe.architecture
    if own is not None and own != planned.name:
        configuration = dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, deep_supervision_weights=()))
    if isinstance(own, str) and own != planned.name:
        architecture = dataclasses.replace(planned, name=own, kwargs=dict(recipe.architecture_kwargs))
        configuration = dataclasses.replace(configuration, architecture=architecture)
    elif recipe.architecture_kwargs and (own is None or isinstance(own, str)):
        architecture = dataclasses.replace(planned, kwargs={**planned.kwargs, **recipe.architecture_kwargs})
        configuration = dataclasses.replace(configuration, architecture=architecture)
    changed = apply_training_overrides(configuration, recipe.training, f"trainer {name}")
    changed = apply_training_overrides(changed, overrides, "--set")
    problem = next(architecture_problems(changed.architecture, changed.ndim), None) if changed.architecture != planned else None
    if problem is not None:
        raise ConfigurationError(f"trainer {name}: {problem}")
    return changed


def apply_training_overrides(configuration: Configuration, overrides: Mapping[str, Any], where: str) -> Configuration:
    """A copy of `configuration` with values of its training (dotted keys reach into dictionaries) replaced.

    Parameters
    ----------
    configuration
        From the plans.
    overrides
        Field names of the configuration's training, optionally with a leading ``training.``; ``augmentation.intensity.probability`` reaches deeper.
        ``architecture.NAME`` sets an argument of the network; ``architecture.base_features`` those of all stages.
    where
        Where the values come from, for messages.

    Raises
    ------
    ConfigurationError
        Unknown key, with the nearest valid one; wrong type.
    """
    training = to_mapping(configuration.training)
    network = to_mapping(configuration.architecture)
    for name, arguments in ARGUMENTS_OF.items():
        if overrides.get(name, training[name]) != training[name]:
            training[arguments] = {}  # they are the former optimiser's, or schedule's
    for key, value in overrides.items():
        path = _ALIASES.get(key, key).split(".")
        if path == ["architecture", "base_features"]:
            network["features_per_stage"] = _features(value, len(network["features_per_stage"]), configuration.ndim, f"{where}: {key}")
            continue
        if path[0] == "architecture" and len(path) > 1:
            inside = network if path[1] in network else network["kwargs"]
            _assign(inside, path[1:], value, f"{where}: {key}", None if inside is network["kwargs"] else network)
            continue
        if path[0] == "training" and len(path) > 1:
            path = path[1:]
        _assign(training, path, value, f"{where}: {key}", training)
    resolved = from_mapping(type(configuration.training), training, where=where, error=ConfigurationError)
    problem = next(training_problems(resolved), None)
    if problem is not None:
        raise ConfigurationError(f"{where}: {problem}")
    return dataclasses.replace(
        configuration,
        training=resolved,
        architecture=from_mapping(type(configuration.architecture), network, where=where, error=ConfigurationError),
    )


def _features(base: Any, stages: int, ndim: int, where: str) -> list[int]:
    """`base`, doubled from stage to stage up to nnU-Net's limit."""
    if not isinstance(base, int) or base < 1:
        raise ConfigurationError(f"{where}: found {base!r}, expected a whole number of 1 or more.")
    return [max(base, min(base * 2**stage, MOST_FEATURES[ndim])) for stage in range(stages)]


def recipe_with(recipe: TrainerConfig, overrides: Mapping[str, Any]) -> tuple[TrainerConfig, dict[str, Any]]:
    """The recipe with ``loss`` and ``loss_kwargs.NAME`` of the command line in it, and the other overrides."""
    rest = {key: value for key, value in overrides.items() if key.split(".")[0] not in ("loss", "loss_kwargs")}
    if "loss" in overrides:
        recipe = dataclasses.replace(recipe, loss=overrides["loss"], loss_kwargs={})
    kwargs = dict(recipe.loss_kwargs) | dict(overrides.get("loss_kwargs", {}))
    kwargs |= {key.partition(".")[2]: value for key, value in overrides.items() if key.startswith("loss_kwargs.")}
    if kwargs and recipe.loss is None:
        raise ConfigurationError(f"--set loss_kwargs: no recipe names a loss that {', '.join(kwargs)} could belong to. Give --set loss=NAME too.")
    return dataclasses.replace(recipe, loss_kwargs=kwargs), rest


def _assign(tree: dict[str, Any], path: Sequence[str], value: Any, where: str, valid: Mapping[str, Any] | None) -> None:
    if valid is not None and path[0] not in valid:
        raise ConfigurationError(f"{where}: unknown key {path[0]!r}; {did_you_mean(path[0], [*valid, 'architecture'])}")
    for step in path[:-1]:
        inside = tree.setdefault(step, {})
        if not isinstance(inside, dict):
            raise ConfigurationError(f"{where}: {step!r} is {inside!r}, it has no keys of its own.")
        tree = inside
    tree[path[-1]] = value
