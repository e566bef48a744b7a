"""``nnreg_evaluate_simple``: two folders of label maps compared, no dataset needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_evaluate_simple", "Compare the label maps of two folders: Dice, IoU, counts of voxels, surface distances.", _files)
    result.add_argument("reference", metavar="REFERENCE", help="folder with the true label maps CASE.ending")
    result.add_argument("predictions", metavar="PREDICTIONS", help="folder with the predicted ones")
    result.add_argument("-l", "--labels", nargs="+", required=True, metavar="L", help="labels to score; a region as its values with commas: 1 2 1,2")
    result.add_argument("-il", "--ignore_label", type=int, metavar="L", help="label of the reference that is not scored")
    result.add_argument("-o", "--output", metavar="FILE", help="summary file (default: PREDICTIONS/summary.json)")
    result.add_processes("cases")
    result.add_argument("--no_surface", action="store_true", help="leave out surface distances, which take most of the time")
    result.add_argument("--chill", action="store_true", help="reference label maps that were not predicted are no error")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return Files.of([options.reference, options.predictions], [options.output or Path(options.predictions) / "summary.json"])


def _work(options: argparse.Namespace) -> None:
    from nnreg.errors import EvaluationError
    from nnreg.evaluation import write_summary
    from nnreg.evaluation.dense_prediction.case import dense_table, evaluate_label_files, label_files
    from nnreg.parallel import default_processes

    references, predictions = label_files(Path(options.reference)), label_files(Path(options.predictions))
    missing = sorted(references.keys() - predictions.keys())
    if missing and not options.chill:
        raise EvaluationError(f"{options.predictions}: has no label map of case {missing[0]!r} ({len(missing)} are missing). Predict it, or pass --chill.")
    summary = evaluate_label_files(
        references,
        predictions,
        labels=[_label(text) for text in options.labels],
        ignore=options.ignore_label,
        surface=not options.no_surface,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    output = Path(options.output or Path(options.predictions) / "summary.json")
    write_summary(output, summary)
    print(dense_table(summary))
    print(f"\nsummary: {output}")


def _label(text: str) -> int | tuple[int, ...]:
    from nnreg.errors import ConfigurationError

    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(f"-l {text}: expected whole numbers, a region as its values with commas: 1,2.") from error
    return values[0] if len(values) == 1 else values


if __name__ == "__main__":
    sys.exit(main())
