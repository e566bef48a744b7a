"""``progress.png``: the curves of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnreg.files import atomic_path
from nnreg.training.logging.log import History

PANELS = (
    ("loss", ("train_loss", "val_loss")),
    ("monitored metric", ("val_dice", "ema")),
    ("overlap of labels", ("val_iou", "val_precision", "val_recall")),
    ("folding, % of voxels", ("val_folding_percent",)),
    ("learning rate", ("learning_rate",)),
    ("seconds per epoch", ("epoch_seconds",)),
)


def plot_progress(history: History, path: Path) -> None:
    """Draw losses, metrics, learning rate and time against the epoch; panels without numbers are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(title, [name for name in names if np.isfinite(history.values.get(name, [np.nan])).any()]) for title, names in PANELS]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return
    figure = Figure(figsize=(9, 2.3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
        for name in names:
            series = np.asarray(history.values[name])
            measured = np.flatnonzero(np.isfinite(series))  # a line through those, not broken by epochs without validation
            axes.plot(measured, series[measured], label=name, marker="." if len(measured) < 30 else None)
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.supxlabel("epoch", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
