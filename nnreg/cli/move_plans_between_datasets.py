"""``nnreg_move_plans_between_datasets``: plan one dataset as another."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.progress import progress_bar


def parser() -> Parser:
    """Its options."""
    result = Parser("nnreg_move_plans_between_datasets", "Copy the plans of a dataset to another, to preprocess and train both alike.")
    result.add_argument("-s", "--source", required=True, metavar="ID", help="dataset whose plans are copied")
    result.add_argument("-t", "--target", required=True, metavar="ID", help="dataset that gets them; it is measured if it was not")
    result.add_argument("-sp", "--source_plans", default="nnRegPlans", metavar="NAME", help="plans of the source (default: nnRegPlans)")
    result.add_argument("-tp", "--target_plans", metavar="NAME", help="what they are called in the target (default: as in the source)")
    result.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    result.add_quiet()
    result.add_workspace()
    return result


def _work(options: argparse.Namespace) -> None:
    from nnreg.preprocessing.move import move_plans

    plans, path = move_plans(
        workspace_of(options),
        options.source,
        options.target,
        source_plans=options.source_plans,
        target_plans=options.target_plans,
        overwrite=options.overwrite,
        progress=lambda step: progress_bar(step, quiet=options.quiet),
        on_note=print,
    )
    print(f"plans: {path}")
    print(f"next: nnreg_preprocess -d {plans.dataset_name[7:10]} -plans_name {plans.plans_name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
