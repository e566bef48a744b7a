"""Recipes of the networks for registration."""

from __future__ import annotations

from typing import Any

from nnreg.planning.registration.rules.training import DICE_WEIGHT
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

TRAINER_CONFIGS["unetreg"] = TrainerConfig(architecture="unetreg", description="residual U-Net on the concatenated pair, displacement output")
TRAINER_CONFIGS["unetreg_velocity"] = TrainerConfig(
    architecture="unetreg", architecture_kwargs={"integration_steps": 7}, description="unetreg with a stationary velocity field, integrated in 7 steps"
)
TRAINER_CONFIGS["fine_tune"] = TrainerConfig(
    training={"learning_rate": 1e-4}, description="registration: learning rate 1e-4, a tenth of the planned one or less, to go on from -pretrained_weights"
)
TRAINER_CONFIGS["joint"] = TrainerConfig(
    architecture="dual_pyramid",
    training={"supervision": [{"name": "soft_dice"}], "segmentation_weight": 1.0},
    description="the default network with a segmentation head: registration and segmentation learn from each other, labels in some cases are enough",
)
TRAINER_CONFIGS["inverse_consistent"] = TrainerConfig(
    architecture="dual_pyramid",
    architecture_kwargs={"inverse_consistent": True},
    description="the default network, symmetric: swapping the images inverts the map",
)

SYNTH: dict[str, Any] = {
    "similarity": [],  # of two contrasts drawn at random
    "regularisation": [{"name": "diffusion", "weight": 0.5}],
    "supervision": [{"name": "soft_dice", "weight": DICE_WEIGHT}],
    "augmentation.intensity.probability": 0.0,  # contrasts are random enough
}
TRAINER_CONFIGS["synth"] = TrainerConfig(
    training=SYNTH | {"augmentation.synthesis": {}}, description="images of random contrast made from the label maps: registers any contrast"
)
TRAINER_CONFIGS["synth_shapes"] = TrainerConfig(
    training=SYNTH | {"augmentation.synthesis": {"maps": "shapes"}}, description="synth from random shapes, without anyone's label maps"
)
