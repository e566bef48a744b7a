"""``nnreg_evaluate`` for predicted label maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def evaluate_label_maps(options: argparse.Namespace, predictions: Path, raw: RawDataset) -> tuple[dict[str, Any], str]:
    """Summary and printed table."""
    from nnreg.errors import ConfigurationError
    from nnreg.evaluation.dense_prediction.case import dense_table
    from nnreg.evaluation.dense_prediction.folder import evaluate_dense_folder, names_of
    from nnreg.parallel import default_processes

    if options.no_labels:
        raise ConfigurationError("--no_labels: label maps can only be compared with labels. Leave it out.")
    summary = evaluate_dense_folder(
        predictions,
        raw,
        processes=options.processes or default_processes(),
        surface=not options.no_surface,
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    return summary, dense_table(summary, names_of(raw.spec))
