"""``nnreg_extract_fingerprint``: measure a raw dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnreg.cli import planning_options as shared
from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """Its options."""
    result = Parser("nnreg_extract_fingerprint", "Measure every image of a dataset: geometry, foreground, intensities.", _files)
    shared.add_datasets(result)
    shared.add_task(result)
    shared.add_processes(result)
    shared.add_pairs(result)
    result.add_argument("--verify_dataset_integrity", action="store_true", help="check the dataset first")
    result.add_argument("--clean", action="store_true", help="measure again, even if nothing has changed")
    result.add_workspace()
    return result


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return shared.files(options, lambda folder: [folder / shared.fingerprint_name(options, folder.name)], lambda raw, folder: [])


def _work(options: argparse.Namespace) -> None:
    """Measure and print."""
    from nnreg.preprocessing import fingerprint_dataset

    workspace = workspace_of(options)
    for dataset in options.dataset:
        shared.say_assumed_task(workspace, dataset, options.task)
        fingerprint_dataset(
            workspace,
            dataset,
            task=options.task,
            processes=options.processes,
            verify=options.verify_dataset_integrity,
            clean=options.clean,
            **shared.pair_options(options),
            progress=shared.progress(options),
        )
        shared.print_fingerprint(workspace, dataset, options.task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
