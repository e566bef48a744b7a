"""What an import can know to fail is refused before anything is written: values of the training, losses, and a network whose stages are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, NnRegError
from nnreg.planning.configuration import Architecture, Normalization
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationTraining
from nnreg.task import REGISTRATION, task_named
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.trainer.checkpoint import WEIGHTS, load_checkpoint, load_weights
from nnreg.training.trainer.optimizers import check_names

PLANS = SimpleNamespace(channel_names={"0": "image"})  # all that a network asks of the plans
SPEC = DatasetSpec(channel_names={"0": "image"}, numTraining=1, file_ending=".nii.gz")


def stages(strides: Sequence[Sequence[int]], features: Sequence[int], blocks: int) -> dict[str, object]:
    """What a recipe says of the plan's stages where a file names them all; kernels are 3 wide, stage 0 keeps the resolution."""
    every = [[1] * len(strides[0]), *(list(stride) for stride in strides)]
    return {
        "architecture.features_per_stage": list(features),
        "architecture.strides": every,
        "architecture.kernel_sizes": [[3] * len(stride) for stride in every],
        "architecture.blocks_per_stage": [blocks] * len(every),
    }


def check_recipe(recipe: TrainerConfig, shape: Sequence[int], where: str) -> None:
    """Raise a ConfigurationError if a run cannot begin: nothing is allocated but a weight.

    Parameters
    ----------
    recipe
        Of the run; a network whose stages it does not say is planned later and not tried here.
    shape
        Of its images, of one channel.
    where
        The file, for the message.
    """
    try:
        resolved = resolve_configuration(_stand_in(shape), recipe, "imported", {})
        check_names(resolved.training)
        task, known = task_named(REGISTRATION), {"plans": PLANS, "spec": SPEC, "configuration": resolved}
        task.objective(recipe=recipe, **known)
        if "architecture.strides" in recipe.training:
            task.memory_gb(build=lambda: task.network(recipe=recipe, **known), **known)
    except NnRegError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def check_weights(path: Path, recipe: TrainerConfig, shape: Sequence[int]) -> None:
    """Raise a TrainingError unless the weights in a file are those of the recipe's network, whose stages it says."""
    resolved = resolve_configuration(_stand_in(shape), recipe, "imported", {})
    network = task_named(REGISTRATION).network(plans=PLANS, spec=SPEC, configuration=resolved, recipe=recipe)
    load_weights(network, load_checkpoint(path, weights_only=True)[WEIGHTS], path)


def _stand_in(shape: Sequence[int]) -> RegistrationConfiguration:
    """A configuration whose every value a recipe may replace."""
    ndim = len(shape)
    two = ((1,) * ndim, (2,) * ndim)
    training = RegistrationTraining(
        similarity=(),
        regularisation=(),
        supervision=(),
        deep_supervision_weights=(),
        batch_size=1,
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations=1,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        gradient_clip=None,
        lr_schedule="constant",
    )
    network = Architecture("unetreg", two, ((3,) * ndim,) * 2, (4, 4), (1, 1))
    return RegistrationConfiguration(
        data_identifier="",
        spacing=(1.0,) * ndim,
        grid=tuple(shape),
        normalization=(Normalization("none"),),
        architecture=network,
        training=training,
        memory_gb=0.0,
    )
