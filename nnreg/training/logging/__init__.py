"""The training log, the history of numbers and the progress picture."""

from nnreg.training.logging.log import History, TrainingLog
from nnreg.training.logging.progress import plot_progress

__all__ = ["History", "TrainingLog", "plot_progress"]
