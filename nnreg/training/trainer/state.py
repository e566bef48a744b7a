"""The state of a training as a checkpoint holds it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.training.logging import History
from nnreg.training.runtime_utils.runtime import random_state, restore_random_state
from nnreg.training.trainer.checkpoint import load_weights
from nnreg.typed import to_mapping

if TYPE_CHECKING:
    from nnreg.training.trainer.training_run import TrainingRun


def training_state(trainer: TrainingRun) -> dict[str, Any]:
    """Tensors and plain values from which a training goes on."""
    schedule, average = trainer.lr_scheduler, trainer.average
    content: dict[str, Any] = {
        "network_weights": trainer.network.state_dict() if average is None else average.module.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "lr_schedule_state": schedule.state_dict() if hasattr(schedule, "state_dict") else {},
        "grad_scaler_state": trainer.scaler.state_dict(),
        "current_epoch": trainer.current_epoch,
        "epoch": trainer.current_epoch - 1,
        "logging": trainer.history.state(),
        "random_state": random_state(),
        "trainer_name": trainer.name,
        "init": {
            "plans": trainer.plans.to_dict(),
            "configuration_name": trainer.configuration_name,
            "configuration": to_mapping(trainer.configuration),
            "fold": trainer.fold,
            "overrides": trainer.overrides,
            "custom_network": trainer.has_custom_network,
        },
    }
    if trainer.configuration.training.checkpoints.model_name:
        names = {"model": "network_weights", "optimizer": "optimizer_state", "scheduler": "lr_schedule_state"}
        content |= {name: content[ours] for name, ours in names.items()} | {"model_config": content["init"]["configuration"]}
    if average is not None:
        content |= {"training_weights": trainer.network.state_dict(), "averaged_steps": int(average.n_averaged)}
    return content


def restore_training(trainer: TrainingRun, content: Mapping[str, Any], path: Path, *, weights_only: bool) -> None:
    """Put a checkpoint's content, which was read from `path`, into an initialised trainer; or its weights alone, as they are predicted with."""
    evaluated = content["network_weights"]
    load_weights(trainer.network, evaluated if weights_only else content.get("training_weights", evaluated), path)
    if trainer.average is not None:
        load_weights(trainer.average.module, evaluated, path)
    if weights_only:
        return
    trainer.optimizer.load_state_dict(content["optimizer_state"])
    if trainer.average is not None:
        trainer.average.n_averaged.fill_(content.get("averaged_steps", 0))
    if hasattr(trainer.lr_scheduler, "load_state_dict") and content.get("lr_schedule_state"):
        trainer.lr_scheduler.load_state_dict(content["lr_schedule_state"])
    trainer.scaler.load_state_dict(content["grad_scaler_state"])
    trainer.current_epoch = content["current_epoch"]
    trainer.history = History.from_state(content["logging"])
    restore_random_state(content["random_state"])
