"""The state of a training as a checkpoint holds it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.documents import understood
from nnreg.errors import TrainingError
from nnreg.training.logging import History
from nnreg.training.runtime_utils.runtime import random_state, restore_random_state
from nnreg.training.trainer.checkpoint import load_weights, weights_in
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
    evaluated = weights_in(content, path)
    load_weights(trainer.network, evaluated if weights_only else content.get("training_weights", evaluated), path)
    if trainer.average is not None:
        load_weights(trainer.average.module, evaluated, path)
    if weights_only:
        return
    with understood(path, TrainingError, "Go on from another checkpoint, or train anew."):
        _restore_course(trainer, content)


def _restore_course(trainer: TrainingRun, content: Mapping[str, Any]) -> None:
    """Where the training was, beside its weights."""
    trainer.optimizer.load_state_dict(content["optimizer_state"])
    if trainer.average is not None:
        trainer.average.n_averaged.fill_(content.get("averaged_steps", 0))
    if hasattr(trainer.lr_scheduler, "load_state_dict") and content.get("lr_schedule_state"):
        trainer.lr_scheduler.load_state_dict(content["lr_schedule_state"])
    trainer.scaler.load_state_dict(content["grad_scaler_state"])
    trainer.current_epoch = content["current_epoch"]
    trainer.history = History.from_state(content["logging"])
    restore_random_state(content["random_state"])


def start_from(trainer: TrainingRun, content: Mapping[str, Any], path: Path) -> None:
    """Give a new training the weights of a checkpoint, which was read from `path`.

    The last layers, and decoders of further targets, keep the weights they begin with where the checkpoint's are of another shape or missing: they are
    those of other labels. The log says so. nnU-Net leaves its last layers out in any case.

    Raises
    ------
    TrainingError
        If anything else differs.
    """
    trainer.initialize()
    given, own = weights_in(content, path), trainer.network.state_dict()
    last = tuple(getattr(trainer.network, "output_layers", ()))
    fitting = {name: value for name, value in given.items() if not name.startswith(last) or (name in own and own[name].shape == value.shape)}
    left_out = sorted({*(set(given) - set(fitting)), *(name for name in own if name.startswith(last) and name not in fitting)})
    for network in (trainer.network, *([] if trainer.average is None else [trainer.average.module])):
        load_weights(network, {**{name: own[name] for name in left_out if name in own}, **fitting}, path)
    if left_out:
        layers = sorted({name.rpartition(".")[0] for name in left_out})
        trainer.notes.append(f"{path}: weights of other outputs are left out: {', '.join(layers)}")
    trainer.notes.append(f"Weights of {path} are the start")
