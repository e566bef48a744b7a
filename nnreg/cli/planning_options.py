"""Options and tables that the planning and preprocessing commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, progress_bar

if TYPE_CHECKING:
    from nnreg.planning.plans import Plans
    from nnreg.planning.registration.fingerprint import Fingerprint
    from nnreg.planning.registration.pair_fingerprint import PairFingerprint, PairMeasurement, Stages
    from nnreg.workspace import Workspace

DEFAULT_PLANS = "nnRegPlans"
WIDEST_VALUE, MOST_CHANNELS = 40, 8  # that tables show


def add_datasets(parser: Parser) -> None:
    """``-d``, one or several."""
    parser.add_argument("-d", "--dataset", required=True, nargs="+", metavar="ID", help="dataset ids or folder names: 1, 001 or Dataset001_Name")


def add_processes(parser: Parser) -> None:
    """``-np`` and ``-q``."""
    parser.add_argument("-np", "--processes", type=positive, metavar="N", help="worker processes (default: nnReg_n_proc, else the cores, at most 8)")
    parser.add_quiet("--no_pbar")


def add_task(parser: Parser) -> None:
    """``--task``."""
    parser.add_argument("--task", metavar="NAME", help="registration or dense_prediction (default: what dataset.json says, else registration)")


def say_assumed_task(workspace: Workspace, dataset: int | str, asked: str | None) -> None:
    """Which task a dataset is taken for, where nobody said."""
    from nnreg.preprocessing.roads import assumed_task

    assumed = assumed_task(workspace, dataset, asked)
    if assumed is not None:
        print(assumed)


def add_planning(parser: Parser) -> None:
    """What changes a plan."""
    add_task(parser)
    parser.add_argument("-pl", "--planner", default="default", metavar="NAME", help="planner; for dense_prediction nnU-Net's, such as nnUNetPlannerResEncL")
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
        "--pair_budget", type=float, metavar="SECONDS", help="processor time for registering a sample of the pairs (default: 60; three at least; 0: none)"
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


def print_fingerprint(workspace: Workspace, dataset: str, task: str | None) -> None:
    """What was measured, in a few lines."""
    from nnreg.preprocessing.roads import task_of

    file_name, kind, lines = _tables()[task_of(workspace, dataset, task)][:3]
    path = preprocessed_folder(workspace, dataset) / file_name
    lines(kind.read(path))
    print(f"fingerprint: {path}")


def _tables() -> dict[str, tuple[Any, ...]]:
    """Per task: name and class of the fingerprint, what prints it, what prints plans, what prints arrays."""
    from nnreg.cli import dense_tables
    from nnreg.planning.dense_prediction import fingerprint as dense
    from nnreg.planning.registration import fingerprint

    return {
        "registration": (fingerprint.FILE_NAME, fingerprint.Fingerprint, _fingerprint, _plans, _arrays),
        "dense_prediction": (
            dense.FILE_NAME,
            dense.DenseFingerprint,
            dense_tables.print_fingerprint,
            dense_tables.print_plans,
            dense_tables.print_arrays,
        ),
    }


def _fingerprint(fingerprint: Fingerprint) -> None:
    images = fingerprint.images.values()
    spacings, shapes = fingerprint.spacings(), fingerprint.shapes()
    print(
        f"{fingerprint.dataset_name}: {len(images)} images of {fingerprint.subjects} subjects, {fingerprint.pair_count} pairs, pairing {fingerprint.pairing!r}"
    )
    print(f"  shape    {_range(shapes)} voxels, axes run {fingerprint.orientation} (x first)")
    print(f"  spacing  {_range(spacings)} mm")
    found = sum(image.foreground_found for image in images)
    fraction = sum(image.foreground_fraction for image in images) / len(images)
    print(f"  foreground found in {found} of {len(images)}, {fraction:.0%} of the voxels on average")
    for name, channel in list(zip(fingerprint.channel_names, fingerprint.intensities, strict=True))[:MOST_CHANNELS]:
        robust = f"{channel.percentile_00_5:.4g} to {channel.percentile_99_5:.4g}, median {channel.median:.4g}"
        print(f"  {name}: {robust} on the foreground, background {channel.background:.4g}")
    if len(fingerprint.intensities) > MOST_CHANNELS:
        print(f"  and {len(fingerprint.intensities) - MOST_CHANNELS} more channels")
    if fingerprint.pairs is not None:
        _print_pairs(fingerprint.pairs)


def _print_pairs(pairs: PairFingerprint) -> None:
    """What the pilot registrations measured, medians."""
    seconds = sum(pair.seconds for pair in pairs.all)
    print(f"  pairs: {pairs.count} registered quickly in {seconds:.0f} s" + (f", {len(pairs.failed)} could not be" if pairs.failed else ""))
    for failure in pairs.failed[:1]:
        print(f"    {failure.fixed} and {failure.moving}: {failure.reason}")
    if not pairs.count:
        return
    p50, p99 = pairs.median(lambda pair: pair.displacement_mm.p50), pairs.median(lambda pair: pair.displacement_mm.p99)
    print(
        f"    linear alignment moves the body by {pairs.median(lambda pair: pair.alignment_mm):.1f} mm, then {p50:.1f} mm (50 %) to {p99:.1f} mm (99 %) remain"
    )
    for name, value, form in (
        ("local correlation", lambda pair: pair.similarity["lncc"], ".2f"),
        ("Dice", lambda pair: pair.dice, ".3f"),
        ("keypoints mm", lambda pair: pair.keypoint_mm, ".2f"),
    ):
        stages = [pairs.median(_stage(value, stage)) for stage in ("before", "aligned", "after")]
        if all(stage is not None for stage in stages):
            print(f"    {name}: {stages[0]:{form}} by the headers, {stages[1]:{form}} aligned, {stages[2]:{form}} after")


def _stage(value: Callable[[PairMeasurement], Stages | None], stage: str) -> Callable[[PairMeasurement], float | None]:
    return lambda pair: getattr(value(pair), stage, None)


def _range(values: object) -> str:
    import numpy as np

    array = np.asarray(values)
    low, high = array.min(axis=0), array.max(axis=0)
    return " x ".join(f"{a:.4g}" if np.isclose(a, b) else f"{a:.4g}-{b:.4g}" for a, b in zip(low, high, strict=True))


def print_plans(plans: Plans, folder: Path) -> None:
    """What was decided, in a short table, and why."""
    _tables()[plans.task][3](plans)
    print(f"plans: {folder / f'{plans.plans_name}.json'}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plans(plans: Plans) -> None:
    from nnreg.planning.decision import text

    print(
        f"{plans.dataset_name}: pre-alignment {plans.pre_alignment}" + (f" to {plans.reference_case}" if plans.reference_case else ", a frame for each group")
    )
    print(f"  because {plans.because['pre_alignment']}")
    rows = [("configuration", "spacing mm", "grid", "features", "field", "batch", "GB")]
    for name, configuration in plans.configurations.items():
        network = configuration.architecture
        rows.append(
            (
                name + (" *" if name == plans.recommended else ""),
                text(configuration.spacing),
                text(configuration.grid),
                " ".join(map(str, network.features_per_stage)),
                f"1/{network.kwargs.get('field_resolution', 1)}",
                str(configuration.training.batch_size),
                f"{configuration.memory_gb:.2f}",
            )
        )
    print_table(rows)
    engine = plans.optimisation
    print(f"  optimise{' *' if plans.recommended == 'optimise' else ''}: no network; {engine.preset}, {engine.similarity}, alignment {engine.alignment}")
    print(f"  * recommended: {plans.because['recommended']}")
    for name, configuration in plans.configurations.items():
        print(f"  {name}: {configuration.because['grid']}; {configuration.because['spacing']}")
        if configuration.training_seconds is not None:
            print(f"  {name}: {configuration.because['training.epochs']}")
    print(f"next: {next_command(plans)}")


def next_command(plans: Plans) -> str:
    """What the plans recommend, as it is typed."""
    number = plans.dataset_name[7:10]
    if plans.recommended not in plans.configurations:
        return f"nnreg_predict -d {number} -c {plans.recommended} -i IMAGES -o OUT"
    return f"nnreg_train {number} {plans.recommended} 0"


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
        _tables()[task][4](name, folder)


def _arrays(name: str, folder: Path) -> None:
    """How well the cases were brought together."""
    from nnreg.preprocessing.registration.storage import PreprocessedDataset

    data = PreprocessedDataset(folder)
    kinds: dict[str, int] = {}
    inside = {}
    for case in data.cases:
        alignment = data.properties(case).alignment
        kinds[alignment["kind"]] = kinds.get(alignment["kind"], 0) + 1
        inside[case] = alignment["foreground_inside"]
    worst = min(inside, key=lambda case: inside[case])
    used = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{name}: {len(inside)} cases ({used}), at least {inside[worst]:.1%} of each foreground on the grid ({worst}): {folder}")
