"""Recipes of one option each: to be joined with others, ``-tr unetreg+adamw+cosine+50epochs``."""

from __future__ import annotations

import re
from typing import Any

from nnreg.errors import ConfigurationError
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

EPOCHS = re.compile(r"(\d+)epochs?")

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "adam": ({"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 1e-5}, "Adam, learning rate 1e-4, weight decay 1e-5"),
    "adamw": ({"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4}, "AdamW, learning rate and weight decay 1e-4"),
    "sgd": (
        {"optimizer": "sgd", "learning_rate": 1e-2, "optimizer_kwargs": {"momentum": 0.99, "nesterov": True}},
        "SGD with Nesterov momentum 0.99, learning rate 0.01",
    ),
    "poly": ({"lr_schedule": "poly"}, "the rate falls to zero as (1 - epoch / epochs)^0.9"),
    "poly_step": ({"lr_schedule": "poly", "lr_update": "step"}, "poly, with a new rate at every step"),
    "cosine": ({"lr_schedule": "cosine"}, "the rate falls to zero along half a cosine"),
    "step": ({"lr_schedule": "step"}, "the rate falls to a tenth every 50 epochs"),
    "plateau": ({"lr_schedule": "plateau"}, "the rate is halved when the validation loss has not fallen for 10 validations"),
    "constant": ({"lr_schedule": "constant"}, "the rate stays"),
    "warmup": ({"warmup_epochs": 10}, "the rate rises linearly over 10 epochs"),
    "accumulate": ({"gradient_accumulation_steps": 4}, "the mean gradient of 4 batches makes a step"),
    "ema": ({"ema_decay": 0.999}, "validation and prediction use a moving average of the weights"),
    "checkpointing": ({"gradient_checkpointing": True}, "stages are computed again in the backward pass: less memory, more time"),
    "bf16": ({"mixed_precision": "bf16"}, "mixed precision with bfloat16, also on a CPU"),
    "fp16": ({"mixed_precision": "fp16"}, "mixed precision with float16 and a gradient scaler, on CUDA"),
    "full_precision": ({"mixed_precision": "off"}, "no mixed precision"),
    "no_augmentation": ({"augmentation": {}}, "images as they are"),
    "no_mirroring": ({"augmentation.pose.mirror_axes": []}, "dense prediction: patches are not mirrored, in training and prediction"),
    # the name elastic is a smoothness term's
    "elastic_deformation": ({"augmentation.elastic.probability": 0.2}, "dense prediction: every fifth patch is deformed"),
    "deterministic": ({"deterministic": True}, "only algorithms that give the same bits again"),
    "early_stopping": ({"early_stopping.patience": 30, "early_stopping.min_delta": 0.001}, "ends after 30 epochs without a better monitored value"),
}

STRENGTHS: dict[str, tuple[dict[str, Any], str]] = {
    "weak_augmentation": (
        {
            "augmentation.pose.rotation_probability": 0.1,
            "augmentation.pose.scaling_probability": 0.1,
            "augmentation.elastic.probability": 0.0,
            "augmentation.intensity.probability": 0.5,
        },
        "dense prediction: half as many turns and zooms, every other patch keeps its intensities",
    ),
    "strong_augmentation": (
        {
            "augmentation.pose.rotation_probability": 0.4,
            "augmentation.pose.scaling_probability": 0.4,
            "augmentation.elastic.probability": 0.4,
            "augmentation.intensity.noise": [0.0, 0.2],
            "augmentation.intensity.noise_probability": 0.2,
            "augmentation.intensity.blur_probability": 0.3,
            "augmentation.intensity.brightness": [0.6, 1.5],
            "augmentation.intensity.brightness_probability": 0.3,
            "augmentation.intensity.contrast": [0.6, 1.5],
            "augmentation.intensity.contrast_probability": 0.3,
            "augmentation.intensity.inverted_gamma_probability": 0.2,
            "augmentation.intensity.gamma_probability": 0.5,
        },
        "dense prediction: twice as many turns, zooms and intensity changes, wider ranges, and elastic deformation of 4 patches in 10",
    ),
}
"""How much patches are changed; what lies between is the plan's. The angles stay the plan's, which follow from the patch."""

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "cnn_preset": (
        {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 1e-5, "epochs": 100},
        "for convolutional networks: Adam 1e-4, weight decay 1e-5, 100 epochs",
    ),
    "deeplab_preset": (
        {
            "optimizer": "sgd",
            "optimizer_kwargs": {"momentum": 0.9, "nesterov": True},
            "learning_rate": 1e-2,
            "weight_decay": 1e-4,
            "lr_schedule": "poly",
        },
        "as DeepLab is trained: SGD 0.01, momentum 0.9, weight decay 1e-4, polynomial decay",
    ),
    "transformer_preset": (
        {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-4, "lr_schedule": "cosine", "warmup_epochs": 10, "gradient_clip": 1.0, "epochs": 200},
        "for transformers: AdamW 1e-4, weight decay 1e-4, 10 epochs of warm-up, cosine, gradients clipped at 1, 200 epochs",
    ),
}
"""How kinds of networks are usually trained, to be joined with a network."""

for _name, (_training, _description) in {**OPTIONS, **STRENGTHS, **PRESETS}.items():
    TRAINER_CONFIGS[_name] = TrainerConfig(training=_training, description=_description)


def epochs_config(name: str) -> TrainerConfig | None:
    """The recipe of a name such as ``50epochs``; None for any other name.

    Raises
    ------
    ConfigurationError
        For no epoch at all.

    Examples
    --------
    >>> epochs_config("50epochs").training
    {'epochs': 50}
    """
    found = EPOCHS.fullmatch(name)
    if found is None:
        return None
    if int(found[1]) < 1:
        raise ConfigurationError(f"trainer config {name!r}: expected 1epochs or more.")
    return TrainerConfig(training={"epochs": int(found[1])}, description=f"{found[1]} epochs")
