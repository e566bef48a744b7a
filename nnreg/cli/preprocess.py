"""``nnreg_preprocess``: bring the images of a planned dataset onto its working grids."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnreg.cli import planning_options as shared
from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """Its options."""
    result = Parser("nnreg_preprocess", "Align, normalise and resample the cases of a planned dataset. Finished cases are not done again.", _files)
    shared.add_datasets(result)
    shared.add_configurations(result)
    shared.add_processes(result)
    result.add_argument("-plans_name", default=shared.DEFAULT_PLANS, metavar="NAME", help=f"plans file (default: {shared.DEFAULT_PLANS})")
    result.add_argument("--clean", action="store_true", help="align and preprocess every case again")
    result.add_workspace()
    return result


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return shared.files(options, lambda folder: [folder], lambda raw, folder: [folder / f"{options.plans_name}.json"])


def _work(options: argparse.Namespace) -> None:
    """Preprocess and print."""
    from nnreg.preprocessing import preprocess_dataset, read_plans

    workspace = workspace_of(options)
    for dataset in options.dataset:
        folders = preprocess_dataset(
            workspace,
            dataset,
            plans_name=options.plans_name,
            configurations=options.configurations,
            processes=options.processes,
            clean=options.clean,
            progress=shared.progress(options),
        )
        plans = read_plans(shared.preprocessed_folder(workspace, dataset), options.plans_name, workspace.dataset_name(dataset))
        shared.print_arrays(plans.task, folders)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
