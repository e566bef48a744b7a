"""Figures of groups: made without a display, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnreg.files import atomic_path

DOTS_PER_INCH = 110


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """An empty figure of so many inches, written to `path` as PNG when it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn
    with atomic_path(path) as temporary:
        drawn.savefig(temporary, format="png", metadata={"Software": None})
