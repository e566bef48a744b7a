"""The registration task: pairs in, fields out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from nnreg.architecture import build_network
from nnreg.architecture.cascade import Cascade
from nnreg.architecture.memory import training_memory
from nnreg.dataset.pairs import Pair, pairs_among
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError
from nnreg.geometry import warp
from nnreg.metrics import reductions
from nnreg.planning import memory
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans, RegistrationTraining
from nnreg.planning.registration.rules.training import LABELS_PER_STEP
from nnreg.task import REGISTRATION
from nnreg.tasks.registration.objective import RegistrationObjective, known_voxels
from nnreg.tasks.registration.samples import PairSamples, learns_from
from nnreg.tasks.registration.synthetic_samples import SyntheticSamples
from nnreg.training.configs.trainer_config import TrainerConfig

MAPS_OF_A_HEAD = 4  # per label and pair, as memory: what the head finds in two images, what it should, and the warped one

if TYPE_CHECKING:
    from nnreg.inference.predictor import Predictor
    from nnreg.task import Objective


class RegistrationTask:
    """Everything that training needs to know of registration; see :class:`nnreg.task.Task`."""

    name = REGISTRATION
    monitor = "dice"

    def network(self, *, plans: RegistrationPlans, spec: DatasetSpec, configuration: RegistrationConfiguration, recipe: TrainerConfig) -> nn.Module:
        """The network the resolved configuration names, or the one the recipe's class or function makes with the planned topology."""
        RegistrationObjective(configuration, recipe, spec.foreground)  # a loss that does not fit is told before anything large is made
        head = {"segmented_labels": len(spec.foreground)} if configuration.training.segmentation_weight else {}
        network = self._single(plans, configuration, recipe, head)
        _check_deep_supervision(network, configuration, recipe)
        if configuration.previous_stage is None:
            return network
        if head:
            raise ConfigurationError("training.segmentation_weight: the second stage of a cascade has no segmentation head. Set it to 0, or train 3d_fullres.")
        before = _stage_before(plans, configuration)
        step = [coarse / fine for coarse, fine in zip(before.spacing, configuration.spacing, strict=True)]
        return Cascade(self._single(plans, before, recipe), network, coarse=before.grid, step=step)

    def _single(
        self, plans: RegistrationPlans, configuration: RegistrationConfiguration, recipe: TrainerConfig, head: Mapping[str, int] = MappingProxyType({})
    ) -> nn.Module:
        plan = configuration.architecture
        arguments: dict[str, Any] = {
            "channels": len(plans.channel_names),
            "ndim": configuration.ndim,
            "strides": plan.strides,
            "kernel_sizes": plan.kernel_sizes,
            "features_per_stage": plan.features_per_stage,
            "blocks_per_stage": plan.blocks_per_stage,
            **head,
        }
        if recipe.architecture is None or isinstance(recipe.architecture, str):
            return build_network(plan.name, **{**arguments, **plan.kwargs})
        if isinstance(recipe.architecture, nn.Module):
            return copy.deepcopy(recipe.architecture)  # the recipe's own stays as it was for the next fold
        return build_network(recipe.architecture, **{**arguments, **recipe.architecture_kwargs})

    def memory_gb(
        self, *, build: Callable[[], nn.Module], plans: RegistrationPlans, spec: DatasetSpec, configuration: RegistrationConfiguration
    ) -> float | None:
        """Peak of a training step in float32 with the network that `build` makes, found on the meta device; None where that is not possible.

        Raises
        ------
        ConfigurationError
            If the grid is too small for the network.
        """
        channels, batch = len(plans.channel_names), configuration.training.batch_size
        found = training_memory(build, configuration.grid, channels=channels, batch_size=batch)
        if found is None:
            return None
        labels = LABELS_PER_STEP if learns_from(configuration.training.supervision, "labels") else 0
        labels += MAPS_OF_A_HEAD * len(spec.foreground) if configuration.training.segmentation_weight else 0
        losses = memory.kept_by_losses([prod(shape) for shape in found.outputs], channels, configuration.ndim, labels)
        names = [term.name for term in configuration.training.similarity]
        passing = memory.needed_in_passing(names, prod(configuration.grid), configuration.ndim)
        return found.gb + (batch * losses + passing) * memory.BYTES / memory.GB

    def objective(
        self, *, plans: RegistrationPlans, spec: DatasetSpec, configuration: RegistrationConfiguration, recipe: TrainerConfig
    ) -> RegistrationObjective:
        """Similarity, smoothness and label terms."""
        return RegistrationObjective(configuration, recipe, spec.foreground)

    def units(self, *, spec: DatasetSpec, cases: Sequence[str]) -> list[Pair]:
        """The pairs whose both sides are among `cases`."""
        return list(pairs_among(spec, cases))

    def sample_count(self, *, training: RegistrationTraining, split: str, units: Sequence[Any]) -> int:
        """One per unit, or as many as the generator of ``training.synthetic`` makes."""
        count: int = (training.synthetic or {}).get(split, {}).get("num_samples", len(units))
        return count

    def validation_batches(self, *, training: RegistrationTraining, units: int) -> tuple[int, int]:
        """Pair by pair, every one once at most: the same ones each epoch, so that epochs compare."""
        return 1, min(training.validation_iterations, units)

    def samples(
        self,
        *,
        folder: Path,
        model: Path,
        spec: DatasetSpec,
        units: Sequence[Pair],
        configuration: RegistrationConfiguration,
        length: int,
        split: str,
        augment: bool,
    ) -> Dataset[dict[str, Tensor]]:
        """Drawn and augmented pairs; those of a generator where the plan names one for this side of the split."""
        synthetic = (configuration.training.synthetic or {}).get(split)
        if synthetic is not None:
            return SyntheticSamples(synthetic, configuration, length)
        maps = min(LABELS_PER_STEP, len(spec.foreground) or LABELS_PER_STEP)  # a map more than there are labels would be one of them again
        return PairSamples(folder, units, configuration, length, split, augment, maps)

    def online_metrics(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and its terms, folding, and the Dice of the labels where there are any."""
        if isinstance(objective, RegistrationObjective):
            fields, loss, terms = objective.first_way(network, batch)
        else:  # one's own is only known to be called with the network
            fields, (loss, terms) = network(fixed=batch["fixed_input"], moving=batch["moving_input"]), objective(network, batch)
        return {"loss": loss, **terms, **_pair_metrics(fields[0].detach(), batch)}

    def epoch_metrics(self, *, steps: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """Those of the steps."""
        return steps

    def pictures(self, *, network: nn.Module, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fixed, moving and warped image of the first pair, first channel, and what is left between them."""
        field = network(fixed=batch["fixed_input"], moving=batch["moving_input"])[0]
        fixed, moving, warped = (image[0, 0] for image in (batch["fixed"], batch["moving"], warp(batch["moving"], field)))
        return {"fixed": fixed, "moving": moving, "warped": warped, "difference": (fixed - warped).abs()}

    def validate(
        self,
        *,
        predictor: Predictor,
        spec: DatasetSpec,
        raw: Path,
        arrays: Path,
        cases: Sequence[str],
        output: Path,
        on_progress: Callable[[int, int, str], None],
    ) -> dict[str, Any]:
        """Predict the validation pairs on their native grids and evaluate them; a pair that lacks labels has no Dice.

        Of held-out pairs it is measured too what the engine does, alone and from the network's field, with guides where the plans have some.
        """
        from nnreg.tasks.registration.validation import validate

        pairs = self.units(spec=spec, cases=cases)
        return validate(predictor, pairs, raw=raw, arrays=arrays, held_out=cases, output=output, on_progress=on_progress)


def _stage_before(plans: RegistrationPlans, configuration: RegistrationConfiguration) -> RegistrationConfiguration:
    """In a cascade, the configuration before this one as the same recipe trained it: with its network, where that is not the planned one."""
    before, own = plans.configuration(str(configuration.previous_stage)), configuration.architecture
    if own.name == before.architecture.name:
        return before
    return replace(before, architecture=replace(before.architecture, name=own.name, kwargs=own.kwargs))


def _pair_metrics(field: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Likeness of the warped image, roughness and folding of the field, overlap of labels and distance to the true field where there are any.

    All of it is reduced where the batch is: on a GPU to a handful of numbers, for which nobody waits.
    """
    warped, fixed, mask = warp(batch["moving"], field), batch["fixed"], batch.get("fixed_mask")
    values = {name: getattr(reductions, name)(fixed, warped, mask) for name in ("ncc", "mse", "mae")}
    values["grad_l2"] = reductions.grad_l2(field.float())
    if "field" in batch:
        known = known_voxels(batch["field"])[:, 0]
        values["epe"] = reductions.mean_length(field.float() - batch["field"], known)
    values["folding_count"], values["folding_percent"] = reductions.folding(field)
    if "fixed_labels" in batch and "moving_labels" in batch:
        moving = batch["moving_labels"]
        values["dice"] = reductions.mean_dice(batch["fixed_labels"], warp(moving, field, mode="nearest"), moving)
    return {name: value.float() for name, value in values.items()}


def _check_deep_supervision(network: nn.Module, configuration: RegistrationConfiguration, recipe: TrainerConfig) -> None:
    """Refuse weights for several fields, or deep supervision asked for by name, where the network returns one field."""
    if getattr(network, "field_count", None) != 1:
        return
    name = configuration.architecture.name if recipe.architecture is None or isinstance(recipe.architecture, str) else type(network).__name__
    weights = configuration.training.deep_supervision_weights
    if len(weights) > 1:
        raise ConfigurationError(f"network {name} returns one field, deep_supervision_weights has {len(weights)} values. Give [1] or leave them out.")
    if {**configuration.architecture.kwargs, **recipe.architecture_kwargs}.get("deep_supervision"):
        raise ConfigurationError(f"network {name} returns one field: it cannot be supervised at several resolutions. Leave deep_supervision out.")
