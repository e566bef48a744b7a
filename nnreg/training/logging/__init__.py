"""The training log, the history of numbers, and all that an epoch leaves to look at."""

from nnreg.training.logging.log import History, TrainingLog
from nnreg.training.logging.progress import plot_progress
from nnreg.training.logging.report import Report, Silence

__all__ = ["History", "Report", "Silence", "TrainingLog", "plot_progress"]
