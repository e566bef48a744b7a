"""A trained model: networks of one or several folds, and the field they give for a preprocessed pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import PredictionError
from nnreg.geometry import AffineMap, FieldMap, Transform
from nnreg.planning.plans import Configuration, Plans
from nnreg.preprocessing.registration.storage import PreprocessedCase
from nnreg.task import task_named
from nnreg.training.configs.lookup import ResolvedTrainer, resolve_trainer
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.runtime_utils.runtime import autocast
from nnreg.training.trainer.checkpoint import FINAL, load_checkpoint, load_weights
from nnreg.training.trainer.parts import RunFolders
from nnreg.typed import from_mapping


@dataclass(frozen=True)
class PairTransforms:
    """What a prediction is: the whole map and its pre-alignment alone, fixed world to moving world; notes go into ``prediction.json``."""

    transform: Transform
    alignment: Transform
    notes: dict[str, Any] = field(default_factory=dict)


class Predictor:
    """Fields from networks.

    Parameters
    ----------
    plans, configuration
        What the networks were trained with.
    networks
        One per fold; their displacements are averaged.
    device
        Where they run.
    save_probabilities
        Whether a validation keeps the probabilities that label maps are made of, for ensembles.
    """

    def __init__(
        self, *, plans: Plans, configuration: Configuration, networks: Sequence[nn.Module], device: torch.device, save_probabilities: bool = False
    ) -> None:
        self.plans, self.configuration, self.networks, self.device = plans, configuration, list(networks), device
        self.save_probabilities = save_probabilities

    def field(self, *, fixed: PreprocessedCase, moving: PreprocessedCase) -> FieldMap:
        """Mean displacement of the networks, on the voxels they decode it at, continued beyond the working grid until it has faded out."""
        images = {role: torch.from_numpy(np.ascontiguousarray(case.image))[None].to(self.device) for role, case in (("fixed", fixed), ("moving", moving))}
        # what was trained in half precision may be predicted where there is none
        with torch.inference_mode(), autocast(self.device, "off" if self.configuration.training.mixed_precision == "off" else "auto"):
            fields = [network(**images)[0].float() for network in self.networks]
        # detached: a network of one's own may return a view of a parameter, which keeps its gradient even in inference mode
        mean = FieldMap(torch.stack(fields).mean(dim=0)[0].detach().cpu().numpy(), fixed.properties.working)
        strides = {tuple(getattr(network, "field_stride", (1,) * mean.ndim)) for network in self.networks}
        stride = strides.pop() if len(strides) == 1 else (1,) * mean.ndim
        return mean.thinned(stride).faded_out()

    def transforms(self, *, fixed: PreprocessedCase, moving: PreprocessedCase) -> PairTransforms:
        """The map between the native worlds of a pair."""
        into_working = AffineMap(np.asarray(np.linalg.inv(np.asarray(fixed.properties.to_native))))
        out_of_working = AffineMap(np.asarray(moving.properties.to_native))
        alignment = Transform((into_working, out_of_working), self.configuration.ndim)
        return PairTransforms(
            transform=Transform((into_working, self.field(fixed=fixed, moving=moving), out_of_working), self.configuration.ndim),
            alignment=alignment.simplified(),
        )


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
        parts = path.name.split("__")
        if len(parts) != 3 or not (path / "plans.json").is_file():
            raise PredictionError(
                f"{path}: is no trained model (a folder TRAINER__PLANS__CONFIGURATION with plans.json). Train first, or check -d, -c, -tr and -p."
            )
        return cls(path, Plans.read(path / "plans.json"), DatasetSpec.read(path / "dataset.json"), parts[2])

    def folds(self) -> list[str]:
        """Folds that have a final checkpoint, ``all`` last."""
        found = [entry.name[5:] for entry in sorted(self.path.glob("fold_*")) if (entry / FINAL).is_file()]
        return sorted(found, key=lambda name: (name == "all", name))

    def predictor(self, *, folds: Sequence[str], checkpoint: str, device: torch.device, trainer: str | None = None) -> Predictor:
        """Networks of the folds, ready to predict.

        `trainer` is what ``-tr`` said in training; needed only for a network that is made by code of the user's own, because
        nothing that a file names is imported.

        Raises
        ------
        PredictionError
            If there is no fold.
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
            configuration = from_mapping(type(configuration), content["init"]["configuration"], where=str(path), error=PredictionError)
            recipe = resolve_trainer(trainer or content["trainer_name"]) if content["init"]["custom_network"] else None
            network = self._network(configuration, recipe)
            load_weights(network, content["network_weights"], path)
            networks.append(network.to(device).eval())
        return Predictor(plans=self.plans, configuration=configuration, networks=networks, device=device)

    def _network(self, configuration: Configuration, resolved: ResolvedTrainer | None) -> nn.Module:
        if resolved is None:
            return task_named(self.plans.task).network(plans=self.plans, spec=self.spec, configuration=configuration, recipe=TrainerConfig())
        folders = RunFolders(raw=self.path, preprocessed=self.path, model=self.path)
        trainer = resolved.trainer(
            plans=self.plans, configuration=self.configuration_name, spec=self.spec, fold="all", folders=folders, recipe=resolved.config, name=resolved.name
        )
        return trainer.build_network_architecture()
