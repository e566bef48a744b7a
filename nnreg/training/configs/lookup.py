"""What ``-tr NAME`` means: a registered config, a trainer class, ``package.module:Class`` or a YAML file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.registry import entry_point_names, installed, load_entry_point
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig
from nnreg.typed import from_mapping

if TYPE_CHECKING:
    from nnreg.training.trainer.trainer import nnRegTrainer

DEFAULT_TRAINER = "nnRegTrainer"
ENTRY_POINTS = "nnreg.trainers"


@dataclass(frozen=True)
class ResolvedTrainer:
    """A trainer class, the config that goes with it, and the name that the results folder carries."""

    name: str
    trainer: type[nnRegTrainer]
    config: TrainerConfig


def resolve_trainer(name: str = DEFAULT_TRAINER) -> ResolvedTrainer:
    """Find what `name` names: one recipe or trainer, or several joined by ``+``.

    A part is looked up among the registered configs (``50epochs`` is one for any number), the trainer classes (built in, then entry points
    ``nnreg.trainers``) and the networks (built in, then entry points ``nnreg.networks``), then taken as ``package.module:Attribute`` (a trainer class, a
    TrainerConfig or a network's class) or a YAML file. Parts count from left to right, and of two values for one key the later stands; two networks, two
    losses or two trainer classes are an error.

    Raises
    ------
    ConfigurationError
        Unknown or ambiguous name, module that cannot be imported, file with unknown keys, parts that contradict each other.
    """
    from nnreg.training.trainer.trainer import nnRegTrainer

    found = [_part(part) for part in name.split("+")]
    own = [part for part in found if part.trainer is not nnRegTrainer]
    if len(own) > 1:
        raise ConfigurationError(f"trainer {name!r} joins {len(own)} trainer classes, {own[0].name} and {own[1].name}. Keep one of them.")
    config = found[0].config
    for part in found[1:]:
        config = config.merged(part.config)
    return ResolvedTrainer("+".join(part.name for part in found), own[0].trainer if own else nnRegTrainer, config)


def _part(name: str) -> ResolvedTrainer:
    from nnreg.architecture import network_names
    from nnreg.training.configs.options import epochs_config
    from nnreg.training.trainer.trainer import nnRegTrainer

    if name.endswith((".yaml", ".yml")):
        return ResolvedTrainer(Path(name).stem, nnRegTrainer, read_config(Path(name)))
    if ":" in name:
        found = _import(name)
        return _resolved(name.rpartition(":")[2], found, name)
    outside = entry_point_names(ENTRY_POINTS)
    if name in outside:
        return ResolvedTrainer(name, _outside_class(name), TrainerConfig())
    if name in TRAINER_CONFIGS:
        return ResolvedTrainer(name, nnRegTrainer, TRAINER_CONFIGS[name])
    if name == DEFAULT_TRAINER:
        return ResolvedTrainer(name, nnRegTrainer, TrainerConfig())
    epochs = epochs_config(name)
    if epochs is not None:
        return ResolvedTrainer(name, nnRegTrainer, epochs)
    networks = network_names()
    if name in networks:
        return ResolvedTrainer(name, nnRegTrainer, TrainerConfig(architecture=name))
    known = {DEFAULT_TRAINER, *TRAINER_CONFIGS, *outside, *networks}
    raise ConfigurationError(f"trainer {name!r} is unknown; {did_you_mean(name, known)} (or package.module:Class, or a .yaml file)")


def trainer_classes() -> dict[str, type[nnRegTrainer]]:
    """Trainer classes by name: ours and those of installed packages.

    Raises
    ------
    ConfigurationError
        If one of a package cannot be imported or is no trainer class, or a name is given twice.
    """
    from nnreg.training.trainer.trainer import nnRegTrainer

    return {DEFAULT_TRAINER: nnRegTrainer, **{name: _outside_class(name) for name in sorted(installed("trainer", ENTRY_POINTS))}}


def _outside_class(name: str) -> type[nnRegTrainer]:
    """The trainer class of an installed package; only the one that was asked for is imported."""
    from nnreg.training.trainer.trainer import nnRegTrainer

    found = load_entry_point("trainer", ENTRY_POINTS, name, taken={DEFAULT_TRAINER, *TRAINER_CONFIGS})
    if not isinstance(found, type) or not issubclass(found, nnRegTrainer):
        offered = installed("trainer", ENTRY_POINTS, (name,))[name]
        raise offered.fault(f": entry point {offered.entry.value} is no subclass of nnRegTrainer.")
    return found


def read_config(path: Path) -> TrainerConfig:
    """A TrainerConfig from YAML: the keys are its fields; networks and losses are named, never imported from the file.

    Raises
    ------
    ConfigurationError
        Missing or damaged file, unknown key.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]}).") from error
    return from_mapping(_FileConfig, _numbers(content), where=str(path), error=ConfigurationError).config()


@dataclass(frozen=True)
class _FileConfig:
    """The part of a TrainerConfig that a file can hold."""

    architecture: str | None = None
    architecture_kwargs: dict[str, Any] | None = None
    loss: str | None = None
    loss_kwargs: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    description: str = ""

    def config(self) -> TrainerConfig:
        return TrainerConfig(self.architecture, self.architecture_kwargs or {}, self.loss, self.loss_kwargs or {}, self.training or {}, self.description)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as text: make it the number it looks like."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"trainer {name!r}: {error}. Expected package.module:Class with the package importable from here.") from error


def _resolved(name: str, found: Any, asked: str) -> ResolvedTrainer:
    from torch import nn

    from nnreg.training.trainer.trainer import nnRegTrainer

    if isinstance(found, TrainerConfig):
        return ResolvedTrainer(name, nnRegTrainer, found)
    if isinstance(found, type) and issubclass(found, nnRegTrainer):
        return ResolvedTrainer(name, found, TrainerConfig())
    if isinstance(found, type) and issubclass(found, nn.Module):
        return ResolvedTrainer(name, nnRegTrainer, TrainerConfig(architecture=found))
    raise ConfigurationError(f"trainer {asked!r} is a {type(found).__name__}, expected a subclass of nnRegTrainer, a TrainerConfig or a network's class.")


__all__ = ["DEFAULT_TRAINER", "ResolvedTrainer", "read_config", "resolve_trainer", "trainer_classes"]
