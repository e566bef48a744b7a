"""``nnreg_plan_and_preprocess``: measure, plan and preprocess a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from nnreg.cli import planning_options as shared
from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """Its options."""
    result = Parser("nnreg_plan_and_preprocess", "Measure a dataset, plan its registration and preprocess its images: all that comes before training.", _files)
    shared.add_datasets(result)
    shared.add_configurations(result)
    shared.add_planning(result)
    shared.add_processes(result)
    shared.add_pairs(result)
    result.add_argument("--verify_dataset_integrity", action="store_true", help="check the dataset first")
    result.add_argument("--no_pp", action="store_true", help="measure and plan only")
    result.add_argument("--clean", action="store_true", help="measure, align and preprocess again, even what is finished")
    result.add_workspace()
    return result


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    plans = options.overwrite_plans_name or f"the planner's name, mostly {shared.DEFAULT_PLANS}"
    found = shared.files(
        options, lambda folder: [folder / shared.fingerprint_name(options, folder.name), *([] if options.no_pp else [folder])], lambda raw, folder: []
    )
    return replace(found, notes=(f"plans file: {plans}",))


def _work(options: argparse.Namespace) -> None:
    """Do all three and print."""
    from nnreg.preprocessing import plan_and_preprocess

    workspace = workspace_of(options)
    for dataset in options.dataset:
        shared.say_assumed_task(workspace, dataset, options.task)
        plans = plan_and_preprocess(
            workspace,
            dataset,
            configurations=options.configurations,
            processes=options.processes,
            verify=options.verify_dataset_integrity,
            clean=options.clean,
            preprocess_too=not options.no_pp,
            progress=shared.progress(options),
            **shared.planning(options),
            **shared.pair_options(options),
        )
        folder = shared.preprocessed_folder(workspace, dataset)
        shared.print_fingerprint(workspace, dataset, options.task)
        shared.print_plans(plans, folder)
        if options.explain:
            shared.print_explanation(plans)
        if not options.no_pp:
            done = {name: folder / plans.configurations[name].data_identifier for name in plans.configurations}
            shared.print_arrays(plans.task, {name: path for name, path in done.items() if path.is_dir()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
