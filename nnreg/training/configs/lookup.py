"""What ``-tr NAME`` means: a registered config, a trainer class, ``package.module:Class``, a YAML file, or what a module beside the command defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.documents import parse_yaml
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.registry import entry_point_names, installed, load_entry_point
from nnreg.training.configs.beside import imported_file, imported_module, recipe_beside, trainer_beside
from nnreg.training.configs.names import DEFAULT_TRAINER, ENTRY_POINTS, is_file, known_names, parts_of, results_name
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig
from nnreg.typed import from_mapping

if TYPE_CHECKING:
    from nnreg.training.trainer.trainer import nnRegTrainer


@dataclass(frozen=True)
class ResolvedTrainer:
    """A trainer class, the config that goes with it, and the name that the results folder carries.

    Attributes
    ----------
    name, trainer, config
    source
        In words, where what is not nnReg's own comes from; empty for what is.
    """

    name: str
    trainer: type[nnRegTrainer]
    config: TrainerConfig
    source: str = ""


def resolve_trainer(name: str = DEFAULT_TRAINER, *, beside: Path | None = None) -> ResolvedTrainer:
    """Find what `name` names: one recipe or trainer, or several joined by ``+``.

    A part is looked up among the registered configs (``50epochs`` is one for any number), the trainer classes (built in, then entry points
    ``nnreg.trainers``) and the networks (built in, then entry points ``nnreg.networks``), then taken as ``package.module:Attribute`` (a trainer class, a
    TrainerConfig or a network's class; a point serves as well) or a YAML file. Parts count from left to right, and of two values for one key the later
    stands; two networks, two losses or two trainer classes are an error.

    Parameters
    ----------
    name
        As the user wrote it. What a file names is for :func:`registered_trainer`: this function imports code.
    beside
        A folder of the user's own modules, the current one for a command. A name that a module there registers in TRAINER_CONFIGS is that recipe, and a name
        that is unknown otherwise a class or TrainerConfig defined there.

    Raises
    ------
    ConfigurationError
        Unknown or ambiguous name, module that cannot be imported, file with unknown keys, parts that contradict each other.
    """
    if "__" in results_name(name):
        raise ConfigurationError(f"trainer {name!r}: two underscores separate the parts of a results folder's name. Rename the class, module or file.")
    return _joined(name, [_part(part, beside) for part in parts_of(name)])


def registered_trainer(name: str) -> ResolvedTrainer:
    """What a checkpoint or another file names: only what nnReg or an installed package has registered, never a module or a file.

    Raises
    ------
    ConfigurationError
        If it is none of these.
    """
    found = [(part, _registered(part)) for part in parts_of(name)]
    if unknown := [part for part, registered in found if registered is None]:
        raise ConfigurationError(f"trainer {unknown[0]!r} is nothing that nnReg or an installed package has. Code of your own is only loaded by -tr.")
    return _joined(name, [registered for _, registered in found if registered is not None])


def _joined(name: str, found: Sequence[ResolvedTrainer]) -> ResolvedTrainer:
    from nnreg.training.trainer.trainer import nnRegTrainer

    own = [part for part in found if part.trainer is not nnRegTrainer]
    if len(own) > 1:
        raise ConfigurationError(f"trainer {name!r} joins {len(own)} trainer classes, {own[0].name} and {own[1].name}. Keep one of them.")
    config = found[0].config
    for part in found[1:]:
        config = config.merged(part.config)
    sources = ", ".join(dict.fromkeys(part.source for part in found if part.source))
    return ResolvedTrainer(results_name(name), own[0].trainer if own else nnRegTrainer, config, sources)


def _part(name: str, beside: Path | None) -> ResolvedTrainer:
    from nnreg.training.trainer.trainer import nnRegTrainer

    if is_file(name):
        return ResolvedTrainer(name, nnRegTrainer, read_config(Path(name)), Path(name).name)
    if ":" in name:
        return _resolved(name, imported_module(name, beside), f"the module {name.rpartition(':')[0]}")
    if beside is not None and name != DEFAULT_TRAINER and (file := recipe_beside(beside, name)) is not None:
        imported_file(file, name)
        return _resolved(name, TRAINER_CONFIGS[name], _replacing(name, file.name))
    registered = _registered(name)
    if registered is not None:
        return registered
    if beside is not None and (file := trainer_beside(beside, name)) is not None:
        return _resolved(name, imported_file(file, name), file.name)
    module, _, attribute = name.rpartition(".")
    if module:  # as results folders spell it
        return _part(f"{module}:{attribute}", beside)
    raise ConfigurationError(
        f"trainer {name!r} is unknown; {did_you_mean(name, known_names())} (or package.module:Class, a .yaml file, or a class of a module in this folder)"
    )


def _replacing(name: str, where: str) -> str:
    return f"{where} (in place of nnReg's own {name})" if name in TRAINER_CONFIGS.replaced else where


def _registered(name: str) -> ResolvedTrainer | None:
    """What nnReg or an installed package has under a name."""
    from nnreg.architecture import network_names
    from nnreg.training.configs.options import epochs_config
    from nnreg.training.trainer.trainer import nnRegTrainer

    if name in entry_point_names(ENTRY_POINTS):
        return ResolvedTrainer(name, _outside_class(name), TrainerConfig())
    if name in TRAINER_CONFIGS:
        return ResolvedTrainer(name, nnRegTrainer, TRAINER_CONFIGS[name], _replacing(name, "TRAINER_CONFIGS") if name in TRAINER_CONFIGS.replaced else "")
    if name == DEFAULT_TRAINER:
        return ResolvedTrainer(name, nnRegTrainer, TrainerConfig())
    epochs = epochs_config(name)
    if epochs is not None:
        return ResolvedTrainer(name, nnRegTrainer, epochs)
    return ResolvedTrainer(name, nnRegTrainer, TrainerConfig(architecture=name)) if name in network_names() else None


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
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path), ConfigurationError)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as text ({str(error).splitlines()[0]}). Name a YAML file.") from error
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


def _resolved(name: str, found: Any, source: str) -> ResolvedTrainer:
    from torch import nn

    from nnreg.training.trainer.trainer import nnRegTrainer

    if isinstance(found, TrainerConfig):
        return ResolvedTrainer(name, nnRegTrainer, found, source)
    if isinstance(found, type) and issubclass(found, nnRegTrainer):
        return ResolvedTrainer(name, found, TrainerConfig(), source)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return ResolvedTrainer(name, nnRegTrainer, TrainerConfig(architecture=found), source)
    raise ConfigurationError(
        f"trainer {name!r} of {source} is a {type(found).__name__}, expected a subclass of nnRegTrainer, a TrainerConfig or a network's class."
    )


__all__ = [
    "DEFAULT_TRAINER",
    "ResolvedTrainer",
    "read_config",
    "registered_trainer",
    "resolve_trainer",
    "trainer_classes",
]
