"""What a training would refuse in an imported recipe is refused before a dataset is written."""

from __future__ import annotations

from typing import cast

from nnreg.architecture.memory import without_numbers
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, NnRegError
from nnreg.planning.dense_prediction import settings
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans, DenseTraining
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.planning.topology import topology
from nnreg.task import DENSE_PREDICTION, task_named
from nnreg.training.augmentation.dense_prediction.patch import build_dense_augmentation
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.configs.trainer_config import TrainerConfig

CONFIGURATION = "trial"
PATCH = 16  # voxels per axis of the plan that a recipe is tried on: few stages, since building one takes time even without memory


def try_recipe(recipe: TrainerConfig, *, ndim: int, classes: int, where: str) -> None:
    """Resolve a recipe against a plan like those that datasets get, and build its loss, network and augmentation, without memory for weights.

    Parameters
    ----------
    recipe
        Of an import.
    ndim, classes
        Axes of the network; labels with background.
    where
        File that the recipe comes from; starts the message.

    Raises
    ------
    ConfigurationError
        Value of the wrong type or out of range, unknown argument, class weights for another number of labels, a network that cannot be built.
    """
    from nnreg.training.trainer.optimizers import check_names

    try:
        configuration = cast(DenseConfiguration, resolve_configuration(_planned(ndim), recipe, where, {}))
        check_names(configuration.training)
        build_dense_augmentation(configuration.training.augmentation, configuration.patch_size)
        plans, spec, task = _plans(configuration), _spec(classes), task_named(DENSE_PREDICTION)
        # the loss is built and tried before the network
        without_numbers(lambda: task.network(plans=plans, spec=spec, configuration=configuration, recipe=recipe))
    except NnRegError as error:
        message = str(error)
        raise ConfigurationError(message if where in message else f"{where}: {message}") from error


def _plans(configuration: DenseConfiguration) -> DensePlans:
    return DensePlans(
        dataset_name="trial",
        plans_name="trial",
        task=DENSE_PREDICTION,
        planner="trial",
        channel_names=("image",),
        transpose_forward=(0, 1, 2),
        configurations={CONFIGURATION: configuration},
        recommended=CONFIGURATION,
    )


def _spec(classes: int) -> DatasetSpec:
    labels: dict[str, int | tuple[int, ...]] = {"background": 0, **{f"label_{value}": value for value in range(1, classes)}}
    return DatasetSpec(channel_names={"0": "image"}, numTraining=1, file_ending=".nii.gz", labels=labels, task=DENSE_PREDICTION)


def _planned(ndim: int) -> DenseConfiguration:
    """A plan as the planner makes them, of cubes of one millimetre."""
    shape = topology((1.0,) * ndim, (PATCH,) * ndim)
    stages = len(shape.strides)
    return DenseConfiguration(
        data_identifier="trial",
        spacing=(1.0,) * ndim,
        patch_size=shape.patch,
        median_image_size_in_voxels=(float(PATCH),) * ndim,
        batch_dice=False,
        resampling=Resampling(),
        normalization=(Normalization("zscore"),),
        architecture=Architecture("plain_unet", shape.strides, shape.kernel_sizes, settings.features(stages, ndim).value, (2,) * stages),
        training=DenseTraining(
            supervision=(LossTerm("negative_dice"), LossTerm("cross_entropy")),
            deep_supervision_weights=settings.deep_supervision_weights(stages).value,
            batch_size=2,
            augmentation=settings.augmentation(shape.patch).value,
            **settings.training().value,
        ),
        memory_gb=0.0,
    )
