"""``nnreg_install_model``: a shared model into the results of this workspace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_install_model", "Put a model that nnreg_export_model wrote into the results folder. Checksums are compared; nothing in the file is run.", _files
    )
    result.add_argument("model", metavar="FILE", help="MODEL.zip")
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    return Files.of([options.model], [workspace_of(options).results], "which folder of the results it is, the file says")


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.sharing import CARD, install_model

    folder = install_model(Path(options.model), workspace_of(options))
    print((folder / CARD).read_text(encoding="utf-8").rstrip())
    print(f"installed: {folder}")
    print(f"next: nnreg_predict -m {folder} -i IMAGES -o OUT")


if __name__ == "__main__":
    sys.exit(main())
