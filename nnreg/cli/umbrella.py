"""``nnreg``: every command under one name, as ``nnreg register`` for ``nnreg_register``; ``--version``; completion for shells."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg import __version__
from nnreg.cli import COMMANDS, command_name
from nnreg.cli.common import EXIT_ERROR
from nnreg.errors import did_you_mean

MODULES = {command_name(module): module for module in COMMANDS}
SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("DIR", "OUT", "FILE", "CSV", "FIXED", "MOVING", "TRANSFORM")  # what the options call a value that is a file or folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] == "--version":
        print(f"nnreg {__version__}")
        return 0
    if given[0] == "completion":
        return _completion(given[1:])
    if given[0] == "boutiques":
        return _boutiques(given[1:])
    name = given[0].removeprefix("nnreg_")
    if name not in MODULES:
        print(f"nnreg: command {given[0]!r} is unknown; {did_you_mean(name, MODULES)} See nnreg -h.", file=sys.stderr)
        return EXIT_ERROR
    result: int = importlib.import_module(f"nnreg.cli.{MODULES[name]}").main(given[1:])
    return result


def _help() -> str:
    width = max(map(len, MODULES))
    rows = [f"  {name.ljust(width)}  {COMMANDS[module]}" for name, module in MODULES.items()]
    return "\n".join(
        [
            "usage: nnreg COMMAND ...",
            "",
            "Self-configuring registration of medical images. nnreg COMMAND -h has the options; nnreg_COMMAND is the same.",
            "",
            *rows,
            f"  {'boutiques'.ljust(width)}  descriptors of all commands for niwrap, nipype and other wrappers: nnreg boutiques DIR",
            f"  {'completion'.ljust(width)}  completion of commands, options and files for {', '.join(SHELLS)}",
            "",
            "  --version  print the version",
        ]
    )


def _completion(arguments: Sequence[str]) -> int:
    """Print the completion script of a shell."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        example = "For bash: nnreg completion bash > ~/.local/share/bash-completion/completions/nnreg"
        print(f"nnreg: completion takes one of {', '.join(SHELLS)}. {example}", file=sys.stderr)
        return EXIT_ERROR
    import shtab

    print(shtab.complete(_whole_parser(), arguments[0]))
    return 0


def _boutiques(arguments: Sequence[str]) -> int:
    """Write the descriptors of all commands into a folder."""
    from nnreg.cli.boutiques import write_descriptors
    from nnreg.errors import NnRegError

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("nnreg: boutiques takes the folder that the descriptors go into: nnreg boutiques DIR", file=sys.stderr)
        return EXIT_ERROR
    try:
        paths = write_descriptors(Path(arguments[0]))
    except NnRegError as error:
        print(f"nnreg: {error}", file=sys.stderr)
        return EXIT_ERROR
    print(f"{len(paths)} descriptors written to {Path(arguments[0]).absolute()}")
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Every command as a subcommand of one parser, with files and folders where its options take them."""
    import shtab

    whole = argparse.ArgumentParser("nnreg")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    with contextlib.redirect_stderr(io.StringIO()):  # a damaged package is told when its command runs
        for name, module in MODULES.items():
            parser = importlib.import_module(f"nnreg.cli.{module}").parser()
            for action in parser._actions:
                if action.metavar in PATHS:
                    action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
            commands.add_parser(name, parents=[parser], add_help=False, help=COMMANDS[module])
    return whole


if __name__ == "__main__":
    sys.exit(main())
