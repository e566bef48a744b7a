"""``nnreg_predict``: apply a trained model to new images; or register them pair by pair without one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, folder, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.cli.prediction import add_model_options, dataset_plans, trained_model
from nnreg.errors import ConfigurationError, PredictionError
from nnreg.progress import progress_bar
from nnreg.task import TASKS, imported, usable_tasks

if TYPE_CHECKING:
    from nnreg.planning.plans import Plans


def parser() -> Parser:
    """The command's options."""
    result, _ = _parser(lambda problem: print(f"nnreg_predict: {problem}", file=sys.stderr))
    return result


def _parser(say: Callable[[str], None] = lambda problem: None) -> tuple[Parser, dict[str, argparse._ArgumentGroup]]:
    result = Parser(
        "nnreg_predict",
        "Apply a trained model to new images. Registration: transforms for ITK, fields, warped images and labels on the native grids.\n"
        "Dense prediction: a label map per image, on its native grid.",
        _files,
    )
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="folder of images CASE_0000.ending")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="DIR", help="where FIXED__MOVING folders, or label maps, and prediction.json go")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset the model was trained on")
    result.add_argument(
        "-c",
        "--configuration",
        metavar="NAME",
        help="2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres, or optimise: no network, each pair by itself (default: what the plans recommend)",
    )
    add_model_options(result, "folds that are averaged (default: all trained ones)")
    result.add_argument("--no_pictures", action="store_true", help="draw no overview")
    result.add_argument("--continue_prediction", "--c", action="store_true", help="keep what is finished")
    result.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    result.add_no_report()
    result.add_quiet("--disable_progress_bar")
    result.add_workspace()
    return result, _groups(result, say)


def _groups(result: Parser, say: Callable[[str], None]) -> dict[str, argparse._ArgumentGroup]:
    """Options of each task; those of a damaged package are left out, and `say` told, so that models of the other tasks can be applied."""
    groups = {}
    for name, entry in usable_tasks(say):
        if entry.add_predict_options is None:
            continue
        try:
            add_options = imported(entry.add_predict_options)
        except ConfigurationError as error:
            say(str(error))
            continue
        groups[name] = result.add_argument_group(entry.title)
        add_options(groups[name])
    return groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _wanted(options: argparse.Namespace) -> tuple[Plans, str | None]:
    """Plans and configuration, where all options fit them."""
    if not options.dataset and not options.model_folder:
        raise PredictionError("-d or -m is needed: name the dataset the model was trained on, or the model folder.")
    plans = planned(options)
    _check_belonging(options, plans.task)
    return plans, options.configuration or (None if options.model_folder else plans.recommended)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    plans, configuration = _wanted(options)
    named = TASKS[plans.task].predict_files
    found = Files.of([options.input], [options.output]) if named is None else imported(named)(options, configuration)
    report = [] if options.no_report or not _native(options) else [Path(options.output) / "report.html"]
    return replace(found, writes=(*found.writes, *report))


def _work(options: argparse.Namespace) -> None:
    plans, configuration = _wanted(options)
    print(imported(TASKS[plans.task].predict_command)(options, configuration))
    if not options.no_report and _native(options):
        from nnreg.report import report_after

        report_after(
            options.output,
            print,
            workspace=workspace_of(options),
            labels=getattr(options, "labels", None),
            on_progress=progress_bar("report", quiet=options.quiet),
        )


def _native(options: argparse.Namespace) -> bool:
    """Whether results are laid out as nnReg's own tools read them."""
    return bool(getattr(options, "output_layout", "native") == "native")


def planned(options: argparse.Namespace) -> Plans:
    """Plans of the model, or of the dataset where they have yet to say which."""
    from nnreg.planning.plans import OPTIMISE

    if options.model_folder or options.configuration not in (None, OPTIMISE):
        return trained_model(options, options.configuration).folder.plans
    return dataset_plans(options)[0]


def _check_belonging(options: argparse.Namespace, task: str) -> None:
    """Refuse an option of another task, rather than leave it without effect."""
    for other, group in _parser()[1].items():
        for action in group._group_actions:
            if other != task and getattr(options, action.dest) != action.default:
                names = " or ".join(one.option_strings[0] for one in group._group_actions if one.dest == action.dest)
                raise ConfigurationError(f"{names}: belongs to the task {other}, not to {task}. Leave it out.")


if __name__ == "__main__":
    sys.exit(main())
