"""What every command shares: options, progress, and errors as one line with exit code 2."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import gc
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nnreg import __version__
from nnreg.cli.dry_run import FORMS, Would, show
from nnreg.errors import NnRegError
from nnreg.files import no_empty_folders
from nnreg.parallel import is_out_of_memory
from nnreg.progress import end_bars
from nnreg.run_log import logged, tell
from nnreg.run_record import command_line

if TYPE_CHECKING:
    from nnreg.workspace import Workspace

EXIT_ERROR = 2
# of images, transforms, tables and summaries: what the imports of the readers would tell takes a second
FILE_ENDINGS = (
    *(".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npz", ".npy", ".zarr"),
    *(".h5", ".hdf5", ".tfm", ".mat", ".csv", ".json", ".txt", ".pth"),
)
EMPTY = "found an empty name, as of a variable of the shell that is not set"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser with the options of every command: ``--debug``, ``--version``, ``-v``, ``--json_log``; with `would` also ``--dry_run``."""

    def __init__(self, prog: str, description: str, would: Would | None = None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.would = would
        self.add_argument("--debug", action="store_true", help="show the full traceback of an error")
        self.add_argument("--version", action="version", version=f"{prog} {__version__}", help="print the version")
        self.add_argument("-v", "--verbose", action="count", default=0, help="tell stages and figures on stderr; -vv every step")
        self.add_argument("--json_log", metavar="FILE", help="add to this file one JSON object a line: stages, seconds, figures, errors")
        if would is not None:
            self.add_argument("--dry_run", nargs="?", const=FORMS[0], choices=FORMS, help="only print what would be read and written; json: for programs")

    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's page of usage."""
        placed = [action for action in self._actions if not action.option_strings]
        named = re.search(r"(?:ambiguous option|unrecognized arguments): --([a-z_]+)", message)
        if named and named[1] in [action.dest for action in placed]:
            order = " ".join(str(action.metavar or action.dest) for action in placed)
            self.exit(EXIT_ERROR, f"{self.prog}: there is no --{named[1]}: write {self.prog} {order} ..., values without names. See {self.prog} -h.\n")
        unknown = message.removeprefix("unrecognized arguments: ")
        close = difflib.get_close_matches(unknown.split()[0], self._option_string_actions, n=1) if unknown != message else []
        remedy = f"Did you mean {close[0]}?" if close else f"See {self.prog} -h."
        self.exit(EXIT_ERROR, f"{self.prog}: {message}. {remedy}\n")

    def add_workspace(self) -> None:
        """``--workspace``."""
        self.add_argument(
            "--workspace",
            type=folder,
            metavar="DIR",
            help="folder with nnReg_raw, nnReg_preprocessed and nnReg_results (default: the environment variables of these names, else ./nnReg_workspace)",
        )

    def add_quiet(self, *aliases: str) -> None:
        """``-q``, and what nnU-Net calls it."""
        self.add_argument("-q", "--quiet", *aliases, action="store_true", help="no progress bar")

    def add_accept_likely_failed(self, instead: str) -> None:
        """``--accept_likely_failed``."""
        self.add_argument(
            "--accept_likely_failed", action="store_true", help=f"use registrations that likely failed all the same: the alarm is false (default: {instead})"
        )

    def add_no_report(self) -> None:
        """``--no_report``."""
        self.add_argument("--no_report", action="store_true", help="write no report.html at the end")

    def add_processes(self, what: str) -> None:
        """``-np`` and ``--dask``."""
        add_processes(self, what)

    def add_dataset(self) -> None:
        """``-d``."""
        self.add_argument("-d", "--dataset", required=True, metavar="ID", help="dataset id or folder name: 1, 001 or Dataset001_Name")


def add_processes(options: argparse._ActionsContainer, what: str, default: str = "nnReg_n_proc, else the cores, at most 8") -> None:
    """``-np`` and ``--dask``."""
    options.add_argument("-np", "--processes", type=positive, metavar="N", help=f"{what} at a time (default: {default})")
    options.add_argument("--dask", metavar="ADDRESS", help=f"{what} on the workers of this Dask scheduler (tcp://HOST:8786), or of `local` ones")


def folder(text: str) -> str:
    """The name of a folder, there or not: a name that only a file would have is refused, and none."""
    if not text:
        raise argparse.ArgumentTypeError(EMPTY)
    if text.lower().endswith(FILE_ENDINGS) and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"found {text!r}, the name of a file, expected a folder")
    return text


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 1 or more")
    return int(text)


def duration(text: str) -> float:
    """Seconds.

    Examples
    --------
    >>> duration("90s"), duration("1.5m"), duration("2h"), duration("90")
    (90.0, 90.0, 7200.0, 90.0)
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time such as 90s, 30m or 2h") from error
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time above 0")
    return seconds


def workspace_of(options: argparse.Namespace) -> Workspace:
    """The workspace the options or the environment name."""
    from nnreg.workspace import Workspace

    return Workspace.resolve(options.workspace)


def run(work: Callable[[argparse.Namespace], int | None], parser: Parser, arguments: Sequence[str] | None) -> int:
    """Parse, work, and turn errors into one line on stderr.

    Returns
    -------
    int
        The exit code: what `work` returned (None is 0), 2 for an error, 130 for Ctrl-C.
    """
    options = parser.parse_args(_unambiguous(sys.argv[1:] if arguments is None else arguments))
    if getattr(options, "output", None) == "":  # a path of no name is the folder one stands in
        parser.error(f"argument -o/--output: {EMPTY}")
    if command_line() is not None:
        atexit.register(gc.freeze)  # a process that ends has no use for memory: looking for garbage in all modules once more takes 0.2 s
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(logged(parser.prog, options.json_log and Path(options.json_log), options.verbose))
        except NnRegError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return EXIT_ERROR
        code = _run(work, parser, options)
        log.tell("end", {"exit_code": code})
        return code


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load modules in the block without looking for garbage: what they leave stays, and going through it again and again takes a sixth of the time.

    In a command what was loaded is not looked at later either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if command_line() is not None:
            gc.freeze()
        if enabled:
            gc.enable()


def _unambiguous(arguments: Sequence[str]) -> list[str]:
    """``--dry_run`` before a file takes no value: what follows it is a form only where it is called like one."""
    following = [*arguments[1:], ""]
    return [f"{one}={FORMS[0]}" if one == "--dry_run" and after not in FORMS else one for one, after in zip(arguments, following)]


def _run(work: Callable[[argparse.Namespace], int | None], parser: Parser, options: argparse.Namespace) -> int:
    try:
        if parser.would is not None and options.dry_run:
            show(parser.would(options), options.dry_run)
            return 0
        with no_empty_folders(), _workers(options):
            return work(options) or 0
    except NnRegError as error:
        end_bars()
        if options.debug:
            raise
        # one line: a worker's traceback is shown by --debug
        message = str(error).splitlines()[0]
        print(f"{parser.prog}: {message}", file=sys.stderr)
        tell("error", message=message)
        return EXIT_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _ended(parser, options, error, f"{where}{error.strerror or _first_line(error)}. Check the disk, the folder and its permissions.")
    except Exception as error:
        if is_out_of_memory(error):
            fewer = "fewer processes (-np 1), " if "-np" in parser.format_usage() else ""
            return _ended(parser, options, error, f"memory is not enough. Use {fewer}smaller images, or free memory.")
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {_first_line(error)} ({Path(place.filename).name}, line {place.lineno})"
        return _ended(parser, options, error, f"{told}. A file may be damaged; if none is, this is a fault of nnReg: report it with what --debug shows.")
    except KeyboardInterrupt:
        end_bars()
        print(f"{parser.prog}: interrupted; what was finished is kept, run the command again to go on.", file=sys.stderr)
        tell("error", message="interrupted")
        return EXIT_INTERRUPTED


def _workers(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """The workers of ``--dask``, where a command has that and it was given."""
    address = getattr(options, "dask", None)
    if address is None:
        return contextlib.nullcontext()
    from nnreg.cluster import on_cluster
    from nnreg.parallel import default_processes

    return on_cluster(address, options.processes or default_processes())


def _ended(parser: Parser, options: argparse.Namespace, error: Exception, message: str) -> int:
    """What no part of the package has a word for, in one line too."""
    end_bars()
    if options.debug:
        raise error
    print(f"{parser.prog}: {message}", file=sys.stderr)
    return EXIT_ERROR


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns."""
    print("\n".join(aligned_columns(rows)))


def aligned_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line per row, its cells below those of the row before."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
