"""``nnreg_find_best_configuration``: which trained configuration, or which two together, to predict new images with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_find_best_configuration", "Compare trained configurations and their ensembles by cross-validation, find the postprocessing, write what to run."
    )
    result.add_argument("dataset", help="dataset id or folder name: 1, 001 or Dataset001_Name")
    result.add_argument("-p", "--plans", nargs="+", default=["nnRegPlans"], metavar="NAME", help="plans to consider (default: nnRegPlans)")
    result.add_argument("-c", "--configurations", nargs="+", metavar="NAME", help="configurations to consider (default: all that were trained)")
    result.add_argument("-tr", "--trainers", nargs="+", default=["nnRegTrainer"], metavar="NAME", help="trainers to consider (default: nnRegTrainer)")
    result.add_argument("-f", "--folds", nargs="+", default=["0", "1", "2", "3", "4"], metavar="K", help="folds to use (default: 0 1 2 3 4)")
    result.add_argument("--disable_ensembling", action="store_true", help="do not try two models together")
    result.add_argument("--no_overwrite", action="store_true", help="keep what was joined and evaluated before")
    result.add_processes("cases")
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset import RawDataset
    from nnreg.inference.dense_prediction.best import INFORMATION, INSTRUCTIONS, find_best_configuration
    from nnreg.parallel import default_processes

    workspace = workspace_of(options)
    results = workspace.results_folder(options.dataset)
    found = find_best_configuration(
        results,
        RawDataset.open(workspace.raw_folder(options.dataset)),
        _models(options, results),
        folds=options.folds,
        ensembling=not options.disable_ensembling,
        overwrite=not options.no_overwrite,
        processes=options.processes or default_processes(),
        on_note=print,
        on_progress=progress_bar("evaluating", quiet=options.quiet),
    )
    for contestant in found.contestants:
        print(f"{contestant.score:.4f}  {contestant.name}")
    print(f"\nbest: {found.best.name}, mean {found.figure} {found.best.score:.4f}, postprocessed {found.postprocessed:.4f}\n")
    print(found.instructions)
    print(f"{results / INSTRUCTIONS}\n{results / INFORMATION}")


def _models(options: argparse.Namespace, results: Path) -> list[Path]:
    """Model folders, simplest configuration first; those asked for by name must be there."""
    from nnreg.errors import EvaluationError
    from nnreg.planning.plans import Plans
    from nnreg.training.configs.names import results_name

    found = []
    for trainer in map(results_name, options.trainers):
        for plans in options.plans:
            present = {path.name.split("__")[2]: path for path in sorted(results.glob(f"{trainer}__{plans}__*")) if (path / "plans.json").is_file()}
            asked = options.configurations
            if asked is None:
                order = list(Plans.read(next(iter(present.values())) / "plans.json").configurations) if present else []
                asked = [name for name in order if name in present]
            for name in asked:
                if name not in present:
                    raise EvaluationError(f"{results / f'{trainer}__{plans}__{name}'}: was not trained. Train it, or leave -c {name} out.")
                found.append(present[name])
    return found


if __name__ == "__main__":
    sys.exit(main())
