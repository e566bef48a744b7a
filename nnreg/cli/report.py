"""``nnreg_report``: one page of a results folder, to look at and to show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, positive, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_report",
        "Write report.html: pairs with sliders, the worst first, figures before and after, decisions and their reasons. One file that needs no network.",
        _files,
    )
    result.add_argument("folder", metavar="FOLDER", help="output folder of nnreg_register or nnreg_predict, or fold_0 of a training")
    result.add_argument("-o", "--output", metavar="FILE", help="the page (default: FOLDER/report.html)")
    result.add_argument("-i", "--images", metavar="DIR", help="folder of the images, if they are no longer where the results say")
    result.add_argument("-l", "--labels", metavar="DIR", help="folder of their labels")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset the images are from")
    result.add_argument("-s", "--summary", metavar="FILE", help="summary of nnreg_evaluate (default: summary.json in FOLDER)")
    result.add_argument(
        "-n", "--detailed", type=positive, default=10, metavar="N", help="pairs with every slice, the worst ones; one slice of the others (default: 10)"
    )
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.report import REPORT_FILE

    reads = [options.folder, options.images, options.labels, options.summary]
    return Files.of(reads, [options.output or Path(options.folder) / REPORT_FILE])


def _work(options: argparse.Namespace) -> None:
    from nnreg.report import write_report

    path = write_report(
        options.folder,
        output=_path(options.output),
        summary=_path(options.summary),
        images=_path(options.images),
        labels=_path(options.labels),
        raw=_dataset(options),
        workspace=workspace_of(options),
        detailed=options.detailed,
        on_progress=progress_bar("drawing", quiet=options.quiet),
    )
    print(f"report: {path.absolute()} ({path.stat().st_size / 1e6:.1f} MB)")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _dataset(options: argparse.Namespace) -> RawDataset | None:
    """The dataset that was named."""
    from nnreg.dataset import RawDataset

    return None if options.dataset is None else RawDataset.open(workspace_of(options).raw_folder(options.dataset))


if __name__ == "__main__":
    sys.exit(main())
