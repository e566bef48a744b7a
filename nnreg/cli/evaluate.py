"""``nnreg_evaluate``: predictions against labels, keypoints and true fields of a dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, progress_bar, run, workspace_of

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_evaluate",
        "Measure predictions. Registration: Dice, HD95, TRE, end-point error, NCC before and after, SDlogJ, folding, NDV.\n"
        "Label maps: Dice, IoU, counts of voxels, surface distances.",
    )
    result.add_argument("predictions", metavar="PREDICTIONS", help="output folder of nnreg_predict, or validation_raw of a fold")
    result.add_dataset()
    result.add_argument("-o", "--output", metavar="FILE", help="summary file ending in .json, or a folder for summary.json (default: PREDICTIONS)")
    result.add_argument("-np", "--processes", type=int, metavar="N", help="pairs evaluated at a time (default: nnReg_n_proc, else the number of cores)")
    result.add_argument("--no_surface", action="store_true", help="leave out surface distances, which take most of the time")
    result.add_argument("--no_labels", action="store_true", help="leave out labels, for cases that have none")
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset import RawDataset
    from nnreg.errors import ConfigurationError
    from nnreg.evaluation import write_summary
    from nnreg.evaluation.dense_prediction.folder import task_of_predictions
    from nnreg.files import writable_folder

    if options.processes is not None and options.processes < 1:
        raise ConfigurationError(f"-np: expected 1 or more processes, found {options.processes}.")
    predictions = Path(options.predictions)
    output = Path(options.output or predictions)
    if output.suffix != ".json":
        output = output / "summary.json"
    if options.output:
        writable_folder(output.parent)  # told before the work, not after it
    raw = RawDataset.open(workspace_of(options).raw_folder(options.dataset))
    summary, shown = WORK[task_of_predictions(predictions, raw.spec.task)](options, predictions, raw)
    write_summary(output, summary)
    print(shown)
    print(f"\nsummary: {output}")


def _pairs(options: argparse.Namespace, predictions: Path, raw: RawDataset) -> tuple[dict[str, Any], str]:
    from nnreg.evaluation import evaluate_folder, table
    from nnreg.parallel import default_processes

    summary = evaluate_folder(
        predictions,
        raw,
        processes=options.processes or default_processes(),
        surface=not options.no_surface,
        with_labels=not options.no_labels,
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    return summary, table(summary)


def _label_maps(options: argparse.Namespace, predictions: Path, raw: RawDataset) -> tuple[dict[str, Any], str]:
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


WORK: dict[str, Callable[[argparse.Namespace, Path, RawDataset], tuple[dict[str, Any], str]]] = {"registration": _pairs, "dense_prediction": _label_maps}
"""Task of the predictions to what evaluates them and gives a table."""


if __name__ == "__main__":
    sys.exit(main())
