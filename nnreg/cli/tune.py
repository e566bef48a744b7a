"""``nnreg_tune``: try alternatives to the plan on training pairs and keep what wins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnreg.cli import planning_options as shared
from nnreg.cli.common import Parser, duration, print_table, run, workspace_of
from nnreg.cli.registration.tables import next_command
from nnreg.progress import progress_bar


def parser() -> Parser:
    """Its options."""
    result = Parser(
        "nnreg_tune", "Try alternatives to the planned settings of the registration engine on training pairs, rank them and keep in the plans what wins."
    )
    result.add_dataset()
    result.add_argument("--budget", type=duration, default=1800.0, metavar="TIME", help="time to spend: 90s, 30m, 2h (default: 30m; two pairs in any case)")
    result.add_argument("-plans_name", default=shared.DEFAULT_PLANS, metavar="NAME", help="plans to tune (default: %(default)s)")
    result.add_argument("--no_write", action="store_true", help="print the table, leave the plans as they are")
    result.add_argument("--clean", action="store_true", help="measure again what is kept of an earlier run")
    result.add_quiet()
    result.add_workspace()
    return result


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.registration.tuning import tune
    from nnreg.planning.registration.tuning import table

    workspace = workspace_of(options)
    plans = tune(
        workspace,
        options.dataset,
        plans_name=options.plans_name,
        seconds=options.budget,
        clean=options.clean,
        write=not options.no_write,
        on_progress=progress_bar("tune", quiet=options.quiet),
    )
    if plans.tuning is not None:
        print_table(table(plans.tuning))
    print(plans.because["tuning"])
    path = shared.preprocessed_folder(workspace, options.dataset) / f"{plans.plans_name}.json"
    print(f"plans: {path} (left as they are)" if options.no_write else f"plans: {path}\nnext: {next_command(plans)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
