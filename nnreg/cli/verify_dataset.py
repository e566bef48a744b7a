"""``nnreg_verify_dataset``: whether a dataset holds what its dataset.json says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnreg.cli.common import EXIT_ERROR, Parser, run, workspace_of
from nnreg.progress import progress_bar


def parser() -> Parser:
    """Options of the command."""
    result = Parser(
        "nnreg_verify_dataset", "Read every file of a raw dataset and list all that contradicts its dataset.json. Exit code 2 if anything must be mended."
    )
    result.add_dataset()
    result.add_workspace()
    result.add_processes("cases")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> int:
    from nnreg.dataset import RawDataset, verify_dataset
    from nnreg.parallel import default_processes

    workspace = workspace_of(options)
    raw = RawDataset.open(workspace.raw_folder(options.dataset))
    report = verify_dataset(raw, processes=options.processes or default_processes(), on_progress=progress_bar("verify", quiet=options.quiet))
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.problems:
        print(f"{report.dataset}: {len(report.problems)} problem{'s' if len(report.problems) > 1 else ''} in {report.cases} cases", file=sys.stderr)
        return EXIT_ERROR
    pairs = f"; training pairs ({raw.spec.pairing}): {len(raw.pairs())}" if raw.spec.registers_pairs else ""
    print(f"{report.dataset}: {len(raw.cases)} training and {len(raw.test_cases)} test cases are sound{pairs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
