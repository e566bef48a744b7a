"""``nnreg_longitudinal``: visits of subjects, registered without bias to one of them, volumes over time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, folder, print_table, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.groups.longitudinal import Subject

EXIT_SKIPPED = 3
MOST_ROWS = 12


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_longitudinal",
        "Register the visits of each subject without bias to one of them: Jacobian maps, change of volume of each label with its error.",
        _files,
    )
    result.add_argument("-i", "--input", metavar="DIR_OR_CSV", help="folder of SUBJECT_VISIT images, or a .csv with subject, time, image (visit, labels, mask)")
    result.add_argument("-d", "--dataset", metavar="ID", help="instead of -i: a raw dataset whose pairing is groups")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for a folder of each subject; what is there already is kept")
    result.add_argument("--labels", metavar="DIR", help="label maps CASE.ending (default: labelsTr beside imagesTr)")
    result.add_argument("--masks", metavar="DIR", help="masks CASE.ending (default: masksTr beside imagesTr)")
    result.add_argument("--times", metavar="CSV", help="columns case, time: in any unit (default: visits in the order of their names)")
    result.add_argument(
        "--alignment", default="rigid", help=f"linear maps to the middle: {', '.join(ALIGNMENTS)}; volumes count their scaling (default: rigid)"
    )
    result.add_argument("--preset", default="default", help=", ".join(PRESETS))
    result.add_argument("--similarity", default="auto", help=f"auto (chosen from each pair), {', '.join(similarity_names())}")
    result.add_argument("--smoothness", type=float, default=1.0, metavar="FACTOR", help="0.25 to 4: more takes less noise and less detail (default: 1)")
    result.add_argument("--stop", action="store_true", help="stop at the first subject or visit that cannot be used (default: skip it and say so)")
    result.add_processes("pairs")
    result.add_workspace()
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.groups.longitudinal.results import written_names

    subjects, output = _subjects(options), Path(options.output)
    names = [f"{subject.name}/{name}" for subject in subjects if len(subject.visits) > 1 for name in written_names(subject)]
    notes = [f"{subject.name}: {subject.note}" for subject in subjects if subject.note is not None]
    notes += [f"{subject.name}: has one visit, so it would be skipped" for subject in subjects if len(subject.visits) == 1]
    listed = [options.times, options.input if str(options.input).lower().endswith(".csv") else None]
    return Files.of(
        [*listed, *(path for subject in subjects for path in subject.files())], [output / "summary.json", *(output / name for name in names)], *notes
    )


def _work(options: argparse.Namespace) -> int:
    from nnreg.groups.longitudinal import Settings, follow_subjects
    from nnreg.parallel import default_processes

    settings = Settings(options.alignment, options.preset, options.similarity, options.smoothness)  # refused before anything is read
    summary = follow_subjects(
        _subjects(options),
        options.output,
        settings,
        processes=options.processes or default_processes(),
        stop=options.stop,
        on_note=lambda note: print(f"nnreg_longitudinal: {note}", file=sys.stderr),
        on_progress=progress_bar("registering", quiet=options.quiet),
    )
    for name, report in summary.done.items():
        first, *_, last = report["visits"]
        print(f"{name}: {len(report['visits'])} visits, change from {first['visit']} to {last['visit']}")
        print_table([("label", "volume", "change %", "error %", "told if alone %"), *map(_row, last["labels"][:MOST_ROWS])])
    print(f"written to {Path(options.output).absolute()}")
    return EXIT_SKIPPED if summary.skipped or any(report["likely_failed"] for report in summary.done.values()) else 0


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    alone = "-" if each["told_alone"] is None else f"{100 * each['told_alone']:.0f}"
    return str(each["label"] or "all"), f"{each['volume']:.6g}", f"{each['change']:+.3f}", f"{each['error']:.3f}", alone


def _subjects(options: argparse.Namespace) -> list[Subject]:
    from nnreg.dataset import RawDataset
    from nnreg.errors import ConfigurationError
    from nnreg.groups.longitudinal import subjects_in_folder, subjects_in_table, subjects_of_dataset

    if (options.input is None) == (options.dataset is None):
        raise ConfigurationError("name either images with -i or a raw dataset with -d.")
    beside = [name for name in ("labels", "masks", "times") if getattr(options, name) is not None]
    if options.dataset is not None:
        if set(beside) - {"times"}:
            raise ConfigurationError(f"--{beside[0]} is for -i: a raw dataset has its own.")
        return subjects_of_dataset(RawDataset.open(workspace_of(options).raw_folder(options.dataset)), times=options.times)
    if Path(options.input).suffix.lower() == ".csv":
        if beside:
            raise ConfigurationError(f"--{beside[0]} is for a folder: a table has columns for it.")
        return subjects_in_table(options.input)
    return subjects_in_folder(options.input, labels=options.labels, masks=options.masks, times=options.times)


if __name__ == "__main__":
    sys.exit(main())
