"""``nnreg_accumulate_crossval_results``: the validation predictions of all folds in one folder, evaluated together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run, workspace_of
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_accumulate_crossval_results", "Join the validation predictions of all folds of a configuration and evaluate them together.")
    result.add_dataset()
    result.add_argument("-c", "--configuration", required=True, metavar="NAME", help="2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres")
    result.add_argument("-o", "--output", type=folder, metavar="DIR", help="where they go (default: crossval_results_folds_0_1_... in the model's folder)")
    result.add_argument("-f", "--folds", nargs="+", default=["0", "1", "2", "3", "4"], metavar="K", help="folds to join (default: 0 1 2 3 4)")
    result.add_argument("-p", "--plans", default="nnRegPlans", metavar="NAME", help="as in nnreg_train")
    result.add_argument("-tr", "--trainer", default="nnRegTrainer", metavar="NAME", help="as in nnreg_train")
    result.add_processes("cases")
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset import RawDataset
    from nnreg.evaluation.dense_prediction.case import dense_table
    from nnreg.evaluation.dense_prediction.crossval import accumulate
    from nnreg.evaluation.dense_prediction.folder import names_of
    from nnreg.parallel import default_processes
    from nnreg.training.run_folders import model_folder

    workspace = workspace_of(options)
    raw = RawDataset.open(workspace.raw_folder(options.dataset))
    found = accumulate(
        model_folder(workspace, options.dataset, options.trainer, options.plans, options.configuration),
        raw,
        options.folds,
        output=Path(options.output) if options.output else None,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    print(dense_table(found.summary, names_of(raw.spec)))
    print(f"\n{len(found.label_maps)} label maps and summary.json in {found.folder}")


if __name__ == "__main__":
    sys.exit(main())
