"""``nnreg_run``: from raw images to predictions, by what the plans recommend."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_run",
        "Do what the plans recommend, from raw images to predictions: plan, preprocess, train (or not), predict, evaluate.\n"
        "What is finished is kept: the same command goes on after an interruption.",
        _files,
    )
    result.add_dataset()
    result.add_argument("-i", "--input", metavar="DIR", help="images to predict (default: imagesTs of the dataset, else the listed pairs of imagesTr)")
    result.add_argument("-o", "--output", metavar="DIR", help="where predictions go (default: predicted, in the results of the dataset)")
    result.add_argument("--time_budget", metavar="TIME", help="what training on this machine's processor may take, as in nnreg_plan_and_preprocess")
    result.add_argument("-f", "--fold", default="0", metavar="K", help="fold that is trained, where training is recommended: 0 to 4, or all (default: 0)")
    result.add_argument("-p", "--plans_identifier", default="nnRegPlans", metavar="NAME", help="name of the plans file (default: nnRegPlans)")
    result.add_argument("--task", metavar="NAME", help="as in nnreg_plan_and_preprocess")
    result.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    result.add_processes("cases")
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.cli.step_bar import StepBar
    from nnreg.planning.registration.duration import parse_duration
    from nnreg.training.execution.recommended import RunOptions, Watcher, run_recommended
    from nnreg.training.execution.run import parse_folds
    from nnreg.training.trainer.parts import Listeners

    (fold,) = parse_folds(options.fold) if "-" not in options.fold and options.fold != "cv" else _one_only(options.fold)
    bar = StepBar(quiet=options.quiet)
    asked = RunOptions(
        plans_name=options.plans_identifier,
        task=options.task,
        time_budget=None if options.time_budget is None else parse_duration(options.time_budget),
        fold=fold,
        images=Path(options.input) if options.input else None,
        output=Path(options.output) if options.output else None,
        device=options.device,
        processes=options.processes,
    )
    training = Listeners(line=bar.write, step=bar.step)
    run_recommended(workspace_of(options), options.dataset, asked, Watcher(bar.write, lambda step: progress_bar(step, quiet=options.quiet), training))
    bar.close()


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    workspace = workspace_of(options)
    name = workspace.dataset_name(options.dataset)
    results = workspace.results / name
    output = Path(options.output) if options.output else results / "predicted"
    notes = "the plans decide whether a network is trained"
    return Files.of([workspace.raw / name / "dataset.json", options.input], [workspace.preprocessed / name, results, output], notes)


def _one_only(text: str) -> list[int | str]:
    from nnreg.errors import ConfigurationError

    raise ConfigurationError(f"-f {text}: nnreg_run trains one fold. Several: nnreg_train ID CONFIGURATION {text}, then nnreg_run again.")


if __name__ == "__main__":
    sys.exit(main())
