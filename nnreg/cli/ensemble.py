"""``nnreg_ensemble``: mean probabilities of several models as label maps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_ensemble", "Average what several models predicted with --save_probabilities, and write label maps.", _files)
    result.add_argument("-i", "--input", nargs="+", required=True, metavar="DIR", help="output folders of nnreg_predict for the same images")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="DIR", help="where label maps go")
    result.add_processes("cases")
    result.add_argument("--save_npz", "--save_probabilities", action="store_true", help="also write the mean probabilities")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return Files.of(options.input, [options.output])


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.dense_prediction.ensemble import ensemble_folders
    from nnreg.parallel import default_processes

    output = Path(options.output)
    content = ensemble_folders(
        [Path(folder) for folder in options.input],
        output,
        save_probabilities=options.save_npz,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("ensembling", quiet=options.quiet),
    )
    print(f"{len(content['cases'])} label maps in {output.absolute()}")


if __name__ == "__main__":
    sys.exit(main())
