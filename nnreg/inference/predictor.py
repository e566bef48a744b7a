"""A trained model on disk: the folder of its plans and folds, and the networks in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnreg.dataset.spec import DatasetSpec
from nnreg.devices import device_named
from nnreg.engine.device import CPU, engine_part
from nnreg.errors import ConfigurationError, PredictionError
from nnreg.files import read_object
from nnreg.inference.trained_networks import PairTransforms, Predictor
from nnreg.planning.plans import Configuration, Plans, configuration_without
from nnreg.task import task_named
from nnreg.training.configs.lookup import ResolvedTrainer, registered_trainer, resolve_trainer
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.run_folders import RunFolders
from nnreg.training.trainer.checkpoint import FINAL, load_checkpoint, load_weights
from nnreg.typed import from_mapping


@dataclass(frozen=True)
class ModelFolder:
    """``TRAINER__PLANS__CONFIGURATION``: all a prediction needs.

    Attributes
    ----------
    path
    plans, spec
        As stored with the training.
    configuration_name
    """

    path: Path
    plans: Plans
    spec: DatasetSpec
    configuration_name: str

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read what the folder holds.

        Raises
        ------
        PredictionError
            If it is no model folder.
        """
        configuration = _configuration_of(path)
        if configuration is None or not (path / "plans.json").is_file():
            raise PredictionError(
                f"{path}: is no trained model (a folder TRAINER__PLANS__CONFIGURATION with plans.json). Train first, or check -d, -c, -tr and -p."
            )
        return cls(path, Plans.read(path / "plans.json"), DatasetSpec.read(path / "dataset.json"), configuration)

    def folds(self) -> list[str]:
        """Folds that have a final checkpoint, ``all`` last."""
        found = [entry.name[5:] for entry in sorted(self.path.glob("fold_*")) if (entry / FINAL).is_file()]
        return sorted(found, key=lambda name: (name == "all", name))

    def predictor(self, *, folds: Sequence[str], checkpoint: str, device: torch.device, trainer: str | None = None, engine: str = CPU) -> Predictor:
        """Networks of the folds, ready to predict.

        `trainer` is what ``-tr`` said in training; needed only for a network that is made by code of the user's own, because
        nothing that a file names is imported. `engine` names the device of the engine that goes on from them.

        Raises
        ------
        PredictionError
            If there is no fold, or the network is made by code of the user's own that `trainer` does not name.
        TrainingError
            If a checkpoint is missing or damaged.
        """
        folds = list(folds) or self.folds()
        if not folds:
            raise PredictionError(f"{self.path}: no fold is trained to its end. Train one, or name its checkpoint: -f 0 -chk checkpoint_latest.pth.")
        networks, configuration = [], self.plans.configuration(self.configuration_name)
        for fold in folds:
            path = self.path / f"fold_{fold}" / checkpoint
            content = load_checkpoint(path)
            if not {"configuration", "custom_network"} <= content["init"].keys():
                raise PredictionError(f"{path}: its init says nothing of configuration and custom_network. Use another checkpoint, or train anew.")
            stored = configuration_without(content["init"]["configuration"], self.plans.retired)
            configuration = from_mapping(type(configuration), stored, where=str(path), error=PredictionError)
            own = _resolved(content, trainer, path) if content["init"]["custom_network"] else None
            network = self._network(configuration) if own is None else self._own_network(own, content["init"].get("overrides") or {})
            load_weights(network, content["network_weights"], path)
            networks.append(network.to(device).eval())
        return Predictor(plans=self.plans, configuration=configuration, networks=networks, device=device, engine=engine)

    def _network(self, configuration: Configuration) -> nn.Module:
        return task_named(self.plans.task).network(plans=self.plans, spec=self.spec, configuration=configuration, recipe=TrainerConfig())

    def _own_network(self, resolved: ResolvedTrainer, overrides: Mapping[str, Any]) -> nn.Module:
        """What code of the user's own makes of the plans, as ``--set`` changed them in training."""
        trainer = resolved.trainer(
            plans=self.plans,
            configuration=self.configuration_name,
            spec=self.spec,
            fold="all",
            folders=RunFolders(raw=self.path, preprocessed=self.path, model=self.path),
            recipe=resolved.config,
            name=resolved.name,
            overrides=overrides,
        )
        if not trainer.has_custom_network:
            raise PredictionError(_UNNAMED.format(path=self.path, name=resolved.name))
        return trainer.build_network_architecture()


@dataclass(frozen=True)
class TrainedModel:
    """A model folder, and which of its networks predict where.

    Attributes
    ----------
    folder
    folds
        That are averaged; all trained ones if empty.
    checkpoint
        File name in each fold's folder.
    trainer
        What ``-tr`` said in training, where the network is made by code of one's own.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``. The engine takes a GPU of CUDA that is named; ``auto`` leaves it on the processor.
    """

    folder: ModelFolder
    folds: Sequence[str] = ()
    checkpoint: str = FINAL
    trainer: str | None = None
    device: str = "auto"

    def predictor(self) -> Predictor:
        """Its networks, ready to predict. Errors are those of :meth:`ModelFolder.predictor`."""
        device, engine = device_named(self.device), engine_part(self.device)
        return self.folder.predictor(folds=self.folds, checkpoint=self.checkpoint, device=device, trainer=self.trainer, engine=engine)


def _configuration_of(model: Path) -> str | None:
    """What was trained: as the folder's name says, or, where a training named it otherwise (-o), as its folds do."""
    parts = model.name.split("__")
    if len(parts) == 3:
        return parts[2]
    fold = next(iter(sorted(model.glob("fold_*/debug.json"))), None)
    return None if fold is None else str(read_object(fold, PredictionError).get("configuration_name"))


_UNNAMED = "{path}: its network is made by code of your own, which {name!r} does not name here. Say -tr as in training, in the folder of that code."


def _resolved(content: Mapping[str, Any], asked: str | None, path: Path) -> ResolvedTrainer:
    """The trainer asked for, which may import modules of the current folder; one that a checkpoint names imports nothing."""
    if asked is not None:
        return resolve_trainer(asked, beside=Path())
    name = str(content.get("trainer_name"))
    try:
        return registered_trainer(name)
    except ConfigurationError as error:
        raise PredictionError(_UNNAMED.format(path=path, name=name)) from error


__all__ = ["ModelFolder", "PairTransforms", "Predictor", "TrainedModel"]
