"""Plans of dense prediction without a dataset, and networks whose answer is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nnreg.dataset.spec import DatasetSpec
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.inference.dense_prediction.predictor import DensePredictor
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans, DenseTraining
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.task import task_named
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.trainer.checkpoint import FINAL, save_checkpoint
from nnreg.typed import to_mapping

NAME = "Dataset005_Known"
SPEC = DatasetSpec({"0": "noNorm"}, 0, ".nii.gz", labels={"background": 0, "low": 1, "high": 4}, task="dense_prediction")
REGIONS = dataclasses.replace(SPEC, labels={"background": 0, "whole": (1, 4), "high": 4}, regions_class_order=(1, 4))
LOW, HIGH = 10.0, 20.0


def configuration(spacing: Sequence[float], patch: Sequence[int], **more) -> DenseConfiguration:
    ndim = len(patch)
    architecture = Architecture("plain_unet", ((1,) * ndim, (2,) * ndim), ((3,) * ndim,) * 2, (4, 8), (1, 1), {"decoder_blocks_per_stage": [1]})
    training = DenseTraining(
        supervision=(LossTerm("negative_dice"), LossTerm("cross_entropy")),
        deep_supervision_weights=(1.0,),
        batch_size=2,
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations=1,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=0.0,
        gradient_clip=None,
        lr_schedule="poly",
        augmentation={"pose": {"mirror_axes": list(range(ndim))}},
    )
    return DenseConfiguration(
        data_identifier=f"known_{ndim}",
        spacing=tuple(spacing),
        patch_size=tuple(patch),
        median_image_size_in_voxels=tuple(map(float, patch)),
        batch_dice=False,
        resampling=Resampling(),
        architecture=architecture,
        training=training,
        memory_gb=0.0,
        **{"normalization": (Normalization("none"),), **more},
    )


def plans(transpose: Sequence[int] = (0, 1, 2), **configurations: DenseConfiguration) -> DensePlans:
    return DensePlans(
        dataset_name=NAME,
        plans_name="nnRegPlans",
        task="dense_prediction",
        planner="ExperimentPlanner",
        channel_names=("noNorm",),
        transpose_forward=tuple(transpose),
        configurations=configurations,
        recommended=next(iter(configurations)),
    )


def by_brightness(tiles: torch.Tensor) -> torch.Tensor:
    """Logits of three classes: dark, above LOW, above HIGH; each wins by its margin."""
    image = tiles[:, :1]
    return torch.cat([LOW - image, torch.minimum(image - LOW, HIGH - image), image - HIGH], dim=1)


def regions_by_brightness(tiles: torch.Tensor) -> torch.Tensor:
    """Logits of the regions above LOW and above HIGH."""
    image = tiles[:, :1]
    return torch.cat([image - LOW, image - HIGH], dim=1)


def truth_of(image: np.ndarray) -> np.ndarray:
    return np.where(image > HIGH, 4, np.where(image > LOW, 1, 0))


def predictor(known: DensePlans, name: str, network, spec: DatasetSpec = SPEC, **more) -> DensePredictor:
    return DensePredictor(plans=known, configuration=known.configuration(name), spec=spec, networks=[network], device=torch.device("cpu"), **more)


def saved(results: Path, known: DensePlans, name: str, spec: DatasetSpec = SPEC) -> Path:
    """A model folder with one fold of random weights."""
    torch.manual_seed(len(name))
    planned = known.configuration(name)
    network = task_named("dense_prediction").network(plans=known, spec=spec, configuration=planned, recipe=TrainerConfig())
    folder = results / NAME / f"nnRegTrainer__nnRegPlans__{name}"
    init = {"configuration": to_mapping(planned), "custom_network": False}
    save_checkpoint(folder / "fold_0" / FINAL, {"network_weights": network.state_dict(), "trainer_name": "nnRegTrainer", "init": init})
    known.write(folder / "plans.json")
    spec.write(folder / "dataset.json")
    return folder


def write_images(folder: Path, spaces: dict[str, Space]) -> dict[str, np.ndarray]:
    """Smooth blobs with a border of zeros that cropping removes; values stay away from the thresholds."""
    result = {}
    for seed, (case, space) in enumerate(spaces.items()):
        rng = np.random.default_rng(seed)
        image = rng.choice([2.0, 14.0, 27.0], space.shape).astype(np.float32)
        image[0] = 0
        image[..., -2:] = 0
        write_image(folder / f"{case}_0000.nii.gz", image[None], space)
        result[case] = image
    return result
