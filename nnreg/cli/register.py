"""``nnreg_register``: register one pair of images, without training."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, aligned_columns, folder, loading, run
from nnreg.cli.dry_run import Files
from nnreg.cli.registration.prediction import LAYOUT_HELP, LAYOUTS, NATIVE
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar
from nnreg.run_log import tell
from nnreg.run_record import command_line

if TYPE_CHECKING:
    from nnreg.engine import Registration
    from nnreg.inference.registration.register import PairFiles

EXIT_NOT_REGISTERED = 3
EXIT_TERMINATED = 128 + signal.SIGTERM  # as shells have it
AGAIN = 0.5  # seconds, longer than clearing up takes
LINEAR_ONLY = "of the linear alignment"
NO_OVERLAP = "no overlap"


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_register", "Register one pair: linear alignment, global search, multi-resolution diffeomorphic refinement. Nothing is trained.", _files
    )
    result.add_argument("fixed", metavar="FIXED", help="image whose grid the result lies on; channels in several files: FILE,FILE")
    result.add_argument("moving", metavar="MOVING", help="image that is moved; any grid, orientation and format")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for transforms, warped image, measures and picture")
    for side in ("fixed", "moving"):
        result.add_argument(f"--{side}_mask", metavar="FILE", help=f"where the {side} image may be looked at (not 0)")
        result.add_argument(f"--{side}_labels", metavar="FILE", help=f"label map of the {side} image")
        result.add_argument(f"--{side}_points", metavar="CSV", help=f"landmarks of the {side} image: rows x,y,z of voxel indices, no header")
    result.add_argument("--measure_only", action="store_true", help="labels and landmarks of both sides measure the result, they do not guide it")
    result.add_argument(
        "--init", nargs="+", default=[], metavar="TRANSFORM", help="start from these instead of aligning, in the order of antsApplyTransforms -t"
    )
    result.add_argument("--preset", default="default", help=", ".join(PRESETS))
    result.add_argument("--similarity", default="auto", help=f"auto (chosen from the pair), {', '.join(similarity_names())}")
    result.add_argument("--alignment", default="affine", help=f"freest linear map that may be used: {', '.join(ALIGNMENTS)}")
    result.add_argument("--affine_only", action="store_true", help="stop after linear alignment")
    result.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="refine every level, or none, in both directions and go on from halfway between them (by default: all levels but the finest; with the preset "
        "fast none)",
    )
    result.add_argument("--radius", type=float, metavar="VOXELS", help="half the window of local correlation, 1 to 8 (default: the preset's, 2)")
    result.add_argument("--smoothness", type=float, default=1.0, metavar="FACTOR", help="0.25 to 4: more bends less (default: 1)")
    result.add_argument("--restrict", metavar="AXES", help="axes of the fixed grid along which the deformation may move: 1x1x0, or their names (x,y)")
    result.add_argument("--preserve", metavar="FILE", help="regions of the fixed image that keep their volume (not 0): each moves as a rigid body")
    result.add_argument("--landmark_weight", type=float, default=1.0, metavar="WEIGHT", help="of landmarks beside the images, 0 to 10 (default: 1)")
    result.add_argument(
        "--uncertainty", action="store_true", help="also write uncertainty.nii.gz: how far the map may be wrong, in mm (registers three times more)"
    )
    result.add_argument("--field", action="store_true", help="also write field.nii.gz: the whole map as displacement in mm on the fixed grid")
    result.add_argument(
        "-device", "--device", default="cpu", help="cpu, cuda or cuda:1: where levels are refined; alignment stays on the processor (default: cpu)"
    )
    result.add_argument("--report", action="store_true", help="also write report.html, as nnreg_report OUT does: it takes as long as a fast registration")
    result.add_argument("--output_layout", choices=LAYOUTS, default=NATIVE, help=LAYOUT_HELP)
    result.add_argument("--no_pictures", action="store_true", help="write no overview.png")
    result.add_accept_likely_failed("exit code 3")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    if arguments is None or command_line() is not None:
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, _terminated)
    return run(_work, parser(), arguments)


def _terminated(*_: object) -> None:
    """A batch system ends a job: the lock goes, and an empty folder that this command made.

    What is raised in the callback of a weak reference is lost, and importing runs many of them: it is raised again until the process ends.
    """
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    sys.exit(EXIT_TERMINATED)


def _pair(options: argparse.Namespace) -> PairFiles:
    from nnreg.inference.registration.register import PairFiles

    return PairFiles(
        fixed=options.fixed.split(","),
        moving=options.moving.split(","),
        fixed_mask=options.fixed_mask,
        moving_mask=options.moving_mask,
        fixed_labels=options.fixed_labels,
        moving_labels=options.moving_labels,
        fixed_points=options.fixed_points,
        moving_points=options.moving_points,
        initial=options.init,
        preserve=options.preserve,
    )


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.inference.registration.register import Wanted, written_names

    wanted = Wanted(field=options.field, uncertainty=options.uncertainty, picture=not options.no_pictures, report=options.report)
    names = written_names(_pair(options), wanted)
    if options.output_layout != NATIVE:
        return Files.of(_pair(options).all(), [Path(options.output)], "names by BIDS, for: " + ", ".join(names))
    return Files.of(_pair(options).all(), [Path(options.output) / name for name in names])


def _work(options: argparse.Namespace) -> int:
    with loading():
        from nnreg.engine import Constraints
        from nnreg.errors import ConfigurationError
        from nnreg.inference.registration.bids import register_as_bids
        from nnreg.inference.registration.register import register_files, unit_of_pair

    if options.report and options.output_layout != NATIVE:
        raise ConfigurationError("--report: is made of nnReg's own layout. Leave it out, or --output_layout bids.")
    left_out: list[str] = []
    constraints = Constraints(restrict=options.restrict, landmark_weight=options.landmark_weight)  # refused before anything is read
    files = _pair(options)
    register = register_files if options.output_layout == NATIVE else register_as_bids
    result = register(
        files,
        Path(options.output),
        preset=options.preset,
        similarity=options.similarity,
        alignment=options.alignment,
        affine_only=options.affine_only,
        symmetric=options.symmetric,
        radius=options.radius,
        smoothness=options.smoothness,
        device=options.device,
        guided=not options.measure_only,
        picture=not options.no_pictures,
        field=options.field,
        uncertainty=options.uncertainty,
        report=options.report,
        constraints=constraints,
        on_left_out=left_out.append,
        on_progress=progress_bar("registering", quiet=options.quiet),
    )
    for note in (*result.fixed.notes, *result.moving.notes):
        print(f"nnreg_register: {note}", file=sys.stderr)
    print(_report(result, Path(options.output), unit_of_pair(files, result)))
    for name, seconds in result.timings.items():
        tell("stage", stage=name, seconds=round(seconds, 3))
    tell("figures", **result.measures)
    if options.report:
        from nnreg.report import report_after

        report_after(options.output, print)
    code = 0
    if options.accept_likely_failed and not result.succeeded:
        print(f"nnreg_register: {_why_failed(result)}, and accepted.", file=sys.stderr)
    elif not result.succeeded:
        print(f"nnreg_register: {_why_failed(result)}; the transform in {options.output} is the best that was found, do not trust it.", file=sys.stderr)
        code = EXIT_NOT_REGISTERED
    for note in left_out:
        print(f"nnreg_register: {note}", file=sys.stderr)
        code = EXIT_NOT_REGISTERED
    return code


def _why_failed(result: Registration) -> str:
    if result.fell:
        return "the similarity fell below that of the start"
    return f"the registration likely failed (probability {result.failure_probability:.2f}: {'; '.join(result.failure.reasons)})"


def _report(result: Registration, output: Path, unit: str) -> str:
    decisions = [f"{decision.name}: {decision.value} ({decision.because})" for decision in result.decisions]
    seconds = f"{sum(result.timings.values()):.1f} s: " + ", ".join(f"{name} {spent:.1f}" for name, spent in result.timings.items())
    told = [line.replace(" mm", f" {unit}") for line in (*decisions, seconds)]  # the engine counts in the unit of the headers, whatever it is
    guides = result.guided_by
    warning = ["(guided): these labels or landmarks led the registration; do not report how near they came."] if guides else []
    where = f"correlation, folding and SDlogJ: {result.measures['measured_over']}"
    gained = [] if result.rose or result.fell else ["nothing was gained: the similarity is that of the start"]
    table = aligned_columns(_table(result, unit, guides))
    return "\n".join([*told[:-1], *table, *warning, where, *gained, told[-1], f"written to {output.absolute()}"])


def _table(result: Registration, unit: str, guides: Sequence[str]) -> list[tuple[str, ...]]:
    """What was measured where the headers put the images, after linear alignment, and in the end."""
    measures, similarity = result.measures, result.measures["similarity"]
    mark = {name: " (guided)" if name in guides else "" for name in ("labels", "points")}
    rows = [("", "header", "aligned", "after"), _row("correlation", measures["ncc"], ".4f", NO_OVERLAP)]
    if result.similarity != LINEAR_ONLY:
        rows.append(_row(f"similarity ({result.similarity})", similarity, ".4f", NO_OVERLAP))
    if "dice" in measures:
        rows.append(_row(f"Dice, mean{mark['labels']}", {stage: found["mean"] for stage, found in measures["dice"].items()}, ".4f"))
    if "tre_mm" in measures:
        rows.append(_row(f"landmark error, median {unit}{mark['points']}", {stage: found["median"] for stage, found in measures["tre_mm"].items()}, ".3g"))
    if "sdlogj" in measures:
        rows.append(_row("folding %", {"after": measures["folding_percent"]}, ".4f"))
        rows.append(_row("SDlogJ", {"after": measures["sdlogj"]}, ".3f"))
    rows.append(_row("probability of failure", {"after": result.failure_probability}, ".3f"))
    return rows


def _row(name: str, values: Mapping[str, float], form: str, missing: str = "-") -> tuple[str, ...]:
    figures = (values.get(stage) for stage in ("header", "aligned", "after"))
    return name, *("-" if value is None else missing if math.isnan(value) else f"{value:{form}}" for value in figures)


if __name__ == "__main__":
    sys.exit(main())
