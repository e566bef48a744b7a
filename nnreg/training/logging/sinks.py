"""Where numbers and pictures go beside the log: TensorBoard and Weights & Biases. A package that is not asked for is not imported."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from nnreg.planning.training_options import Tracking
from nnreg.registry import one_line

Pictures = Mapping[str, npt.NDArray[np.uint8]]


class Sink(Protocol):
    """Takes what an epoch has to show."""

    def numbers(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Finite numbers of an epoch."""

    def pictures(self, epoch: int, pictures: Pictures) -> None:
        """Grey pictures (rows, columns) by name."""

    def gradients(self, epoch: int, network: nn.Module) -> None:
        """What the last step's gradients look like."""

    def close(self) -> None:
        """Nothing comes any more."""


class TensorBoard:
    """Curves, pictures and histograms in ``tensorboard/``; a resumed training writes over what came after its checkpoint."""

    def __init__(self, folder: Path, first_epoch: int, histograms: bool) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(folder / "tensorboard"), purge_step=first_epoch or None)
        self.histograms = histograms

    def numbers(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """See :class:`Sink`. ``train_loss`` and ``val_loss`` become ``loss/train`` and ``loss/val``."""
        for name, value in numbers.items():
            split, _, rest = name.partition("_")
            self.writer.add_scalar(f"{rest}/{split}" if split in ("train", "val") else name, value, epoch)
        self.writer.flush()

    def pictures(self, epoch: int, pictures: Pictures) -> None:
        """See :class:`Sink`."""
        for name, picture in pictures.items():
            self.writer.add_image(name, picture, epoch, dataformats="HW")

    def gradients(self, epoch: int, network: nn.Module) -> None:
        """See :class:`Sink`."""
        for name, parameter in network.named_parameters() if self.histograms else ():
            if parameter.grad is not None:
                self.writer.add_histogram(f"gradients/{name}", parameter.grad, epoch)

    def close(self) -> None:
        """See :class:`Sink`."""
        self.writer.close()


class WeightsAndBiases:
    """A run on the dashboard, or in ``wandb/`` to be sent later."""

    def __init__(self, tracking: Tracking, folder: Path, name: str, configuration: Mapping[str, Any]) -> None:
        self.package = importlib.import_module("wandb")
        mode = "offline" if tracking.wandb == "offline" else "online"
        self.run = self.package.init(project=tracking.wandb_project, name=tracking.wandb_run or name, mode=mode, dir=str(folder), config=dict(configuration))

    def numbers(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """See :class:`Sink`."""
        self.run.log({"epoch": epoch, **numbers})

    def pictures(self, epoch: int, pictures: Pictures) -> None:
        """See :class:`Sink`."""
        self.run.log({"epoch": epoch, **{name: self.package.Image(picture) for name, picture in pictures.items()}})

    def gradients(self, epoch: int, network: nn.Module) -> None:
        """See :class:`Sink`; the norm is among the numbers."""

    def close(self) -> None:
        """See :class:`Sink`."""
        self.run.finish()


def open_sinks(tracking: Tracking, folder: Path, *, name: str, first_epoch: int, configuration: Mapping[str, Any], log: Callable[[str], None]) -> list[Sink]:
    """The sinks that the options ask for; one that is asked for and cannot be used is told in the log, and the training goes on.

    Parameters
    ----------
    tracking
        The options.
    folder
        Of the fold.
    name
        Of the run.
    first_epoch
        0, or where a resumed training goes on.
    configuration
        What W&B shows beside the curves.
    log
        Takes a line.
    """
    sinks: list[Sink] = []
    if tracking.tensorboard is not False and _installed("tensorboard", bool(tracking.tensorboard), log):
        sinks += _opened("TensorBoard", "--set tracking.tensorboard=false", log, lambda: TensorBoard(folder, first_epoch, tracking.histograms))
    if tracking.wandb != "off" and _installed("wandb", True, log):
        advice = "log in once (wandb login), or --set tracking.wandb=offline or off"
        sinks += _opened("W&B", advice, log, lambda: WeightsAndBiases(tracking, folder, name, configuration))
    return sinks


def _opened(name: str, advice: str, log: Callable[[str], None], make: Callable[[], Sink]) -> list[Sink]:
    """The sink, or none and a line in the log: a dashboard that cannot be reached is no reason not to train."""
    try:
        return [make()]
    except Exception as error:  # of a package of others, which raises what it likes
        log(f"{name} cannot be opened: {one_line(error)}. The training goes on, nothing is written for it; {advice}.")
        return []


def _installed(package: str, wanted: bool, log: Callable[[str], None]) -> bool:
    if importlib.util.find_spec(package) is not None:
        return True
    if wanted:
        log(f"{package} is not installed: nothing is written for it (pip install nnreg[{package}]).")
    return False
