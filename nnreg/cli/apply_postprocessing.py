"""``nnreg_apply_postprocessing``: do to label maps what was found to help."""

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
    result = Parser("nnreg_apply_postprocessing", "Postprocess predicted label maps as postprocessing.json says.", _files)
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="output folder of nnreg_predict or nnreg_ensemble")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="DIR", help="where the postprocessed label maps go")
    result.add_argument("-pp_json", required=True, metavar="FILE", help="postprocessing.json, as nnreg_find_best_configuration wrote it")
    result.add_processes("cases")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return Files.of([options.input, options.pp_json], [options.output])


def _work(options: argparse.Namespace) -> None:
    from nnreg.evaluation.dense_prediction.postprocessing import apply_to_folder, read_steps
    from nnreg.files import writable_folder
    from nnreg.parallel import default_processes

    steps = read_steps(Path(options.pp_json))
    output = writable_folder(Path(options.output))
    show = progress_bar("postprocessing", quiet=options.quiet)
    count = apply_to_folder(Path(options.input), output, steps, processes=options.processes or default_processes(), on_progress=show)
    done = ", ".join(f"{step.name} of {' '.join(map(str, step.labels))}" for step in steps) or "nothing, as nothing was found to help"
    print(f"{count} label maps in {output.absolute()}: {done}")


if __name__ == "__main__":
    sys.exit(main())
