"""All that an epoch leaves behind to look at: the log, ``progress.png``, TensorBoard, W&B, the debug picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnreg.planning.training_options import Tracking
from nnreg.training.logging.diagnosis import ADVICE, change_of_diagnosis
from nnreg.training.logging.log import History, TrainingLog
from nnreg.training.logging.picture import draw, middle
from nnreg.training.logging.progress import plot_progress
from nnreg.training.logging.sinks import Sink, open_sinks


class Report:
    """Writes what there is to look at into a fold's folder.

    Parameters
    ----------
    folder
        Of the fold; it exists.
    tracking
        Where numbers go beside the log.
    listener
        Hears the log's lines.
    model_name
        What the debug picture is called after; empty: after nothing.
    """

    def __init__(self, folder: Path, tracking: Tracking, listener: Callable[[str], None] | None, model_name: str = "") -> None:
        self.folder, self.tracking, self.picture = folder, tracking, f"{model_name}_debug" if model_name else "debug"
        self.log = TrainingLog(folder, listener)
        self.sinks: list[Sink] = []

    def open(self, name: str, first_epoch: int, configuration: Mapping[str, Any]) -> None:
        """Open TensorBoard and W&B where they are asked for."""
        self.sinks = open_sinks(self.tracking, self.folder, name=name, first_epoch=first_epoch, configuration=configuration, log=self.log)

    @property
    def wants_pictures(self) -> bool:
        """Whether pictures were asked for; TensorBoard that merely happens to be installed gets curves alone."""
        return self.tracking.picture or self.tracking.wandb != "off" or self.tracking.tensorboard is True

    def pictures(self, epoch: int, images: Mapping[str, Tensor]) -> None:
        """Show images (*spatial) of one validation sample."""
        if self.tracking.picture:
            draw(images, self.folder, self.picture)
        for sink in self.sinks:
            sink.pictures(epoch, middle(images))

    def epoch(self, epoch: int, numbers: Mapping[str, float], history: History, network: nn.Module) -> None:
        """Show the numbers of an epoch that is over, and say what the curves look like where that has changed."""
        found = change_of_diagnosis(history.values)
        if found is not None:
            self.log(f"The curves look like {found}: {ADVICE[found]}")
        for sink in self.sinks:
            sink.numbers(epoch, {name: value for name, value in numbers.items() if math.isfinite(value)})
            sink.gradients(epoch, network)
        plot_progress(history, self.folder / "progress.png")

    def close(self) -> None:
        """Nothing comes any more."""
        while self.sinks:
            self.sinks.pop().close()


class Silence(Report):
    """The report of a process that others write for: nothing."""

    wants_pictures = False

    def __init__(self) -> None:
        super().__init__(Path(), Tracking(), None)
        self.log = lambda line: None  # type: ignore[assignment]  # what is called with a line

    def open(self, name: str, first_epoch: int, configuration: Mapping[str, Any]) -> None:
        """See :class:`Report`."""

    def epoch(self, epoch: int, numbers: Mapping[str, float], history: History, network: nn.Module) -> None:
        """See :class:`Report`."""
