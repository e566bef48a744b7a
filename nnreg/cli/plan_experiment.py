"""``nnreg_plan_experiment``: derive the plans of a measured dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnreg.cli import planning_options as shared
from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """Its options."""
    result = Parser("nnreg_plan_experiment", "Derive the plans of a dataset from its fingerprint. Every value in the plans file says why.", _files)
    shared.add_datasets(result)
    shared.add_planning(result)
    result.add_workspace()
    return result


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    workspace = workspace_of(options)
    folders = [shared.preprocessed_folder(workspace, dataset) for dataset in options.dataset]
    plans = f"{options.overwrite_plans_name or shared.DEFAULT_PLANS}.json"
    return Files.of([workspace.raw_folder(dataset) / "dataset.json" for dataset in options.dataset], [folder / plans for folder in folders])


def _work(options: argparse.Namespace) -> None:
    """Plan and print."""
    from nnreg.preprocessing import plan_dataset

    workspace = workspace_of(options)
    for dataset in options.dataset:
        shared.say_assumed_task(workspace, dataset, options.task)
        plans = plan_dataset(workspace, dataset, **shared.planning(options))
        shared.print_plans(plans, shared.preprocessed_folder(workspace, dataset))
        if options.explain:
            shared.print_explanation(plans)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
