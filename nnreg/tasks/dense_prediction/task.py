"""The dense prediction task: images in, logits of labels or regions out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from nnreg.architecture import build_dense_network
from nnreg.architecture.memory import dense_training_memory
from nnreg.dataset.labels import Label, LabelManager
from nnreg.dataset.spec import DatasetSpec
from nnreg.planning import memory
from nnreg.planning.dense.plans import DenseConfiguration, DensePlans
from nnreg.planning.plans import Training
from nnreg.task import Objective
from nnreg.tasks.dense_prediction.auxiliary import DerivedMaps, auxiliary_targets
from nnreg.tasks.dense_prediction.cascade import FOLDER, PreviousStage
from nnreg.tasks.dense_prediction.objective import DenseObjective
from nnreg.tasks.dense_prediction.samples import PatchSamples
from nnreg.training.configs.trainer_config import TrainerConfig

COUNTS = "counts of "  # true positives, false positives and false negatives of a class in one batch; summed over an epoch before they become a Dice
LOSS_COPIES = 4  # of the logits, in float32, that a loss and its gradient keep


class DensePredictionTask:
    """Everything that training needs to know of dense prediction; see :class:`nnreg.task.Task`."""

    name = "dense_prediction"
    monitor = "dice"

    def network(self, *, plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration, recipe: TrainerConfig) -> nn.Module:
        """The network the resolved configuration names, or the one the recipe's class or function makes with the planned topology."""
        labels = LabelManager.of(spec)
        DenseObjective(configuration, recipe, labels, auxiliary_targets(spec))  # a loss that does not fit is told before anything large is made
        plan = configuration.architecture
        arguments: dict[str, Any] = {
            "channels": input_channels(plans, spec, configuration),
            "outputs": labels.heads,
            "ndim": configuration.ndim,
            "strides": plan.strides,
            "kernel_sizes": plan.kernel_sizes,
            "features_per_stage": plan.features_per_stage,
            "blocks_per_stage": plan.blocks_per_stage,
        }
        further = {name: target.channels(configuration.ndim) for name, target in auxiliary_targets(spec).items()}
        if further:
            arguments["auxiliary"] = further
        if recipe.architecture is None or isinstance(recipe.architecture, str):
            return build_dense_network(plan.name, **{**arguments, **plan.kwargs})
        if isinstance(recipe.architecture, nn.Module):
            return copy.deepcopy(recipe.architecture)  # the recipe's own stays as it was for the next fold
        return build_dense_network(recipe.architecture, **{**arguments, **recipe.architecture_kwargs})

    def memory_gb(self, *, build: Callable[[], nn.Module], plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration) -> float | None:
        """Peak of a training step in float32 with the network that `build` makes, found on the meta device; None where that is not possible.

        Raises
        ------
        ConfigurationError
            If the patch is too small for the network.
        """
        batch = configuration.training.batch_size
        found = dense_training_memory(build, configuration.grid, channels=input_channels(plans, spec, configuration), batch_size=batch)
        if found is None:
            return None
        logits = batch * LabelManager.of(spec).heads * sum(prod(shape) for shape in found.outputs)
        return found.gb + LOSS_COPIES * logits * memory.BYTES / memory.GB

    def objective(self, *, plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration, recipe: TrainerConfig) -> DenseObjective:
        """The planned terms, or the recipe's loss, at every resolution."""
        return DenseObjective(configuration, recipe, LabelManager.of(spec), auxiliary_targets(spec))

    def units(self, *, spec: DatasetSpec, cases: Sequence[str]) -> list[str]:
        """The cases themselves."""
        return list(cases)

    def validation_batches(self, *, training: Training, units: int) -> tuple[int, int]:
        """Batches as in training, so that Dice over a batch means the same, and as many as planned however few cases there are: patches differ."""
        return training.batch_size, training.validation_iterations

    def samples(
        self, *, folder: Path, model: Path, spec: DatasetSpec, units: Sequence[str], configuration: DenseConfiguration, length: int, split: str, augment: bool
    ) -> Dataset[dict[str, Tensor]]:
        """Drawn and augmented patches; in a cascade with what the stage before predicted."""
        derived = DerivedMaps(auxiliary_targets(spec), spec.foreground, tuple(configuration.spacing))
        partly, previous = spec.ignore is not None, previous_stage(model, spec, configuration)
        return PatchSamples(folder, units, configuration, length, split, augment, partly_annotated=partly, previous=previous, derived=derived)

    def online_metrics(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and its terms, and what the pseudo-Dice of the epoch is made of: hits and misses of every class in this batch."""
        if not isinstance(objective, DenseObjective):  # one of the user's own is only known to be called with the network
            loss, terms = objective(network, batch)
            return {"loss": loss, **terms}
        loss, terms, logits = objective.scored(network, batch)
        counts = objective.counts(logits[0], batch["labels"])
        return {"loss": loss, **terms} | {f"{COUNTS}{_name(label)}": counts[index] for index, label in enumerate(objective.labels.foreground)}

    def epoch_metrics(self, *, steps: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The steps without their counts, and one entry more: the Dice of each class over all of them (NaN for one that is nowhere), and their mean."""
        names = [name for name in (steps[0] if steps else ()) if name.startswith(COUNTS)]
        kept = [{name: value for name, value in step.items() if not name.startswith(COUNTS)} for step in steps]
        if not names:
            return kept
        hits, false, missed = torch.stack([torch.stack([step[name] for step in steps]).double().sum(dim=0) for name in names]).unbind(1)
        dice = 2 * hits / (2 * hits + false + missed)  # 0 / 0 is NaN
        by_class = {f"dice_{name.removeprefix(COUNTS)}": value for name, value in zip(names, dice, strict=True)}
        return [*kept, {"dice": dice.nanmean(), **(by_class if len(names) > 1 else {})}]

    def pictures(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First channel, labels and prediction of the first patch."""
        logits = network(batch["image"])[0][0].float()
        predicted = objective.labels.to_labels(logits, logits=True) if isinstance(objective, DenseObjective) else logits.argmax(dim=0)
        return {"image": batch["image"][0, 0], "labels": batch["labels"][0, 0], "prediction": predicted}

    def validate(
        self,
        *,
        predictor: Any,
        spec: DatasetSpec,
        raw: Path,
        arrays: Path,
        cases: Sequence[str],
        output: Path,
        on_progress: Callable[[int, int, str], None],
    ) -> dict[str, Any]:
        """Predict the validation cases on their native grids, for the next stage of a cascade on its grid too, and evaluate them."""
        from nnreg.dataset import RawDataset
        from nnreg.inference.dense_validation import validate_cases

        model = output.parents[1]
        previous = previous_stage(model, spec, predictor.configuration)
        if previous is not None:
            previous.check(cases)
        following = predictor.configuration.next_stage
        return validate_cases(
            predictor,
            spec,
            RawDataset.open(raw),
            arrays,
            cases,
            output,
            previous=None if previous is None else lambda case: np.asarray(previous.open(case)[:]),
            next_stage=None if following is None else (following, model / FOLDER / following),
            on_progress=on_progress,
        )


def _name(label: Label) -> str:
    """Of a label or region in logs: ``2``, ``1+2``."""
    return str(label) if isinstance(label, int) else "+".join(map(str, label))


def previous_stage(model: Path, spec: DatasetSpec, configuration: DenseConfiguration) -> PreviousStage | None:
    """In a cascade, what the stage before has predicted for the training cases: its model lies beside `model`."""
    if configuration.previous_stage is None:
        return None
    trainer, plans, name = model.name.split("__")
    return PreviousStage(model.with_name(f"{trainer}__{plans}__{configuration.previous_stage}") / FOLDER / name, spec.foreground)


def input_channels(plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration) -> int:
    """Channels that a network is given: those of the images and, after another stage, one per label."""
    return len(plans.channel_names) + (len(spec.foreground) if configuration.previous_stage is not None else 0)
