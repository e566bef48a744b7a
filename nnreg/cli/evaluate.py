"""``nnreg_evaluate``: predictions against labels, keypoints and true fields of a dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, folder, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar
from nnreg.run_log import tell
from nnreg.task import TASKS, imported

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_evaluate",
        "Measure predictions. Registration: Dice, HD95, TRE, end-point error, NCC before and after, SDlogJ, folding, NDV.\n"
        "Label maps: Dice, IoU, counts of voxels, surface distances.",
        _files,
    )
    result.add_argument("predictions", metavar="PREDICTIONS", help="output folder of nnreg_predict, or validation_raw of a fold")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset with the truth: 1, 001 or Dataset001_Name")
    result.add_argument(
        "-l", "--labels", metavar="DIR", help="instead of -d, for any registered images: folder of label maps CASE.nii.gz, and landmarks CASE.csv"
    )
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


def _output(options: argparse.Namespace) -> Path:
    """The summary file."""
    output = Path(options.output or options.predictions)
    return output if output.suffix == ".json" else output / "summary.json"


def _truth(options: argparse.Namespace) -> RawDataset:
    """The dataset, or images and labels that belong to none."""
    from nnreg.dataset import RawDataset
    from nnreg.errors import ConfigurationError
    from nnreg.evaluation.registration.loose import LooseImages

    if (options.dataset is None) == (options.labels is None):
        raise ConfigurationError("-d or --labels is needed, and one of them only: name the dataset with the truth, or the folder of label maps.")
    if options.labels is not None:
        return LooseImages(Path(options.predictions), Path(options.labels))
    return RawDataset.open(workspace_of(options).raw_folder(options.dataset))


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    raw, output = _truth(options), _output(options)
    truth = raw.folder if options.labels is None else options.labels
    return Files.of([options.predictions, truth], [output, None if options.no_report else output.with_name("report.html")])


def _work(options: argparse.Namespace) -> None:
    from nnreg.evaluation import write_summary
    from nnreg.evaluation.evaluation import task_of_predictions
    from nnreg.files import writable_folder

    predictions, output = Path(options.predictions), _output(options)
    if options.output:
        writable_folder(output.parent)  # told before the work, not after it
    raw = _truth(options)
    summary, shown = imported(TASKS[task_of_predictions(predictions, raw.spec.task)].evaluate_command)(options, predictions, raw)
    write_summary(output, summary)
    tell("figures", **summary.get("mean", {}))
    print(shown)
    print(f"\nsummary: {output}")
    if not options.no_report:
        from nnreg.report import REPORT_FILE, report_after

        report_after(
            predictions,
            print,
            output=output.with_name(REPORT_FILE),
            summary=output,
            labels=None if options.labels is None else Path(options.labels),
            raw=raw,
            workspace=workspace_of(options),
            on_progress=progress_bar("report", quiet=options.quiet),
        )


if __name__ == "__main__":
    sys.exit(main())
