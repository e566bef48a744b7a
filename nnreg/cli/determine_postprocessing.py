"""``nnreg_determine_postprocessing``: find out which postprocessing helps, on predictions whose truth is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_determine_postprocessing", "Try the removal of all but the largest component; keep it where the mean Dice rises and that of no label falls."
    )
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="label maps of training cases, predicted by networks that had not seen them")
    result.add_argument("-ref", "--reference", required=True, metavar="DIR", help="their labels: labelsTr of the dataset")
    result.add_argument("-dataset_json", metavar="FILE", help="says which labels there are (default: dataset.json beside the label maps)")
    result.add_argument("-o", "--output", metavar="FILE", help="where to write (default: postprocessing.json beside the label maps)")
    result.add_processes("cases")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset.spec import FILE_NAME, DatasetSpec
    from nnreg.dataset.target_spec import outputs_of
    from nnreg.evaluation.dense_prediction.case import label_files
    from nnreg.evaluation.dense_prediction.postprocessing import FILE_NAME as POSTPROCESSING
    from nnreg.evaluation.dense_prediction.postprocessing import determine_for_targets, write_steps
    from nnreg.parallel import default_processes

    folder = Path(options.input)
    outputs = outputs_of(DatasetSpec.read(Path(options.dataset_json or folder / FILE_NAME)))
    references, predictions = label_files(Path(options.reference)), label_files(folder)
    steps, told = determine_for_targets(references, predictions, outputs, processes=options.processes or default_processes())
    output = Path(options.output or folder / POSTPROCESSING)
    write_steps(output, steps, told)
    for line in told:
        print(line)
    print(f"\npostprocessing: {output}")


if __name__ == "__main__":
    sys.exit(main())
