"""Options that the planning and preprocessing commands share, and the tables of the task at hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar
from nnreg.task import DEFAULT_PLANNER, DEFAULT_TASK, TASKS, imported

if TYPE_CHECKING:
    from nnreg.planning.plans import Plans
    from nnreg.workspace import Workspace

DEFAULT_PLANS = "nnRegPlans"
WIDEST_VALUE = 40  # that tables show


def add_datasets(parser: Parser) -> None:
    """``-d``, one or several."""
    parser.add_argument("-d", "--dataset", required=True, nargs="+", metavar="ID", help="dataset ids or folder names: 1, 001 or Dataset001_Name")


def add_processes(parser: Parser) -> None:
    """``-np``, ``--dask`` and ``-q``."""
    parser.add_processes("cases")
    parser.add_quiet("--no_pbar")


def add_task(parser: Parser) -> None:
    """``--task``."""
    parser.add_argument("--task", metavar="NAME", help=f"{' or '.join(TASKS)} (default: what dataset.json says, else {DEFAULT_TASK})")


def say_assumed_task(workspace: Workspace, dataset: int | str, asked: str | None) -> None:
    """Which task a dataset is taken for, where nobody said."""
    from nnreg.preprocessing.datasets import assumed_task

    assumed = assumed_task(workspace, dataset, asked)
    if assumed is not None:
        print(assumed)


def add_planning(parser: Parser) -> None:
    """What changes a plan."""
    add_task(parser)
    parser.add_argument(
        "-pl", "--planner", default=DEFAULT_PLANNER, metavar="NAME", help="planner; for dense_prediction nnU-Net's, such as nnUNetPlannerResEncL"
    )
    parser.add_argument("-gpu_memory_target", type=float, metavar="GB", help="memory that a training step may take (default: the planner's, mostly 8)")
    parser.add_argument("-overwrite_target_spacing", type=float, nargs="+", metavar="MM", help="working spacing, one number per array axis (z y x)")
    parser.add_argument(
        "-device", default="auto", metavar="NAME", help="where training would run: auto (looks for a GPU here), cpu or cuda; decides what is recommended"
    )
    parser.add_argument(
        "--time_budget", metavar="TIME", help="what training on this machine's processor may take, with its validation: 90s, 30m, 2h (registration)"
    )
    parser.add_argument("--explain", action="store_true", help="print every decision with its value and its reason")
    parser.add_argument("-overwrite_plans_name", metavar="NAME", help=f"name of the plans file (default: the planner's, mostly {DEFAULT_PLANS})")


def planning(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_planning` read, as arguments of the library; what was not given is left to the planner."""
    from nnreg.planning.registration.duration import parse_duration

    given = {
        "gpu_memory_target": options.gpu_memory_target,
        "overwrite_target_spacing": options.overwrite_target_spacing,
        "plans_name": options.overwrite_plans_name,
        "time_budget": None if options.time_budget is None else parse_duration(options.time_budget),
        "device": None if options.device == "auto" else options.device,
    }
    return {"task": options.task, "planner": options.planner, "on_note": print} | {name: value for name, value in given.items() if value is not None}


def add_pairs(parser: Parser) -> None:
    """How much the pairs may cost."""
    parser.add_argument(
        "--pair_budget",
        type=float,
        metavar="SECONDS",
        help="about the processor time for registering a sample of the pairs, counted by their size (default: 60; three at least; 0: none)",
    )


def pair_options(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_pairs` read, as arguments of the library."""
    return {} if options.pair_budget is None else {"pair_budget": options.pair_budget}


def add_configurations(parser: Parser) -> None:
    """``-c``."""
    parser.add_argument("-c", "--configurations", nargs="+", default=[], metavar="NAME", help="configurations to preprocess (default: all of the plans)")


def positive(text: str) -> int:
    """A number of processes."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def progress(options: argparse.Namespace) -> Callable[[str], Callable[[int, int, str], None]]:
    """Bars for the steps of the library functions."""
    return lambda step: progress_bar(step, quiet=options.quiet)


def files(options: argparse.Namespace, makes: Callable[[Path], list[Path]], reads: Callable[[Path, Path], list[Path]]) -> Files:
    """What would be read and written for every dataset named.

    Parameters
    ----------
    makes
        From the preprocessed folder of a dataset to what is written.
    reads
        From raw and preprocessed folder to what is read.
    """
    from nnreg.dataset import RawDataset

    workspace, read, written = workspace_of(options), list[Path](), list[Path]()
    for dataset in options.dataset:
        raw = RawDataset.open(workspace.raw_folder(dataset))
        folder = preprocessed_folder(workspace, dataset)
        read += [raw.folder / "dataset.json", *reads(raw.folder, folder)]
        read += [path for case in raw.cases for path in (*raw.image_paths(case), raw.label_path(case)) if path is not None]
        written += makes(folder)
    return Files.of(read, written)


def fingerprint_name(options: argparse.Namespace, dataset: str) -> str:
    """Name of the file of a dataset's fingerprint, by its task."""
    from nnreg.preprocessing.datasets import task_of

    return str(imported(TASKS[task_of(workspace_of(options), dataset, options.task)].fingerprint_file))


def print_fingerprint(workspace: Workspace, dataset: str, task: str | None) -> None:
    """What was measured, in a few lines."""
    from nnreg.preprocessing.datasets import task_of

    entry = TASKS[task_of(workspace, dataset, task)]
    path = preprocessed_folder(workspace, dataset) / imported(entry.fingerprint_file)
    imported(entry.print_fingerprint)(imported(entry.fingerprint).read(path))
    print(f"fingerprint: {path}")


def print_plans(plans: Plans, folder: Path) -> None:
    """What was decided, in a short table, and why."""
    imported(TASKS[plans.task].print_plans)(plans)
    print(f"plans: {folder / f'{plans.plans_name}.json'}")


def print_explanation(plans: Plans) -> None:
    """Every decision: value and reason."""
    from nnreg.planning.explain import explain

    rows = explain(plans)
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, value, because in rows:
        print(f"{name.ljust(names)}  {value.ljust(min(values, WIDEST_VALUE))}  {because}")


def preprocessed_folder(workspace: Workspace, dataset: str) -> Path:
    """Where plans and arrays of a dataset lie."""
    return workspace.preprocessed / workspace.dataset_name(dataset)


def print_arrays(task: str, folders: dict[str, Path]) -> None:
    """Where the arrays lie."""
    for name, folder in folders.items():
        imported(TASKS[task].print_arrays)(name, folder)
