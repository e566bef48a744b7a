"""Groups of training options: what is kept, when a training ends early, where its numbers go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "off", "bf16", "fp16"]


@dataclass(frozen=True)
class Checkpoints:
    """Which checkpoints a training writes beside ``checkpoint_best.pth`` and ``checkpoint_final.pth``.

    Attributes
    ----------
    every : a numbered file, ``checkpoint_epoch_0010.pth``, after every so many epochs; 0 for none
    keep_last : how many of the numbered files stay; 0 for all
    best_only : neither numbered files nor ``checkpoint_latest.pth``; ``-c`` then goes on from the best epoch
    latest_every : epochs between two ``checkpoint_latest.pth``
    delete_latest : remove ``checkpoint_latest.pth`` once ``checkpoint_final.pth`` is written
    model_name
        If given, numbered files are called ``MODEL_NAME_10.pth``, the picture ``MODEL_NAME_debug.png``, and every checkpoint has its weights, optimiser,
        schedule and configuration under the keys ``model``, ``optimizer``, ``scheduler`` and ``model_config`` too.
    """

    every: int = 0
    keep_last: int = 0
    best_only: bool = False
    latest_every: int = 1
    delete_latest: bool = False
    model_name: str = ""

    def numbered(self, epoch: int | None) -> str:
        """Name of the numbered file after so many epochs; None: the pattern of all."""
        if self.model_name:
            return f"{self.model_name}_{'*' if epoch is None else epoch}.pth"
        return f"checkpoint_epoch_{'*' if epoch is None else f'{epoch:04d}'}.pth"

    @property
    def settings_name(self) -> str:
        """What the file is called that holds the settings a model was imported from."""
        return f"{self.model_name}_config.yaml"


@dataclass(frozen=True)
class EarlyStopping:
    """When a training ends before its last epoch.

    Attributes
    ----------
    patience : epochs without a better value of the monitored metric; 0 never stops
    min_delta : by how much a value must be better to count
    """

    patience: int = 0
    min_delta: float = 0.0


@dataclass(frozen=True)
class Tracking:
    """Where the numbers go beside the log and ``progress.png``.

    Attributes
    ----------
    tensorboard : write ``tensorboard/`` in the fold's folder; None: where the package is installed
    histograms : of the gradients of every layer, once an epoch, for TensorBoard
    wandb : ``off`` (the package is not even imported), ``on`` or ``offline``
    wandb_project, wandb_run : names on the dashboard; the run is called after its folder unless named
    picture : ``debug.png`` (2D) or ``debug.gif`` (3D) of the first validation batch, anew after every validation
    console : names of the numbers that an epoch's line shows, in this order; empty: all
    """

    tensorboard: bool | None = None
    histograms: bool = False
    wandb: Literal["off", "on", "offline"] = "off"
    wandb_project: str = "nnreg"
    wandb_run: str | None = None
    picture: bool = False
    console: tuple[str, ...] = ()
