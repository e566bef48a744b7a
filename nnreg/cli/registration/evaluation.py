"""``nnreg_evaluate`` for registered pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def evaluate_pairs(options: argparse.Namespace, predictions: Path, raw: RawDataset) -> tuple[dict[str, Any], str]:
    """Summary and printed table."""
    from nnreg.evaluation import evaluate_folder, table
    from nnreg.parallel import default_processes

    summary = evaluate_folder(
        predictions,
        raw,
        processes=options.processes or default_processes(),
        surface=not options.no_surface,
        with_labels=not options.no_labels,
        complete=options.labels is None,
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    return summary, table(summary)
