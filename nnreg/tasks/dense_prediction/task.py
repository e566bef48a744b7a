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
from nnreg.dataset.labels import Label
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import outputs_of, previous_channels, targets_of
from nnreg.planning import memory
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.planning.plans import Training
from nnreg.task import DENSE_PREDICTION, Objective
from nnreg.tasks.dense_prediction.auxiliary import DerivedMaps, auxiliary_targets
from nnreg.tasks.dense_prediction.cascade import FOLDER, PreviousStage
from nnreg.tasks.dense_prediction.continuous import ContinuousObjective
from nnreg.tasks.dense_prediction.objective import DenseObjective, objective_of
from nnreg.tasks.dense_prediction.samples import Annotation, PatchSamples
from nnreg.tasks.dense_prediction.target_objective import TargetObjective
from nnreg.training.configs.trainer_config import TrainerConfig

OF = ": "  # between the name of a target and that of its class
COUNTS = "counts of "  # hits and misses of a class in one batch, as DenseObjective.counts has them; summed over an epoch before they become a Dice
ERRORS = "errors of "  # sums of absolute errors of a continuous target in one batch, and of how many voxels
LOSS_COPIES = 4  # of the logits, in float32, that a loss and its gradient keep


class DensePredictionTask:
    """Everything that training needs to know of dense prediction; see :class:`nnreg.task.Task`."""

    name = DENSE_PREDICTION
    monitor = "dice"

    def network(self, *, plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration, recipe: TrainerConfig) -> nn.Module:
        """The network the resolved configuration names, or the one the recipe's class or function makes with the planned topology."""
        first, *others = outputs_of(spec).items()
        # a loss that does not fit is told before anything large is made
        self.objective(plans=plans, spec=spec, configuration=configuration, recipe=recipe)
        plan = configuration.architecture
        arguments: dict[str, Any] = {
            "channels": input_channels(plans, spec, configuration),
            "outputs": first[1].heads,
            "ndim": configuration.ndim,
            "strides": plan.strides,
            "kernel_sizes": plan.kernel_sizes,
            "features_per_stage": plan.features_per_stage,
            "blocks_per_stage": plan.blocks_per_stage,
        }
        further = {name: output.heads for name, output in others} | {
            name: target.channels(configuration.ndim) for name, target in auxiliary_targets(spec).items()
        }
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
        logits = batch * sum(output.heads for output in outputs_of(spec).values()) * sum(prod(shape) for shape in found.outputs)
        return found.gb + LOSS_COPIES * logits * memory.BYTES / memory.GB

    def objective(self, *, plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration, recipe: TrainerConfig) -> TargetObjective:
        """The planned terms, or the recipe's loss, at every resolution."""
        return objective_of(configuration, recipe, outputs_of(spec), auxiliary_targets(spec), targets=targets_of(spec), values=plans.targets)

    def units(self, *, spec: DatasetSpec, cases: Sequence[str]) -> list[str]:
        """The cases themselves."""
        return list(cases)

    def sample_count(self, *, training: Training, split: str, units: Sequence[Any]) -> int:
        """One per unit."""
        return len(units)

    def validation_batches(self, *, training: Training, units: int) -> tuple[int, int]:
        """Batches as in training, so that Dice over a batch means the same, and as many as planned however few cases there are: patches differ."""
        return training.batch_size, training.validation_iterations

    def samples(
        self, *, folder: Path, model: Path, spec: DatasetSpec, units: Sequence[str], configuration: DenseConfiguration, length: int, split: str, augment: bool
    ) -> Dataset[dict[str, Tensor]]:
        """Drawn and augmented patches; in a cascade with what the stage before predicted."""
        derived, previous = DerivedMaps.of(spec, configuration.spacing), previous_stage(model, spec, configuration)
        annotation = Annotation.of(spec, configuration.training)
        return PatchSamples(folder, units, configuration, length, split, augment, annotation=annotation, previous=previous, derived=derived)

    def online_metrics(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and its terms, and what the pseudo-Dice of the epoch is made of: hits and misses of every class in this batch; of values their errors."""
        if not isinstance(objective, TargetObjective):  # one of the user's own is only known to be called with the network
            loss, terms = objective(network, batch)
            return {"loss": loss, **terms}
        loss, terms, logits = objective.scored(network, batch)
        counts: dict[str, Tensor] = {}
        for target, part in objective.parts.items():
            found = part.counted(logits[target][0], batch)
            if isinstance(part, DenseObjective):
                prefix = f"{COUNTS}{target}{OF}" if objective.others else COUNTS
                counts |= {f"{prefix}{_name(label)}": found[index] for index, label in enumerate(part.labels.foreground)}
            else:
                counts[f"{ERRORS}{target}"] = found
        return {"loss": loss, **terms, **counts}

    def epoch_metrics(self, *, steps: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The steps without their counts, and one entry more: the Dice of each class over all of them (NaN for one that is nowhere), and means over classes.

        The means are of Dice, IoU, precision, recall and accuracy. Of several targets each is that of their means: one of many labels is no more than one of
        few. Continuous targets have a mean absolute error.
        """
        names = [name for name in (steps[0] if steps else ()) if name.startswith(COUNTS)]
        kept = [{name: value for name, value in step.items() if not name.startswith((COUNTS, ERRORS))} for step in steps]
        kept += _mean_errors(steps)
        if not names:
            return kept
        scores = _overlaps(torch.stack([torch.stack([step[name] for step in steps]).double().sum(dim=0) for name in names]))
        dice = scores["dice"]
        by_class = {f"dice_{name.removeprefix(COUNTS).replace(OF, '_')}": value for name, value in zip(names, dice, strict=True)}
        targets = [name.removeprefix(COUNTS).rpartition(OF)[0] for name in names]
        rows = {target: [index for index, other in enumerate(targets) if other == target] for target in dict.fromkeys(targets)}
        means = {score: torch.stack([values[index].nanmean() for index in rows.values()]).nanmean() for score, values in scores.items()}
        by_target = {f"dice_{target}": dice[index].nanmean() for target, index in rows.items()} if len(rows) > 1 else {}
        return [*kept, {**means, **by_target, **(by_class if len(names) > len(rows) else {})}]

    def pictures(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """First channel, labels and prediction of the first patch, of every target."""
        shown = {"image": batch["image"][0, 0]}
        if not isinstance(objective, TargetObjective):
            return shown | {"labels": batch["labels"][0, 0], "prediction": network(batch["image"])[0][0].argmax(dim=0)}
        _, _, logits = objective.scored(network, batch)
        for target, part in objective.parts.items():
            more = f" {target}" if objective.others else ""
            if isinstance(part, ContinuousObjective):
                shown |= {f"truth{more}": batch["maps"][0, part.place][0].nan_to_num(), f"prediction{more}": logits[target][0][0, 0].float()}
                continue
            if not isinstance(part, DenseObjective):
                continue
            found = part.labels.to_labels(logits[target][0][0].float(), logits=True)
            shown |= {f"labels{more}": batch["labels"][0, part.channel], f"prediction{more}": found}
        return shown

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
        from nnreg.inference.dense_prediction.validation import validate_cases

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


def _overlaps(counts: Tensor) -> dict[str, Tensor]:
    """Scores of every class, NaN where they are 0 / 0, from its counts (classes, 4)."""
    hits, false, missed, rest = counts.unbind(1)
    return {
        "dice": 2 * hits / (2 * hits + false + missed),
        "iou": hits / (hits + false + missed),
        "precision": hits / (hits + false),
        "recall": hits / (hits + missed),
        "accuracy": (hits + rest) / counts.sum(dim=1),
    }


def _mean_errors(steps: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """``mae_TARGET`` over all steps, in the units of the files; ``mae`` is that of the only target, of several their mean in standard deviations."""
    names = [name for name in (steps[0] if steps else ()) if name.startswith(ERRORS)]
    if not names:
        return []
    found = {name.removeprefix(ERRORS): torch.stack([step[name] for step in steps]).double() for name in names}
    errors = {target: rows[..., 0].sum(dim=0) / rows[..., 1].sum(dim=0) for target, rows in found.items()}  # 0 / 0 is NaN
    by_target = {f"mae_{target}": error.mean() for target, error in errors.items()}
    if len(names) == 1:
        return [{"mae": next(iter(by_target.values()))}]
    relative = torch.stack([(error / found[target][0, :, 2]).mean() for target, error in errors.items()])
    return [{"mae": relative.nanmean(), **by_target}]


def _name(label: Label) -> str:
    """Of a label or region in logs: ``2``, ``1+2``."""
    return str(label) if isinstance(label, int) else "+".join(map(str, label))


def previous_stage(model: Path, spec: DatasetSpec, configuration: DenseConfiguration) -> PreviousStage | None:
    """In a cascade, what the stage before has predicted for the training cases: its model lies beside `model`."""
    if configuration.previous_stage is None:
        return None
    trainer, plans, name = model.name.split("__")
    return PreviousStage(model.with_name(f"{trainer}__{plans}__{configuration.previous_stage}") / FOLDER / name, previous_channels(spec))


def input_channels(plans: DensePlans, spec: DatasetSpec, configuration: DenseConfiguration) -> int:
    """Channels that a network is given: those of the images and, after another stage, one per label of every target."""
    return len(plans.channel_names) + (sum(map(len, previous_channels(spec))) if configuration.previous_stage is not None else 0)
