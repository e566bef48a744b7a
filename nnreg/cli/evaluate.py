"""``nnreg_evaluate``: predictions against labels, keypoints and true fields of a dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run, workspace_of
from nnreg.progress import progress_bar
from nnreg.task import TASKS, imported


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_evaluate",
        "Measure predictions. Registration: Dice, HD95, TRE, end-point error, NCC before and after, SDlogJ, folding, NDV.\n"
        "Label maps: Dice, IoU, counts of voxels, surface distances.",
    )
    result.add_argument("predictions", metavar="PREDICTIONS", help="output folder of nnreg_predict, or validation_raw of a fold")
    result.add_dataset()
    result.add_argument(
        "-o", "--output", type=_json_or_folder, metavar="FILE", help="summary file ending in .json, or a folder for summary.json (default: PREDICTIONS)"
    )
    result.add_processes("pairs")
    result.add_argument("--no_surface", action="store_true", help="leave out surface distances, which take most of the time")
    result.add_argument("--no_labels", action="store_true", help="leave out labels, for cases that have none")
    result.add_no_report()
    result.add_quiet()
    result.add_workspace()
    return result


def _json_or_folder(text: str) -> str:
    return text if text.endswith(".json") else folder(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset import RawDataset
    from nnreg.evaluation import write_summary
    from nnreg.evaluation.evaluation import task_of_predictions
    from nnreg.files import writable_folder

    predictions = Path(options.predictions)
    output = Path(options.output or predictions)
    if output.suffix != ".json":
        output = output / "summary.json"
    if options.output:
        writable_folder(output.parent)  # told before the work, not after it
    raw = RawDataset.open(workspace_of(options).raw_folder(options.dataset))
    summary, shown = imported(TASKS[task_of_predictions(predictions, raw.spec.task)].evaluate_command)(options, predictions, raw)
    write_summary(output, summary)
    print(shown)
    print(f"\nsummary: {output}")
    if not options.no_report:
        from nnreg.report import REPORT_FILE, report_after

        report_after(
            predictions,
            print,
            output=output.with_name(REPORT_FILE),
            summary=output,
            raw=raw,
            workspace=workspace_of(options),
            on_progress=progress_bar("report", quiet=options.quiet),
        )


if __name__ == "__main__":
    sys.exit(main())
